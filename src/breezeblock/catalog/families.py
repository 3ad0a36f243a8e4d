"""Which volumes share storage with which, as back ends told; also with volumes that are gone.

A deleted volume that others still rest on stays as a row of `kept_volumes`, until the last of them goes.
"""

from typing import Any

import msgspec
import sqlalchemy as sa

from breezeblock.catalog.clock import now
from breezeblock.catalog.tables import kept_volumes, pools, snapshots, volumes

Row = sa.Row[Any]


class Chains(msgspec.Struct, frozen=True):
    """How the chains of one pool are."""

    deepest_chain: int = 0
    hidden_layers: int = 0
    reclaimable_bytes: int = 0


def has_children(connection: sa.Connection, volume_id: str) -> bool:
    """Say whether volumes, also such as are only kept, rest on this one."""
    found = (
        sa.select(sa.literal(1)).where(table.c.parent_id == volume_id) for table in (volumes, kept_volumes)
    )
    return connection.execute(sa.union_all(*found).limit(1)).first() is not None


def deleted(connection: sa.Connection, row: Row) -> None:
    """Note that a volume's row was removed: keep what is needed of it, forget what no longer is."""
    if has_children(connection, row.id):
        values = {
            key: getattr(row, key) for key in ("id", "backend", "pool", "project_id", "name", "parent_id")
        }
        connection.execute(sa.insert(kept_volumes).values(**values, deleted_at=now()))
    else:
        released(connection, row.parent_id)


def released(connection: sa.Connection, parent_id: str | None) -> None:
    """Note that a volume no longer rests on this one: forget it if it is gone and nobody else does."""
    while parent_id is not None and not has_children(connection, parent_id):
        kept = one_kept(connection, parent_id)
        if kept is None:
            return
        connection.execute(sa.delete(kept_volumes).where(kept_volumes.c.id == parent_id))
        parent_id = kept.parent_id


def one_kept(connection: sa.Connection, volume_id: str) -> Row | None:
    """Return what is known of a deleted volume that others rest on."""
    return connection.execute(sa.select(kept_volumes).where(kept_volumes.c.id == volume_id)).one_or_none()


class Member(msgspec.Struct, frozen=True):
    """A volume of more than one layer or with children, or what is kept of one that is gone."""

    id: str
    name: str | None
    backend: str
    pool: str
    project_id: str
    parent_id: str | None
    depth: int = 0
    hidden_layers: int = 0
    reclaimable_bytes: int = 0
    max_chain_depth: int = 0
    snapshots: int = 0
    deleted: bool = False


def members(connection: sa.Connection, project_id: str | None = None) -> list[Member]:
    """Return the members of all families, or of one project's, in the order of their ids."""
    child = volumes.alias()
    parents = sa.select(child.c.parent_id).where(child.c.parent_id.is_not(None))
    taken = sa.select(sa.func.count()).where(snapshots.c.volume_id == volumes.c.id).scalar_subquery()
    same = sa.and_(pools.c.backend == volumes.c.backend, pools.c.name == volumes.c.pool)
    living = (
        sa.select(volumes, pools.c.max_chain_depth, taken.label("snapshots"))
        .select_from(volumes.outerjoin(pools, same))
        .where(sa.or_(volumes.c.depth > 1, volumes.c.id.in_(parents)))
    )
    gone = sa.select(kept_volumes)
    if project_id is not None:
        living = living.where(volumes.c.project_id == project_id)
        gone = gone.where(kept_volumes.c.project_id == project_id)
    found = [
        Member(
            *(row.id, row.name, row.backend, row.pool, row.project_id, row.parent_id, row.depth),
            *(row.hidden_layers, row.reclaimable_bytes, row.max_chain_depth or 0, row.snapshots),
        )
        for row in connection.execute(living)
    ]
    found += [
        Member(row.id, row.name, row.backend, row.pool, row.project_id, row.parent_id, deleted=True)
        for row in connection.execute(gone)
    ]
    return sorted(found, key=lambda member: member.id)


def of_pools(connection: sa.Connection) -> dict[tuple[str, str], Chains]:
    """Return, for each (back end, pool), how its chains are."""
    statement = sa.select(
        volumes.c.backend,
        volumes.c.pool,
        sa.func.max(volumes.c.depth),
        sa.func.sum(volumes.c.hidden_layers),
        sa.func.sum(volumes.c.reclaimable_bytes),
    ).group_by(volumes.c.backend, volumes.c.pool)
    return {
        (row[0], row[1]): Chains(int(row[2]), int(row[3]), int(row[4]))
        for row in connection.execute(statement)
    }


def shortenable(connection: sa.Connection, backends: set[str], limit: int) -> list[Row]:
    """Return idle volumes with hidden layers that no volume rests on any more, the most wasteful first."""
    child = volumes.alias()
    rested = sa.or_(
        sa.exists().where(child.c.parent_id == volumes.c.id),
        sa.exists().where(kept_volumes.c.parent_id == volumes.c.id),
    )
    statement = sa.select(volumes).where(
        volumes.c.hidden_layers > 0,
        volumes.c.status == "available",
        volumes.c.op_id.is_(None),
        volumes.c.backend.in_(backends),
        ~rested,
    )
    order = (volumes.c.reclaimable_bytes.desc(), volumes.c.id)
    return list(connection.execute(statement.order_by(*order).limit(limit)))
