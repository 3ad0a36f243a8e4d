"""The table of operations: for each kind its work, its undo, and what becomes of the rows."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec
import sqlalchemy as sa

from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Connection, Placement, Snapped
from breezeblock.catalog import families, pools, quotas, rows, tables, types
from breezeblock.catalog.clock import now
from breezeblock.catalog.states import transition
from breezeblock.engine.port import Json
from breezeblock.errors import ConflictError
from breezeblock.operations.job import Job
from breezeblock.operations.run import Verb

GIB = 1024**3


def quota_amounts(
    volume_type: str, *, volumes: int = 0, snapshots: int = 0, virtual_bytes: int = 0
) -> dict[str, int]:
    """Return what a change means to quota: each resource, and each again for the volume type."""
    plain = {"volumes": volumes, "snapshots": snapshots, "gigabytes": virtual_bytes // GIB}
    return plain | {f"{resource}_{volume_type}": amount for resource, amount in plain.items()}


def give_back(
    connection: sa.Connection, project_id: str, volume_type_id: str, amounts: Mapping[str, int]
) -> None:
    """Return quota, `amounts` being keywords of `quota_amounts`."""
    name = types.name(connection, volume_type_id)
    returned = quota_amounts(name, **{resource: -amount for resource, amount in amounts.items()})
    quotas.take(connection, project_id, returned, {})


# ── volumes ──────────────────────────────────────────────────────────────────────────────────────────


def _create(job: Job) -> Json:
    return job.step("create", lambda attempt: _plain(job.backend.create(job.volume(), attempt)))


def _clone(job: Job) -> Json:
    source = job.volume(job.arguments["source_volid"])
    return job.step("clone", lambda attempt: _plain(job.backend.clone(source, job.volume(), attempt)))


def _create_from_snapshot(job: Job) -> Json:
    snapshot = job.snapshot(job.arguments["snapshot_id"])
    source = job.volume(snapshot.volume_id)
    return job.step(
        "create_from_snapshot",
        lambda attempt: _plain(job.backend.create_from_snapshot(source, snapshot, job.volume(), attempt)),
    )


def remove_new(job: Job) -> None:
    """Take back a volume that was being made."""
    job.undo("remove", lambda attempt: job.backend.delete(job.volume(), attempt))


def publish_new(connection: sa.Connection, job: Job, result: Json) -> None:
    """Make a new volume visible where its back end has put it."""
    placement = msgspec.convert(result, Placement)
    if placement.parent and job.arguments.get("source_volid"):
        # It went on in a new layer; what exactly it looks like, its next operation finds out.
        source = tables.volumes
        connection.execute(
            sa.update(source)
            .where(source.c.id == placement.parent, source.c.depth < placement.depth)
            .values(depth=placement.depth, hidden_layers=source.c.hidden_layers + 1)
        )
    rows.finish(
        connection,
        tables.volumes,
        job.row.resource_id,
        job.id,
        status="available",
        launched_at=now(),
        **columns_of(placement),
    )


def _delete(job: Job) -> Json:
    with job.environment.database.read() as connection:
        snapshots = tuple(row.id for row in rows.snapshots_of(connection, job.row.volume_id))
    volume = msgspec.structs.replace(job.volume(), snapshots=snapshots)
    return job.step("delete", lambda attempt: job.backend.delete(volume, attempt))


def publish_deleted(connection: sa.Connection, job: Job, _result: Json) -> None:
    """Forget a volume with its snapshots, and give back what they were counted as."""
    row = rows.one(connection, tables.volumes, job.row.resource_id)
    if row is None or row.op_id != job.id:
        return
    snapshots = rows.snapshots_of(connection, row.id)
    snapshot_bytes = sum(snapshot.virtual_bytes for snapshot in snapshots)
    freed = {
        "volumes": 1,
        "snapshots": len(snapshots),
        "virtual_bytes": row.virtual_bytes + snapshot_bytes,
    }
    give_back(connection, row.project_id, row.volume_type_id, freed)
    pools.provision(connection, row.backend, row.pool, -row.virtual_bytes)
    connection.execute(sa.delete(tables.snapshots).where(tables.snapshots.c.volume_id == row.id))
    connection.execute(sa.delete(tables.attachments).where(tables.attachments.c.volume_id == row.id))
    if rows.remove(connection, tables.volumes, row.id, job.id):
        families.deleted(connection, row)


def _fail_deleted(connection: sa.Connection, job: Job) -> None:
    status = job.status_after("error_deleting")
    rows.finish(connection, tables.volumes, job.row.resource_id, job.id, status=status)
    connection.execute(
        sa.update(tables.snapshots)
        .where(tables.snapshots.c.volume_id == job.row.resource_id, tables.snapshots.c.op_id == job.id)
        .values(op_id=None, status="available" if job.cancelled else "error_deleting")
    )


def _extend(job: Job) -> Json:
    wanted = job.arguments["virtual_bytes"]
    return job.step("extend", lambda attempt: _plain(job.backend.extend(job.volume(), wanted, attempt)))


def _publish_extended(connection: sa.Connection, job: Job, result: Json) -> None:
    placement = msgspec.convert(result, Placement)
    rows.finish(
        connection,
        tables.volumes,
        job.row.resource_id,
        job.id,
        status="available",
        virtual_bytes=job.arguments["virtual_bytes"],
        **columns_of(placement),
    )


def _fail_extended(connection: sa.Connection, job: Job) -> None:
    row = rows.one(connection, tables.volumes, job.row.resource_id)
    if row is None:
        return
    more = job.arguments["virtual_bytes"] - row.virtual_bytes
    give_back(connection, row.project_id, row.volume_type_id, {"virtual_bytes": more})
    pools.provision(connection, row.backend, row.pool, -more)
    rows.finish(connection, tables.volumes, row.id, job.id, status=job.status_after("error_extending"))


def _revert(job: Job) -> Json:
    snapshot = job.snapshot(job.arguments["snapshot_id"])
    return job.step("revert", lambda attempt: _plain(job.backend.revert(job.volume(), snapshot, attempt)))


def _publish_reverted(connection: sa.Connection, job: Job, result: Json) -> None:
    placement = msgspec.convert(result, Placement)
    rows.finish(
        connection,
        tables.volumes,
        job.row.resource_id,
        job.id,
        status="available",
        **columns_of(placement),
    )
    rows.finish(connection, tables.snapshots, job.arguments["snapshot_id"], job.id, status="available")


def _fail_reverted(connection: sa.Connection, job: Job) -> None:
    rows.finish(connection, tables.volumes, job.row.resource_id, job.id, status=job.status_after("error"))
    rows.finish(connection, tables.snapshots, job.arguments["snapshot_id"], job.id, status="available")


def _flatten(job: Job) -> Json:
    return job.step("flatten", lambda attempt: _plain(job.backend.flatten(job.volume(), attempt)))


def _publish_flattened(connection: sa.Connection, job: Job, result: Json) -> None:
    before = rows.one(connection, tables.volumes, job.row.resource_id)
    where = columns_of(msgspec.convert(result, Placement))
    if rows.finish(connection, tables.volumes, job.row.resource_id, job.id, **where) and before is not None:
        families.released(connection, before.parent_id)


def _shorten(job: Job) -> Json:
    budget = job.arguments.get("io_bytes_per_s", 0)

    def work(attempt: Attempt) -> Json:
        return _plain(job.backend.shorten(job.volume(), replace(attempt, io_bytes_per_s=budget)))

    return job.step("shorten", work)


def _publish_shortened(connection: sa.Connection, job: Job, result: Json) -> None:
    where = columns_of(msgspec.convert(result, Placement))
    rows.finish(connection, tables.volumes, job.row.resource_id, job.id, **where)


def _fail_unchanged(connection: sa.Connection, job: Job) -> None:
    rows.finish(connection, tables.volumes, job.row.resource_id, job.id)


# ── snapshots ────────────────────────────────────────────────────────────────────────────────────────


def _snapshot(job: Job) -> Json:
    most = job.arguments.get("max_depth", 0)
    if most and job.volume().depth >= most:
        shortened = msgspec.convert(_shorten(job), Placement)
        with job.environment.database.write() as connection:
            _place(connection, job.row.volume_id, shortened)
        if shortened.depth >= most:
            raise ConflictError(
                f"Volume {job.row.volume_id} is read through {shortened.depth} layers, its pool allows "
                f"{most}, and none of them can be merged.",
                remedy="Delete snapshots of it, or flatten it if it is a clone.",
            )
    return job.step(
        "snapshot",
        lambda attempt: msgspec.to_builtins(job.backend.snapshot(job.volume(), job.snapshot(), attempt)),
    )


def _undo_snapshot(job: Job) -> None:
    def remove(attempt: Any) -> Json:
        placement = job.backend.delete_snapshot(job.volume(), job.snapshot(), attempt)
        with job.environment.database.write() as connection:
            _place(connection, job.row.volume_id, placement)

    job.undo("remove", remove)


def _publish_snapshot(connection: sa.Connection, job: Job, result: Json) -> None:
    snapped = msgspec.convert(result, Snapped)
    _place(connection, job.row.volume_id, snapped.volume)
    rows.finish(
        connection,
        tables.snapshots,
        job.row.resource_id,
        job.id,
        status="available",
        progress="100%",
        locator=snapped.locator,
    )


def _delete_snapshot(job: Job) -> Json:
    return job.step(
        "delete_snapshot",
        lambda attempt: _plain(job.backend.delete_snapshot(job.volume(), job.snapshot(), attempt)),
    )


def _publish_snapshot_deleted(connection: sa.Connection, job: Job, result: Json) -> None:
    _place(connection, job.row.volume_id, msgspec.convert(result, Placement))
    row = rows.one(connection, tables.snapshots, job.row.resource_id)
    if row is not None and row.op_id == job.id:
        volume = rows.one(connection, tables.volumes, row.volume_id)
        if volume is not None:
            freed = {"snapshots": 1, "virtual_bytes": row.virtual_bytes}
            give_back(connection, row.project_id, volume.volume_type_id, freed)
        rows.remove(connection, tables.snapshots, row.id, job.id)


# ── attachments ──────────────────────────────────────────────────────────────────────────────────────


def _connect(job: Job) -> Json:
    connector = msgspec.json.decode(job.attachment().connector or "{}")
    return job.step(
        "connect",
        lambda _attempt: msgspec.to_builtins(job.backend.connection_info(job.volume(), connector)),
    )


def _publish_connected(connection: sa.Connection, job: Job, result: Json) -> None:
    found = msgspec.convert(result, Connection)
    rows.finish(
        connection,
        tables.attachments,
        job.row.resource_id,
        job.id,
        status="attaching",
        connection_info=msgspec.json.encode(found).decode(),
    )


def _disconnect_new(job: Job) -> None:
    connector = msgspec.json.decode(job.attachment().connector or "{}")
    job.undo("disconnect", lambda _attempt: job.backend.disconnect(job.volume(), connector))


def _fail_connected(connection: sa.Connection, job: Job) -> None:
    rows.finish(connection, tables.attachments, job.row.resource_id, job.id, status="error_attaching")
    rows.update(connection, tables.volumes, job.row.volume_id, status="error_attaching", updated_at=now())


def _disconnect(job: Job) -> Json:
    attachment = job.attachment()
    if attachment.connector is None:
        return None
    connector = msgspec.json.decode(attachment.connector)
    return job.step("disconnect", lambda _attempt: job.backend.disconnect(job.volume(), connector))


def _publish_disconnected(connection: sa.Connection, job: Job, _result: Json) -> None:
    if rows.remove(connection, tables.attachments, job.row.resource_id, job.id):
        left = rows.attachments_of(connection, [job.row.volume_id])
        settle_attach_status(connection, job.row.volume_id, [row.status for row in left])


def _fail_disconnected(connection: sa.Connection, job: Job) -> None:
    rows.finish(connection, tables.attachments, job.row.resource_id, job.id, status=job.row.previous_status)


def settle_attach_status(connection: sa.Connection, volume_id: str, statuses: list[str]) -> None:
    """Give a volume the status that its remaining attachments mean."""
    meaning = {
        "attached": "in-use",
        "attaching": "attaching",
        "reserved": "reserved",
        "error_attaching": "error_attaching",
    }
    volume_status = next((meaning[status] for status in meaning if status in statuses), "available")
    rows.update(connection, tables.volumes, volume_id, status=volume_status, updated_at=now())


# ── the table ────────────────────────────────────────────────────────────────────────────────────────


def _plain(placement: Placement) -> Json:
    return msgspec.to_builtins(placement)


def _place(connection: sa.Connection, volume_id: str, placement: Placement) -> None:
    rows.update(connection, tables.volumes, volume_id, **columns_of(placement))


def columns_of(placement: Placement) -> dict[str, Any]:
    """Return what a volume's row keeps of where it is."""
    return {
        "locator": placement.locator,
        "format": placement.format,
        "depth": placement.depth,
        "hidden_layers": placement.hidden_layers,
        "reclaimable_bytes": placement.reclaimable_bytes,
        "parent_id": placement.parent or None,
    }


