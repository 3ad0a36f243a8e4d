"""Promises about what is on storage already: take it into the catalog, let it go, list it."""

import re
from typing import Any

import msgspec
import sqlalchemy as sa

from breezeblock.catalog import numbering, pools, quotas, rows, tables, types
from breezeblock.catalog.clock import new_id, now
from breezeblock.catalog.states import transition
from breezeblock.errors import ConflictError, InvalidInputError, NotFoundError, UnavailableError
from breezeblock.operations.managing import PROMISED_BYTES, Manageable, listed
from breezeblock.operations.verbs import give_back, quota_amounts
from breezeblock.service import operations, queue, scheduling, volumes
from breezeblock.service.core import Caller, Service
from breezeblock.service.snapshots import visible as visible_snapshot

Row = sa.Row[Any]
_OURS = re.compile(r"volume-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:\.[a-z0-9]{1,8})?\Z")
MANAGE = "volume_extension:volume_manage"
UNMANAGE = "volume_extension:volume_unmanage"
LIST = "volume_extension:list_manageable"


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """How a caller names something on storage."""

    name: str
    """As `inventory` has it; a pool's name and a slash may stand before it, as Cinder wants it."""
    format: str = ""
    """Decides where the storage leaves a doubt."""


class NewManaged(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller wants to be managed."""

    host: str
    """`name@backend#pool`."""
    reference: Reference
    name: str | None = None
    description: str | None = None
    volume_type: str | None = None
    metadata: dict[str, str] = {}
    bootable: bool = False


def manage(service: Service, caller: Caller, new: NewManaged) -> str:
    """Promise that something on storage becomes a volume; return its id, that of its name if it has one."""
    caller.require_admin(MANAGE)
    with service.database.write() as connection:
        operation_id = numbering.number(connection)
        pool = _pool(service, connection, new.host)
        reference = new.reference.name.removeprefix(f"{pool.name}/")
        own = _OURS.match(reference)
        volume_id = own[1] if own else new_id()
        if rows.one(connection, tables.volumes, volume_id) is not None:
            raise ConflictError(f"Unable to manage existing volume. Volume {volume_id} already managed.")
        wanted = new.volume_type or service.settings.default_volume_type
        volume_type = types.find(connection, wanted)
        if volume_type is None:
            raise NotFoundError(f"Volume type {wanted} could not be found.")
        amounts = quota_amounts(volume_type.name, volumes=1, virtual_bytes=PROMISED_BYTES)
        quotas.take(connection, caller.project_id, amounts, service.settings.quota)
        pools.provision(connection, pool.backend, pool.name, PROMISED_BYTES)
        rows.insert(
            connection,
            tables.volumes,
            id=volume_id,
            project_id=caller.project_id,
            user_id=caller.user_id,
            name=new.name,
            description=new.description,
            virtual_bytes=PROMISED_BYTES,
            status=transition("volume", "manage").during,
            op_id=operation_id,
            backend=pool.backend,
            pool=pool.name,
            volume_type_id=volume_type.id,
            availability_zone=service.settings.availability_zone,
            bootable=new.bootable,
            readonly=scheduling.capabilities(pool).read_only or None,  # nobody has said anything
            metadata=msgspec.json.encode(new.metadata).decode(),
            created_at=now(),
        )
        queue.enqueue(
            connection,
            caller,
            operation_id,
            "manage_volume",
            backend=pool.backend,
            volume_id=volume_id,
            arguments={
                "reference": reference,
                "format": new.reference.format,
                "quota": dict(service.settings.quota),
            },
        )
    service.wake()
    return volume_id


def unmanage(service: Service, caller: Caller, volume_id: str) -> None:
    """Promise that the catalog forgets a volume; what is on storage stays as it is."""
    caller.require_admin(UNMANAGE)
    step = transition("volume", "unmanage")
    with service.database.write() as connection:
        operation_id = numbering.number(connection)
        row = volumes.visible(connection, caller, volume_id)
        volumes.require_status("Volume", row, step)
        if rows.attachments_of(connection, [volume_id]):
            raise ConflictError(f"Invalid volume: Volume {volume_id} is still attached, detach volume first.")
        if rows.snapshots_of(connection, volume_id):
            raise ConflictError(
                f"Invalid volume: Volume {volume_id} has snapshots.",
                remedy="Unmanage its snapshots first (they stay on storage with it).",
            )
        clones = sa.select(tables.volumes.c.id).where(tables.volumes.c.parent_id == volume_id).limit(1)
        if row.parent_id or connection.execute(clones).first() is not None:
            raise ConflictError(
                f"Invalid volume: Volume {volume_id} shares its storage with another one.",
                remedy="Flatten the clone first.",
            )
        rows.compare_and_set(
            connection, tables.volumes, volume_id, step.sources, status=step.during, op_id=operation_id
        )
        queue.enqueue(
            connection,
            caller,
            operation_id,
            "unmanage_volume",
            backend=row.backend,
            volume_id=volume_id,
            previous_status=row.status,
        )
    service.wake()


def manage_snapshot(
    service: Service,
    caller: Caller,
    volume_id: str,
    snapshot_id: str,
    *,
    name: str | None = None,
    description: str | None = None,
    metadata: dict[str, str] | None = None,
) -> None:
    """Promise that the catalog knows a snapshot which a volume has on storage; its id is that there."""
    caller.require_admin(MANAGE)
    with service.database.write() as connection:
        operation_id = numbering.number(connection)
        volume = volumes.visible(connection, caller, volume_id)
        if volume.status != "available" or volume.op_id is not None:
            raise ConflictError(f"Invalid volume: Volume {volume_id} is {volume.status}, not available.")
        if rows.one(connection, tables.snapshots, snapshot_id) is not None:
            raise ConflictError(
                f"Unable to manage existing snapshot. Snapshot {snapshot_id} already managed."
            )
        type_name = types.name(connection, volume.volume_type_id)
        amounts = quota_amounts(type_name, snapshots=1, virtual_bytes=volume.virtual_bytes)
        quotas.take(connection, volume.project_id, amounts, service.settings.quota)
        rows.insert(
            connection,
            tables.snapshots,
            id=snapshot_id,
            volume_id=volume.id,
            project_id=volume.project_id,
            user_id=caller.user_id,
            name=name,
            description=description,
            virtual_bytes=volume.virtual_bytes,
            status=transition("snapshot", "manage").during,
            op_id=operation_id,
            metadata=msgspec.json.encode(metadata or {}).decode(),
            created_at=now(),
        )
        queue.enqueue(
            connection,
            caller,
            operation_id,
            "manage_snapshot",
            backend=volume.backend,
            volume_id=volume.id,
            resource_type="snapshot",
            resource_id=snapshot_id,
        )
    service.wake()


def unmanage_snapshot(service: Service, caller: Caller, snapshot_id: str) -> None:
    """Forget a snapshot; it stays on storage, where only the catalog's row said anything about it."""
    caller.require_admin(UNMANAGE)
    with service.database.write() as connection:
        row = visible_snapshot(connection, caller, snapshot_id)
        if row.status not in {"available", "error"} or row.op_id is not None:
            raise ConflictError(f"Invalid snapshot: Snapshot {snapshot_id} is {row.status}, not available.")
        volume = rows.one(connection, tables.volumes, row.volume_id)
        assert volume is not None  # noqa: S101 - the foreign key
        amounts = {"snapshots": 1, "virtual_bytes": row.virtual_bytes}
        give_back(connection, row.project_id, volume.volume_type_id, amounts)
        connection.execute(sa.delete(tables.snapshots).where(tables.snapshots.c.id == snapshot_id))


def survey(service: Service, caller: Caller, host: str) -> list[Manageable]:
    """Return what is in a pool, managed or not; waits for the worker that can look."""
    caller.require_admin(LIST)
    with service.database.write() as connection:
        operation_id = numbering.number(connection)
        pool = _pool(service, connection, host)
        queue.enqueue(
            connection,
            caller,
            operation_id,
            "survey_pool",
            backend=pool.backend,
            volume_id=None,
            resource_type="pool",
            resource_id=pool.name,
        )
    service.wake()
    operations.wait(service, operation_id)
    with service.database.write() as connection:
        return listed(connection, operation_id)


def _pool(service: Service, connection: sa.Connection, host: str) -> Row:
    """Return the pool that `name@backend#pool` names; the only one of a back end where none is named."""
    name, _, rest = host.partition("@")
    backend, _, pool_name = rest.partition("#")
    found = [
        pool
        for pool in pools.all_pools(connection)
        if pool.backend == backend and pool_name in {"", pool.name} and name == service.settings.host
    ]
    if len(found) != 1:
        listed_pools = (f"{service.settings.host}@{p.backend}#{p.name}" for p in pools.all_pools(connection))
        raise InvalidInputError(
            f"Invalid input for field/attribute host. Value: {host[:200]!r}. "
            f"It must be one of {', '.join(listed_pools) or 'no pool is known'}."
        )
    if not found[0].up:
        raise UnavailableError(f"Pool {host} is down: {found[0].reason}")
    if not scheduling.capabilities(found[0]).adopt:
        raise InvalidInputError(f"Back end {backend} cannot manage what others made.")
    return found[0]
