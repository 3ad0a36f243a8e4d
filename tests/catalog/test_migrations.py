"""The migrations make exactly the schema of `tables`, on both databases, however often they are run."""

import threading

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from breezeblock.catalog import migrate, tables
from breezeblock.catalog.database import Database
from breezeblock.errors import ConfigError


def test_they_make_the_tables(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"include_name": lambda name, kind, _: kind != "table" or name in tables.metadata.tables},
        )
        assert compare_metadata(context, tables.metadata) == []
        types = connection.execute(sa.select(tables.volume_types)).all()
    assert [(row.name, row.is_public, row.extra_specs) for row in types] == [("__DEFAULT__", True, "{}")]


def test_again_changes_nothing(database: Database) -> None:
    migrate.upgrade(database)
    migrate.require_current(database)


def test_two_processes_at_once(empty_database: Database) -> None:
    failures: list[BaseException] = []

    def upgrade() -> None:
        try:
            migrate.upgrade(Database(empty_database.url.render_as_string(hide_password=False)))
        except BaseException as error:  # noqa: BLE001 - reported below
            failures.append(error)

    threads = [threading.Thread(target=upgrade) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    migrate.require_current(empty_database)


def test_an_old_schema_is_refused(empty_database: Database) -> None:
    with pytest.raises(ConfigError, match="db upgrade"):
        migrate.require_current(empty_database)


@pytest.mark.parametrize("url", ["nonsense", "mysql://x/y", "sqlite:///relative.db", "sqlite://"])
def test_a_bad_address_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigError, match=r"database\.url"):
        Database(url)


def test_a_server_that_is_not_there() -> None:
    database = Database("postgresql+psycopg://me:hunter2@127.0.0.1:1/nothing")
    with pytest.raises(Exception, match="did not answer") as failure:
        migrate.require_current(database)
    assert "hunter2" not in str(failure.value)