def _fail_row(table: sa.Table, resource: Any, verb: str) -> Callable[[sa.Connection, Job], None]:
    status = transition(resource, verb).failed

    def fail(connection: sa.Connection, job: Job) -> None:
        rows.finish(connection, table, job.row.resource_id, job.id, status=job.status_after(status))

    return fail


VERBS: dict[str, Verb] = {
    "create_volume": Verb(_create, publish_new, _fail_row(tables.volumes, "volume", "create"), remove_new),
    "clone_volume": Verb(_clone, publish_new, _fail_row(tables.volumes, "volume", "clone"), remove_new),
    "create_volume_from_snapshot": Verb(
        _create_from_snapshot,
        publish_new,
        _fail_row(tables.volumes, "volume", "create_from_snapshot"),
        remove_new,
    ),
    "delete_volume": Verb(_delete, publish_deleted, _fail_deleted),
    "extend_volume": Verb(_extend, _publish_extended, _fail_extended),
    "revert_volume": Verb(_revert, _publish_reverted, _fail_reverted),
    "flatten_volume": Verb(_flatten, _publish_flattened, _fail_unchanged),
    "shorten_volume": Verb(_shorten, _publish_shortened, _fail_unchanged),
    "create_snapshot": Verb(
        _snapshot, _publish_snapshot, _fail_row(tables.snapshots, "snapshot", "create"), _undo_snapshot
    ),
    "delete_snapshot": Verb(
        _delete_snapshot, _publish_snapshot_deleted, _fail_row(tables.snapshots, "snapshot", "delete")
    ),
    "connect_attachment": Verb(_connect, _publish_connected, _fail_connected, _disconnect_new),
    "disconnect_attachment": Verb(_disconnect, _publish_disconnected, _fail_disconnected),
}
