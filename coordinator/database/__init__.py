"""The engine, its transactions and deadlines, its schema, and its backups."""
