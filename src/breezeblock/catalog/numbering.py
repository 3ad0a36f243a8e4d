"""Operations' ids, which keep the order in which the transactions that promise them commit.

SQLite has one writer at a time; PostgreSQL is made to, by a lock that lasts until the commit. It is taken
before any lock on a row, or two transactions could wait for each other.
"""

import sqlalchemy as sa

from breezeblock.catalog.clock import ordered_id

_LOCK = 7205759403792795


def take_turn(connection: sa.Connection) -> None:
    """Let what others number come after this transaction: the first thing in one that may number later."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))


def number(connection: sa.Connection) -> str:
    """Return a new operation's id, first thing in its transaction or after `take_turn`."""
    take_turn(connection)
    return ordered_id()
