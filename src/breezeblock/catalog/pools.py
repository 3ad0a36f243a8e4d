"""The pools table: what workers last saw of each pool, and how much of it is promised to volumes.

`provisioned_bytes` is changed only by the transactions that create, extend and delete volumes. It is
never found out by looking at the storage: ten thousand volumes cost a statistics cycle no more than ten.
"""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from breezeblock.catalog.clock import now
from breezeblock.catalog.tables import pools, volumes

Row = sa.Row[Any]


def report(connection: sa.Connection, backend: str, name: str, values: Mapping[str, Any]) -> None:
    """Write down what a worker saw; promised bytes stay as they are."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    seen = {**values, "updated_at": now()}
    statement = dialect.insert(pools).values(backend=backend, name=name, **seen)
    connection.execute(statement.on_conflict_do_update(index_elements=["backend", "name"], set_=seen))


def all_pools(connection: sa.Connection) -> list[Row]:
    """Return every pool that was ever reported, in a stable order."""
    return list(connection.execute(sa.select(pools).order_by(pools.c.backend, pools.c.name)))


def get(connection: sa.Connection, backend: str, name: str) -> Row | None:
    """Return one pool."""
    return connection.execute(
        sa.select(pools).where(pools.c.backend == backend, pools.c.name == name)
    ).one_or_none()


def down(connection: sa.Connection, backend: str) -> dict[str, str]:
    """Return the back end's pools that are down, with the reason of each."""
    statement = sa.select(pools.c.name, pools.c.reason).where(
        pools.c.backend == backend, pools.c.up.is_(False)
    )
    return {row.name: row.reason for row in connection.execute(statement)}


def provision(
    connection: sa.Connection, backend: str, name: str, amount: int, limit: int | None = None
) -> bool:
    """Promise `amount` more bytes (less, when negative) unless that would pass `limit`."""
    total = pools.c.provisioned_bytes + amount
    statement = sa.update(pools).where(pools.c.backend == backend, pools.c.name == name)
    if limit is not None:
        statement = statement.where(total <= limit)
    kept = sa.case((total < 0, 0), else_=total)
    return connection.execute(statement.values(provisioned_bytes=kept)).rowcount == 1


def forget_unconfigured(connection: sa.Connection, host: str, backends: set[str]) -> None:
    """Drop the pools of back ends that this host once had; those that hold volumes stay, marked down."""
    gone = sa.and_(pools.c.host == host, pools.c.backend.not_in(backends))
    used = sa.exists().where(volumes.c.backend == pools.c.backend, volumes.c.pool == pools.c.name)
    connection.execute(sa.delete(pools).where(gone, ~used))
    connection.execute(
        sa.update(pools).where(gone).values(up=False, reason="no longer configured", updated_at=now())
    )
