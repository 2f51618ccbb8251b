"""Alembic migrations of the coordinator's database, shipped with the package."""
