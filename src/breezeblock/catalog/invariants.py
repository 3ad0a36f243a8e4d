"""What must hold between tables whenever no transaction is open.

Every row that a verb has in its hands names a live operation; every amount that is counted as it
changes equals the sum it stands for.
"""

from typing import Any

import msgspec
import sqlalchemy as sa

from breezeblock.catalog.clock import now
from breezeblock.catalog.operations import LIVE
from breezeblock.catalog.states import TRANSITIONS
from breezeblock.catalog.tables import attachments, operations, pools, quota_usages, snapshots, volumes


class Orphan(msgspec.Struct, frozen=True):
    """A row that says an operation has it in hands, where none has."""

    resource: str
    id: str
    status: str


_TABLES = {"volume": volumes, "snapshot": snapshots, "attachment": attachments}


_COUNTED = ("volumes", "snapshots", "gigabytes")


def orphans(connection: sa.Connection) -> list[Orphan]:
    """Return the rows whose operation is not live."""
    found = []
    for resource, table in _TABLES.items():
        owner = sa.exists().where(operations.c.id == table.c.op_id, operations.c.state.in_(LIVE))
        statement = sa.select(table.c.id, table.c.status).where(_in_hands(resource, table), ~owner)
        found += [Orphan(resource, row.id, row.status) for row in connection.execute(statement)]
    return found


def mend_orphans(connection: sa.Connection) -> list[Orphan]:
    """Give every such row the status that a failure of its verb means; return what they were."""
    found = orphans(connection)
    for orphan in found:
        table = _TABLES[orphan.resource]
        failed = next(
            (
                t.failed or t.done
                for t in TRANSITIONS
                if t.resource == orphan.resource and t.during == orphan.status
            ),
            orphan.status,
        )
        connection.execute(
            sa.update(table)
            .where(table.c.id == orphan.id)
            .values(status=failed, op_id=None, updated_at=now())
        )
    return found


def miscounts(connection: sa.Connection) -> list[tuple[str, int, int]]:
    """Return (what, counted, summed) wherever a running count is not the sum it stands for."""
    return [*_pool_miscounts(connection), *_quota_miscounts(connection)]


def mend_miscounts(connection: sa.Connection) -> None:
    """Let every running count be the sum it stands for; only while nobody else writes."""
    for pool in connection.execute(sa.select(pools.c.backend, pools.c.name)).all():
        of_pool = sa.and_(volumes.c.backend == pool.backend, volumes.c.pool == pool.name)
        held = sa.select(sa.func.coalesce(sa.func.sum(volumes.c.virtual_bytes), 0)).where(of_pool)
        right = int(connection.execute(held).scalar_one()) + _extending(connection).get(tuple(pool), 0)
        connection.execute(
            sa.update(pools)
            .where(pools.c.backend == pool.backend, pools.c.name == pool.name)
            .values(provisioned_bytes=right)
        )
    for (project_id, resource), right in _quota_sums(connection).items():
        wanted = sa.and_(quota_usages.c.project_id == project_id, quota_usages.c.resource == resource)
        if connection.execute(sa.update(quota_usages).where(wanted).values(in_use=right)).rowcount == 0:
            values = {"project_id": project_id, "resource": resource, "in_use": right}
            connection.execute(sa.insert(quota_usages).values(values))


def _in_hands(resource: str, table: sa.Table) -> sa.ColumnElement[bool]:
    # "attaching" waits for the client, not for an operation; everything else transient is an operation's.
    transient = {
        t.during for t in TRANSITIONS if t.resource == resource and t.during and t.during != "attaching"
    }
    return sa.or_(table.c.op_id.is_not(None), table.c.status.in_(transient))


def _pool_miscounts(connection: sa.Connection) -> list[tuple[str, int, int]]:
    summed = sa.select(sa.func.coalesce(sa.func.sum(volumes.c.virtual_bytes), 0)).where(
        volumes.c.backend == pools.c.backend, volumes.c.pool == pools.c.name
    )
    extending = _extending(connection)
    found = []
    for row in connection.execute(
        sa.select(
            pools.c.backend, pools.c.name, pools.c.provisioned_bytes, summed.scalar_subquery().label("s")
        )
    ):
        expected = int(row.s) + extending.get((row.backend, row.name), 0)
        if row.provisioned_bytes != expected:
            found.append((f"bytes promised in {row.backend}#{row.name}", row.provisioned_bytes, expected))
    return found


def _quota_sums(connection: sa.Connection) -> dict[tuple[str, str], int]:
    expected: dict[tuple[str, str], int] = {}

    def add(project: str, resource: str, amount: int) -> None:
        expected[project, resource] = expected.get((project, resource), 0) + amount

    for table, resource in ((volumes, "volumes"), (snapshots, "snapshots")):
        counted = sa.select(
            table.c.project_id,
            sa.func.count().label("n"),
            sa.func.sum(table.c.virtual_bytes // 1024**3).label("gib"),
        ).group_by(table.c.project_id)
        for row in connection.execute(counted):
            add(row.project_id, resource, row.n)
            add(row.project_id, "gigabytes", int(row.gib))
    for operation in _live_extends(connection):
        add(operation.project_id, "gigabytes", _growth(operation) // 1024**3)
    counted = sa.select(quota_usages.c.project_id, quota_usages.c.resource)
    for usage in connection.execute(counted.where(quota_usages.c.resource.in_(_COUNTED))):
        add(usage.project_id, usage.resource, 0)
    return expected


def _quota_miscounts(connection: sa.Connection) -> list[tuple[str, int, int]]:
    expected = _quota_sums(connection)
    found = []
    usages = connection.execute(sa.select(quota_usages).where(quota_usages.c.resource.in_(_COUNTED))).all()
    for usage in usages:
        right = expected.pop((usage.project_id, usage.resource), 0)
        if usage.in_use != right:
            found.append((f"quota {usage.resource} of project {usage.project_id}", usage.in_use, right))
    found += [(f"quota {resource} of project {project}", 0, n) for (project, resource), n in expected.items()]
    return found


def _live_extends(connection: sa.Connection) -> list[sa.Row[Any]]:
    """Return extensions under way: promised in quota and pool before the volume's row says so."""
    statement = (
        sa.select(
            operations.c.arguments,
            volumes.c.project_id,
            volumes.c.backend,
            volumes.c.pool,
            volumes.c.virtual_bytes,
        )
        .join(volumes, volumes.c.op_id == operations.c.id)
        .where(operations.c.kind == "extend_volume", operations.c.state.in_(LIVE))
    )
    return list(connection.execute(statement))


def _growth(operation: sa.Row[Any]) -> int:
    wanted: int = msgspec.json.decode(operation.arguments)["virtual_bytes"]
    return wanted - int(operation.virtual_bytes)


def _extending(connection: sa.Connection) -> dict[tuple[str, str], int]:
    growth: dict[tuple[str, str], int] = {}
    for operation in _live_extends(connection):
        key = (operation.backend, operation.pool)
        growth[key] = growth.get(key, 0) + _growth(operation)
    return growth
