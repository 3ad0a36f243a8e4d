"""Changing volume, snapshot and attachment rows: compare-and-set by status and by owning operation.

A row whose `op_id` is set belongs to that operation until its finish clears it, so a finish that is
repeated after a crash, or comes from a worker that was replaced, changes nothing.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

import sqlalchemy as sa

from breezeblock.catalog import tables
from breezeblock.catalog.clock import now

Row = sa.Row[Any]


@cache
def _by_id(table: sa.Table) -> sa.Select[Any]:
    return sa.select(table).where(table.c.id == sa.bindparam("wanted"))


def one(connection: sa.Connection, table: sa.Table, id_: str) -> Row | None:
    """Return the row with this id."""
    return connection.execute(_by_id(table), {"wanted": id_}).one_or_none()


def insert(connection: sa.Connection, table: sa.Table, **values: Any) -> None:
    """Add a row."""
    connection.execute(sa.insert(table).values(values))


def update(connection: sa.Connection, table: sa.Table, id_: str, **values: Any) -> bool:
    """Change a row whatever its state; False when it is gone."""
    statement = sa.update(table).where(table.c.id == id_).values(values)
    return connection.execute(statement).rowcount == 1


def compare_and_set(
    connection: sa.Connection, table: sa.Table, id_: str, sources: Iterable[str], **values: Any
) -> bool:
    """Change a row only if no operation owns it and its status is one of `sources`."""
    statement = (
        sa.update(table)
        .where(table.c.id == id_, table.c.op_id.is_(None), table.c.status.in_(tuple(sources)))
        .values(updated_at=now(), **values)
    )
    return connection.execute(statement).rowcount == 1


def finish(connection: sa.Connection, table: sa.Table, id_: str, op_id: str, **values: Any) -> bool:
    """Give a row its outcome and free it, if the operation still owns it."""
    statement = (
        sa.update(table)
        .where(table.c.id == id_, table.c.op_id == op_id)
        .values(op_id=None, updated_at=now(), **values)
    )
    return connection.execute(statement).rowcount == 1


def remove(connection: sa.Connection, table: sa.Table, id_: str, op_id: str) -> bool:
    """Delete a row, if the operation still owns it."""
    statement = sa.delete(table).where(table.c.id == id_, table.c.op_id == op_id)
    return connection.execute(statement).rowcount == 1


def snapshots_of(connection: sa.Connection, volume_id: str) -> list[Row]:
    """Return a volume's snapshots, oldest first."""
    table = tables.snapshots
    statement = sa.select(table).where(table.c.volume_id == volume_id)
    return list(connection.execute(statement.order_by(table.c.created_at, table.c.id)))


def attachments_of(connection: sa.Connection, volume_ids: Iterable[str]) -> list[Row]:
    """Return the attachments of some volumes, oldest first."""
    table = tables.attachments
    statement = sa.select(table).where(table.c.volume_id.in_(tuple(volume_ids)))
    return list(connection.execute(statement.order_by(table.c.created_at, table.c.id)))
