"""The schema's history, one file per step; alembic runs them (storage/migrate.py)."""
