"""Bringing a database's schema up to date, with Alembic, on SQLite and PostgreSQL alike."""

from pathlib import Path

from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from breezeblock.catalog.database import Database
from breezeblock.errors import ConfigError

SCRIPTS = Path(__file__).parent / "migrations"


def upgrade(database: Database) -> None:
    """Apply every migration that is missing; safe to repeat, and safe for two processes at once."""
    config = _config()
    with database.write() as connection:
        if database.dialect == "sqlite":
            # The driver opens a transaction only before rows change: take the write lock for the schema too.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7205759403792794)")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def require_current(database: Database) -> None:
    """Raise ConfigError unless the schema is the one this version was written for."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    with database.read() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    if found != head:
        raise ConfigError(
            f"the database's schema is at revision {found}, this version needs {head}",
            remedy="Run 'breezeblock db upgrade' (with the newest version installed).",
        )


def _config() -> AlembicConfig:
    config = AlembicConfig()
    config.set_main_option("script_location", str(SCRIPTS))
    return config
