"""Alembic scripts, applied by `catalog.migrate`."""
