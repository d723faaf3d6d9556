"""Follows a PostgreSQL database's changes into another database: see docs/replications.md."""
