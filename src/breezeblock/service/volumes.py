"""Promises about volumes."""

from typing import Any

import msgspec
import sqlalchemy as sa

from breezeblock.catalog import numbering, pools, quotas, rows, tables, types
from breezeblock.catalog.clock import new_id, now
from breezeblock.catalog.states import Transition, transition
from breezeblock.errors import ConflictError, InvalidInputError, NotFoundError, OverQuotaError
from breezeblock.operations import image_cache
from breezeblock.operations.verbs import quota_amounts
from breezeblock.service import queue, scheduling
from breezeblock.service.core import GIB, Caller, Service

Row = sa.Row[Any]


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """Where an image is, and what it is."""

    url: str
    format: str
    checksum: str = ""
    """`sha256:…` or `sha512:…`; empty: none is known."""


class NewVolume(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller asks for; at most one of the sources."""

    name: str | None = None
    description: str | None = None
    virtual_bytes: int | None = None
    """None: as large as the source."""
    volume_type: str | None = None
    """Id or name."""
    snapshot_id: str | None = None
    source_volid: str | None = None
    image: Image | None = None
    availability_zone: str | None = None
    metadata: dict[str, str] = {}
    hints: dict[str, Any] = {}
    multiattach: bool = False


class _Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where a new volume's content comes from, and what that decides."""

    kind: str
    lane: str | None = None
    virtual_bytes: int = 0
    pool: tuple[str, str] | None = None
    volume_type_id: str | None = None
    bootable: bool = False
    image_metadata: str = "{}"
    depth: int = 0


def create(service: Service, caller: Caller, new: NewVolume) -> str:
    """Promise a new volume; return its id."""
    volume_id = new_id()
    with service.database.write() as connection:
        operation_id = numbering.number(connection)
        source = _source(connection, caller, new)
        virtual_bytes = _virtual_bytes(service, connection, caller, new, source)
        volume_type = _volume_type(connection, caller, new, source, service.settings.default_volume_type)
        if new.availability_zone not in {None, service.settings.availability_zone}:
            raise InvalidInputError(f"Availability zone '{new.availability_zone}' is invalid.")
        specs = msgspec.json.decode(volume_type.extra_specs, type=dict[str, str])
        backend, pool = scheduling.place(connection, virtual_bytes, specs, source.pool)
        amounts = quota_amounts(volume_type.name, volumes=1, virtual_bytes=virtual_bytes)
        quotas.take(connection, caller.project_id, amounts, service.settings.quota)
        rows.insert(
            connection,
            tables.volumes,
            id=volume_id,
            project_id=caller.project_id,
            user_id=caller.user_id,
            name=new.name,
            description=new.description,
            virtual_bytes=virtual_bytes,
            status=transition("volume", "import" if new.image else "create").during,
            op_id=operation_id,
            backend=backend,
            pool=pool,
            volume_type_id=volume_type.id,
            availability_zone=service.settings.availability_zone,
            bootable=source.bootable,
            multiattach=new.multiattach,
            snapshot_id=new.snapshot_id,
            source_volid=new.source_volid,
            depth=1,
            metadata=msgspec.json.encode(new.metadata).decode(),
            image_metadata=source.image_metadata,
            created_at=now(),
        )
        lane = source.lane
        if new.image:
            lane = image_cache.lane(new.image.url, new.image.format, backend, pool)
        arguments: dict[str, Any] = {
            "options": scheduling.clone_options(connection, specs, (backend, pool), source.depth)
        }
        if new.image:
            arguments["image"] = msgspec.to_builtins(new.image)
        if new.snapshot_id:
            arguments["snapshot_id"] = new.snapshot_id
        if new.source_volid:
            arguments["source_volid"] = new.source_volid
        queue.enqueue(
            connection,
            caller,
            operation_id,
            source.kind,
            backend=backend,
            volume_id=volume_id,
            lane=lane,
            arguments=arguments,
        )
    service.wake()
    return volume_id


def get(service: Service, caller: Caller, volume_id: str) -> Row:
    """Return a volume that the caller may see."""
    with service.database.read() as connection:
        return visible(connection, caller, volume_id)


def visible(connection: sa.Connection, caller: Caller, volume_id: str) -> Row:
    """Return a volume that the caller may see, inside a transaction."""
    row = rows.one(connection, tables.volumes, volume_id)
    if row is None or not (caller.is_admin or row.project_id == caller.project_id):
        raise NotFoundError(f"Volume {volume_id} could not be found.")
    return row


def delete(
    service: Service, caller: Caller, volume_id: str, *, cascade: bool = False, force: bool = False
) -> None:
    """Promise that a volume, with `cascade` its snapshots too, will be gone.

    `force` skips the check of its status, and asks an operation that is at work on it to stop.
    """
    step = transition("volume", "delete")
    with service.database.write() as connection:
        operation_id = numbering.number(connection)
        row = visible(connection, caller, volume_id)
        if rows.attachments_of(connection, [volume_id]):
            raise ConflictError(f"Invalid volume: Volume {volume_id} is still attached, detach volume first.")
        if row.status in {"managing", "error_managing"}:
            raise ConflictError(
                f"Invalid volume: Volume {volume_id} is {row.status}: what is on storage is not ours yet.",
                remedy="Cancel its operation, or unmanage it.",
            )
        if row.status == "cached":
            raise ConflictError(
                f"Invalid volume: Volume {volume_id} holds an image for others to be made from.",
                remedy="`breezeblock pool evict` lets it go.",
            )
        snapshots = rows.snapshots_of(connection, volume_id)
        if snapshots and not cascade:
            raise ConflictError(
                "Invalid volume: Volume status must be available or error or error_restoring or "
                "error_extending or error_managing and must not be migrating, attached, belong to a "
                "group, have snapshots, awaiting a transfer, or be disassociated from snapshots after "
                "volume transfer."
            )
        lane = queue.supersede(connection, row) if force else None
        _own(connection, row, step, operation_id, force=force)
        for snapshot in snapshots:
            _own_snapshot(connection, snapshot, operation_id, force=force)
        queue.enqueue(
            connection,
            caller,
            operation_id,
            "delete_volume",
            backend=row.backend,
            volume_id=volume_id,
            previous_status=row.status,
            lane=lane,
        )
    service.wake()


def force_delete(service: Service, caller: Caller, volume_id: str) -> None:
    """Delete whatever the status is (admin)."""
    caller.require_admin("volume_extension:volume_admin_actions:force_delete")
    delete(service, caller, volume_id, cascade=True, force=True)


def extend(service: Service, caller: Caller, volume_id: str, virtual_bytes: int) -> None:
    """Promise that a volume will have at least `virtual_bytes`."""
    step = transition("volume", "extend")
    with service.database.write() as connection:
        operation_id = numbering.number(connection)
        row = visible(connection, caller, volume_id)
        require_status("Volume", row, step)
        more = virtual_bytes - row.virtual_bytes
        if more <= 0:
            raise InvalidInputError(
                "Invalid input received: New size for extend must be greater than current size. "
                f"(current: {row.virtual_bytes // GIB}, extended: {virtual_bytes // GIB})."
            )
        _check_single(service, connection, caller, virtual_bytes)
        amounts = quota_amounts(types.name(connection, row.volume_type_id), virtual_bytes=more)
        quotas.take(connection, row.project_id, amounts, service.settings.quota)
        pool = pools.get(connection, row.backend, row.pool)
        reason = "it is not known" if pool is None else scheduling.refusal(pool, more, {})
        if pool is None or reason:
            raise scheduling.nowhere(virtual_bytes, [f"{row.backend}#{row.pool}: {reason}"])
        pools.provision(connection, row.backend, row.pool, more)
        _own(connection, row, step, operation_id)
        queue.enqueue(
            connection,
            caller,
            operation_id,
            "extend_volume",
            backend=row.backend,
            volume_id=volume_id,
            previous_status=row.status,
            arguments={"virtual_bytes": virtual_bytes},
        )
    service.wake()


def revert(service: Service, caller: Caller, volume_id: str, snapshot_id: str) -> None:
    """Promise that a volume will read as one of its snapshots; every snapshot stays."""
    with service.database.write() as connection:
        operation_id = numbering.number(connection)
        row = visible(connection, caller, volume_id)
        snapshot = rows.one(connection, tables.snapshots, snapshot_id)
        if snapshot is None or snapshot.volume_id != volume_id:
            raise NotFoundError(f"Snapshot {snapshot_id} could not be found.")
        newest = rows.snapshots_of(connection, volume_id)[-1]
        pool = pools.get(connection, row.backend, row.pool)
        able = "none" if pool is None else scheduling.capabilities(pool).revert
        if able == "none" or (able == "latest" and newest.id != snapshot_id):
            raise InvalidInputError(
                f"Back end {row.backend} can revert to {'no' if able == 'none' else 'the latest'} snapshot."
            )
        require_status("Volume", row, transition("volume", "revert"))
        require_status("Snapshot", snapshot, transition("snapshot", "revert"))
        _own(connection, row, transition("volume", "revert"), operation_id)
        rows.compare_and_set(
            connection,
            tables.snapshots,
            snapshot_id,
            transition("snapshot", "revert").sources,
            status=transition("snapshot", "revert").during,
            op_id=operation_id,
        )
        queue.enqueue(
            connection,
            caller,
            operation_id,
            "revert_volume",
            backend=row.backend,
            volume_id=volume_id,
            previous_status=row.status,
            arguments={"snapshot_id": snapshot_id},
        )
    service.wake()


def require_status(noun: str, row: Row, step: Transition) -> None:
    """Raise ConflictError unless the row is in a state from which the verb may start, and nobody's."""
    if row.status not in step.sources:
        raise ConflictError(
            f"Invalid {noun.lower()}: {noun} {row.id} status must be {' or '.join(step.sources)}, "
            f"but current status is: {row.status}."
        )
    if row.op_id is not None:
        raise ConflictError(
            f"Invalid {noun.lower()}: operation {row.op_id} is still at work on {noun.lower()} {row.id}."
        )


def _source(connection: sa.Connection, caller: Caller, new: NewVolume) -> _Source:
    if new.snapshot_id and new.source_volid:
        raise InvalidInputError("snapshot_id and source_volid cannot both be given.")
    if new.snapshot_id:
        snapshot = rows.one(connection, tables.snapshots, new.snapshot_id)
        if snapshot is None or not (caller.is_admin or snapshot.project_id == caller.project_id):
            raise NotFoundError(f"Snapshot {new.snapshot_id} could not be found.")
        if snapshot.status != "available":
            raise ConflictError(
                f"Invalid snapshot: Originating snapshot status must be one of 'available' values, "
                f"but it is {snapshot.status}."
            )
        origin = rows.one(connection, tables.volumes, snapshot.volume_id)
        assert origin is not None  # noqa: S101 - the foreign key
        return _from(origin, "create_volume_from_snapshot", snapshot.virtual_bytes)
    if new.source_volid:
        origin = visible(connection, caller, new.source_volid)
        if origin.status != "available":
            raise ConflictError(
                f"Invalid volume: Volume {origin.id} can be cloned while it is available, but it is "
                f"{origin.status}. Take a snapshot before it is attached, or detach it."
            )
        return _from(origin, "clone_volume", origin.virtual_bytes)
    return _Source(kind="import_volume" if new.image else "create_volume")


def _from(origin: Row, kind: str, virtual_bytes: int) -> _Source:
    return _Source(
        kind=kind,
        lane=origin.id,  # the source's chain must not change while it is read
        virtual_bytes=virtual_bytes,
        pool=(origin.backend, origin.pool),
        volume_type_id=origin.volume_type_id,
        bootable=origin.bootable,
        image_metadata=origin.image_metadata,
        depth=origin.depth,
    )


def _volume_type(
    connection: sa.Connection, caller: Caller, new: NewVolume, source: _Source, default: str
) -> Row:
    wanted = new.volume_type or source.volume_type_id or default
    found = types.find(connection, wanted)
    usable = found is not None and (
        found.is_public or caller.is_admin or caller.project_id in types.access(connection, found.id)
    )
    if found is None or not usable:
        raise NotFoundError(f"Volume type {wanted} could not be found.")
    return found


def _virtual_bytes(
    service: Service, connection: sa.Connection, caller: Caller, new: NewVolume, source: _Source
) -> int:
    virtual_bytes = new.virtual_bytes or source.virtual_bytes
    if virtual_bytes <= 0:
        raise InvalidInputError("Invalid input for field/attribute size: it must be at least 1 GiB.")
    if virtual_bytes < source.virtual_bytes:
        raise InvalidInputError(
            f"Invalid input received: Volume size '{virtual_bytes // GIB}' GB cannot be smaller than "
            f"original volume size {source.virtual_bytes // GIB}GB. They must be >= original volume size."
        )
    _check_single(service, connection, caller, virtual_bytes)
    return virtual_bytes


def _check_single(service: Service, connection: sa.Connection, caller: Caller, virtual_bytes: int) -> None:
    limit = quotas.limits(connection, caller.project_id, service.settings.quota).get(
        "per_volume_gigabytes", -1
    )
    if 0 <= limit < virtual_bytes // GIB:
        raise OverQuotaError(
            f"Requested volume size {virtual_bytes // GIB}G is larger than maximum allowed limit {limit}G."
        )


def _own(
    connection: sa.Connection, row: Row, step: Transition, operation_id: str, *, force: bool = False
) -> None:
    if force:
        rows.update(
            connection, tables.volumes, row.id, status=step.during, op_id=operation_id, updated_at=now()
        )
        return
    require_status("Volume", row, step)
    if not rows.compare_and_set(
        connection, tables.volumes, row.id, step.sources, status=step.during, op_id=operation_id
    ):
        raise ConflictError(f"Invalid volume: Volume {row.id} was changed by another request; try again.")


def _own_snapshot(connection: sa.Connection, row: Row, operation_id: str, *, force: bool) -> None:
    step = transition("snapshot", "delete")
    if force:
        queue.supersede(connection, row)  # its lane is the volume's, as ours is
    else:
        require_status("Snapshot", row, step)
    rows.update(
        connection, tables.snapshots, row.id, status=step.during, op_id=operation_id, updated_at=now()
    )
