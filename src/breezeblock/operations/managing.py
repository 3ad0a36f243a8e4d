"""Operations on what is on storage already: taking it into the catalog, letting it go, listing it."""

from collections.abc import Mapping
from typing import Any

import msgspec
import sqlalchemy as sa

from breezeblock.backends.contract import Adopted, Capabilities, Snapshot, Volume
from breezeblock.catalog import operations, pools, quotas, rows, survey, tables, types
from breezeblock.catalog.clock import now
from breezeblock.engine.port import Json
from breezeblock.errors import BreezeblockError, NotFoundError
from breezeblock.operations.adopting import add_kept, add_snapshots
from breezeblock.operations.job import Job
from breezeblock.operations.run import Verb
from breezeblock.operations.verbs import columns_of, give_back, publish_deleted, quota_amounts

PROMISED_BYTES = 1 << 30
"""What a volume is counted as until storage has said how large it is."""
MAX_LISTED = 10_000


class Manageable(msgspec.Struct, frozen=True, kw_only=True):
    """Something in a pool, as the API lists it."""

    reference: str
    volume_id: str | None = None
    snapshot_id: str | None = None
    virtual_bytes: int = 0
    safe: bool = False
    reason: str | None = None
    cinder_id: str | None = None
    """The catalog's id for it, if it is managed."""
    edits: tuple[str, ...] = ()


# ── volumes ──────────────────────────────────────────────────────────────────────────────────────────


def _manage(job: Job) -> Json:
    reference = job.arguments["reference"]

    def asked() -> Volume:
        return msgspec.structs.replace(job.volume(), virtual_bytes=0, format=job.arguments["format"])

    found = job.step("examine", lambda _attempt: msgspec.to_builtins(job.backend.examine(asked(), reference)))
    size = msgspec.convert(found, Adopted).virtual_bytes
    job.step("promise", lambda _attempt: _promise(job, size))
    return job.step(
        "adopt", lambda attempt: msgspec.to_builtins(job.backend.adopt(asked(), reference, attempt))
    )


def _promise(job: Job, virtual_bytes: int) -> None:
    """Count the volume as large as it is. Raises OverQuotaError."""
    with job.environment.database.write() as connection:
        row = rows.one(connection, tables.volumes, job.row.resource_id)
        if row is None or row.op_id != job.id or row.virtual_bytes == virtual_bytes:
            return
        more = virtual_bytes - row.virtual_bytes
        amounts = quota_amounts(types.name(connection, row.volume_type_id), virtual_bytes=more)
        quotas.take(connection, row.project_id, amounts, job.arguments["quota"])
        pools.provision(connection, row.backend, row.pool, more)
        rows.update(connection, tables.volumes, row.id, virtual_bytes=virtual_bytes)


def _publish_managed(connection: sa.Connection, job: Job, result: Json) -> None:
    found = msgspec.convert(result, Adopted)
    done = rows.finish(
        connection,
        tables.volumes,
        job.row.resource_id,
        job.id,
        status="available",
        launched_at=now(),
        **columns_of(found.volume),
    )
    row = rows.one(connection, tables.volumes, job.row.resource_id)
    if done and row is not None:
        add_snapshots(connection, row, found.snapshots)
        add_kept(connection, row, found.ancestors)


def _fail_managed(connection: sa.Connection, job: Job) -> None:
    """Forget the volume: a row that stayed could be deleted, and with it what is somebody else's."""
    row = rows.one(connection, tables.volumes, job.row.resource_id)
    if row is not None and rows.remove(connection, tables.volumes, row.id, job.id):
        amounts = {"volumes": 1, "virtual_bytes": row.virtual_bytes}
        give_back(connection, row.project_id, row.volume_type_id, amounts)
        pools.provision(connection, row.backend, row.pool, -row.virtual_bytes)


def _unmanage(job: Job) -> Json:
    if job.row.previous_status == "error_managing":
        return None  # it was never ours
    return job.step("release", lambda attempt: job.backend.release(job.volume(), attempt))


def _fail_unmanaged(connection: sa.Connection, job: Job) -> None:
    rows.finish(connection, tables.volumes, job.row.resource_id, job.id, status="error_unmanaging")


# ── snapshots ────────────────────────────────────────────────────────────────────────────────────────


def _manage_snapshot(job: Job) -> Json:
    def find(_attempt: object) -> Json:
        volume = job.volume()
        found = job.backend.examine(volume, f"volume-{volume.id}")
        for one in found.snapshots:
            if one.id == job.row.resource_id:
                return msgspec.to_builtins(one)
        raise NotFoundError(f"Volume {volume.id} has no snapshot {job.row.resource_id} on storage.")

    return job.step("find", find)


