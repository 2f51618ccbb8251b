"""The coordinator: keeps a federation's rounds and weights in a database, sees no data."""