def _publish_managed_snapshot(connection: sa.Connection, job: Job, result: Json) -> None:
    found = msgspec.convert(result, Snapshot)
    rows.finish(
        connection,
        tables.snapshots,
        found.id,
        job.id,
        status="available",
        progress="100%",
        locator=found.locator,
    )


def _fail_managed_snapshot(connection: sa.Connection, job: Job) -> None:
    row = rows.one(connection, tables.snapshots, job.row.resource_id)
    if row is not None and rows.remove(connection, tables.snapshots, row.id, job.id):
        volume = rows.one(connection, tables.volumes, row.volume_id)
        if volume is not None:
            amounts = {"snapshots": 1, "virtual_bytes": row.virtual_bytes}
            give_back(connection, row.project_id, volume.volume_type_id, amounts)


# ── lists ────────────────────────────────────────────────────────────────────────────────────────────


def _survey(job: Job) -> Json:
    return job.step("survey", lambda _attempt: msgspec.to_builtins(_listed(job)))


def _listed(job: Job) -> list[Manageable]:
    listed: dict[str, Manageable] = {}
    for item in job.backend.inventory():
        if item.pool != job.row.resource_id or item.kind in {"temporary", "metadata"}:
            continue
        reference = f"volume-{item.volume_id}" if item.volume_id else item.name
        if reference in listed or len(listed) == MAX_LISTED:
            continue
        listed[reference] = Manageable(reference=reference, volume_id=item.volume_id)
    managed = _managed(job)
    return [one for found in listed.values() for one in _described(job, found, managed)]


def _managed(job: Job) -> dict[str, str]:
    """Return the volumes of a pool that is only read by their locators: nothing there has their names."""
    with job.environment.database.read() as connection:
        pool = pools.get(connection, job.row.backend, job.row.resource_id)
        if pool is None or not msgspec.json.decode(pool.capabilities, type=Capabilities).read_only:
            return {}
        table = tables.volumes
        mine = sa.select(table.c.locator, table.c.id).where(
            table.c.backend == pool.backend, table.c.pool == pool.name
        )
        return {row.locator: row.id for row in connection.execute(mine)}


def _described(job: Job, found: Manageable, managed: Mapping[str, str]) -> list[Manageable]:
    """Return a thing in the pool, and the snapshots of a volume of ours, with what may be done to them."""
    known = None
    if found.volume_id:
        with job.environment.database.read() as connection:
            known = survey.one(connection, found.volume_id)
    asked = Volume(id=found.volume_id or job.id, virtual_bytes=0, pool=job.row.resource_id)
    try:
        there = job.backend.examine(asked, found.reference)
    except BreezeblockError as error:
        reason = "already managed" if known else str(error)
        size = known.volume.virtual_bytes if known else 0
        return [
            msgspec.structs.replace(
                found, reason=reason, cinder_id=known and known.volume.id, virtual_bytes=size
            )
        ]
    mine = {row.id for row in known.snapshots} if known else set()
    cinder_id = known.volume.id if known else managed.get(there.volume.locator)
    volume = msgspec.structs.replace(
        found,
        virtual_bytes=there.virtual_bytes,
        safe=cinder_id is None,
        reason="already managed" if cinder_id else None,
        cinder_id=cinder_id,
        edits=there.edits,
    )
    snapshots = [
        Manageable(
            reference=one.id,
            volume_id=found.volume_id,
            snapshot_id=one.id,
            virtual_bytes=one.virtual_bytes,
            safe=known is not None and one.id not in mine,
            reason="already managed" if one.id in mine else None if known else "its volume is not managed",
            cinder_id=one.id if one.id in mine else None,
        )
        for one in there.snapshots
    ]
    return [volume, *snapshots]


def _publish_survey(connection: sa.Connection, job: Job, result: Json) -> None:
    text = msgspec.json.encode({"listed": result}).decode()
    connection.execute(
        sa.update(tables.operations).where(tables.operations.c.id == job.id).values(arguments=text)
    )


def _nothing(_connection: sa.Connection, _job: Job) -> None:
    """Have no row to free."""


def listed(connection: sa.Connection, operation_id: str) -> list[Manageable]:
    """Return what a survey found; its operation forgets it."""
    row: Any = operations.get(connection, operation_id)
    if row is None:
        return []
    found = msgspec.json.decode(row.arguments).get("listed", [])
    connection.execute(
        sa.update(tables.operations).where(tables.operations.c.id == operation_id).values(arguments="{}")
    )
    return msgspec.convert(found, list[Manageable])


VERBS: dict[str, Verb] = {
    "manage_volume": Verb(_manage, _publish_managed, _fail_managed),
    "unmanage_volume": Verb(_unmanage, publish_deleted, _fail_unmanaged),
    "manage_snapshot": Verb(_manage_snapshot, _publish_managed_snapshot, _fail_managed_snapshot),
    "survey_pool": Verb(_survey, _publish_survey, _nothing),
}
