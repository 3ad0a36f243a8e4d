"""Promises about snapshots."""

from typing import Any

import msgspec
import sqlalchemy as sa

from breezeblock.catalog import families, numbering, pools, quotas, rows, tables, types
from breezeblock.catalog.clock import new_id, now
from breezeblock.catalog.states import ADMIN_SNAPSHOT_STATES, transition
from breezeblock.errors import ConflictError, InvalidInputError, NotFoundError
from breezeblock.operations.verbs import quota_amounts
from breezeblock.service import queue, scheduling, volumes
from breezeblock.service.core import Caller, Service
from breezeblock.service.volumes import require_status

Row = sa.Row[Any]


class NewSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller asks for."""

    volume_id: str
    name: str | None = None
    description: str | None = None
    metadata: dict[str, str] = {}
    force: bool = False
    """Leave to snapshot a volume in use, as if its host lost power now; where the back end can do that."""


def create(service: Service, caller: Caller, new: NewSnapshot) -> str:
    """Promise a snapshot of a volume; return its id."""
    snapshot_id = new_id()
    with service.database.write() as connection:
        operation_id = numbering.number(connection)
        volume = volumes.visible(connection, caller, new.volume_id)
        pool = pools.get(connection, volume.backend, volume.pool)
        online = new.force and pool is not None and scheduling.capabilities(pool).online_snapshots
        allowed = ("available", "in-use") if online else ("available",)
        if volume.status not in allowed:
            raise ConflictError(
                f"Invalid volume: Volume {volume.id} status must be {' or '.join(allowed)}, but current "
                f"status is: {volume.status}."
            )
        if pool is not None and not scheduling.capabilities(pool).snapshots:
            raise InvalidInputError(f"Back end {volume.backend} cannot take snapshots.")
        most = 0 if pool is None else pool.max_chain_depth
        if most and volume.depth >= most:
            _require_room(connection, volume)
        amounts = quota_amounts(
            types.name(connection, volume.volume_type_id), snapshots=1, virtual_bytes=volume.virtual_bytes
        )
        quotas.take(connection, volume.project_id, amounts, service.settings.quota)
        rows.insert(
            connection,
            tables.snapshots,
            id=snapshot_id,
            volume_id=volume.id,
            project_id=volume.project_id,
            user_id=caller.user_id,
            name=new.name,
            description=new.description,
            virtual_bytes=volume.virtual_bytes,
            status=transition("snapshot", "create").during,
            op_id=operation_id,
            metadata=msgspec.json.encode(new.metadata).decode(),
            created_at=now(),
        )
        queue.enqueue(
            connection,
            caller,
            operation_id,
            "create_snapshot",
            backend=volume.backend,
            volume_id=volume.id,
            resource_type="snapshot",
            resource_id=snapshot_id,
            arguments={"max_depth": most},
        )
    service.wake()
    return snapshot_id


def _require_room(connection: sa.Connection, volume: Row) -> None:
    """Raise ConflictError unless the chain, which is as deep as it may be, can be shortened."""
    if volume.hidden_layers and not families.has_children(connection, volume.id):
        return  # the operation does that first
    number = len(rows.snapshots_of(connection, volume.id))
    why = f"it has {number} snapshots"
    if volume.hidden_layers:
        why += f" and {volume.hidden_layers} layers that its clones need"
    if volume.parent_id:
        why += f", and it rests on volume {volume.parent_id}"
    raise ConflictError(
        f"Invalid volume: Volume {volume.id} is read through {volume.depth} layers, as many as its pool "
        f"allows: {why}. Delete snapshots{' or flatten it' if volume.parent_id else ''} first."
    )


def get(service: Service, caller: Caller, snapshot_id: str) -> Row:
    """Return a snapshot that the caller may see."""
    with service.database.read() as connection:
        return visible(connection, caller, snapshot_id)


def delete(service: Service, caller: Caller, snapshot_id: str, *, force: bool = False) -> None:
    """Promise that a snapshot will be gone, the volume and its other snapshots keeping their content."""
    step = transition("snapshot", "delete")
    with service.database.write() as connection:
        operation_id = numbering.number(connection)
        row = visible(connection, caller, snapshot_id)
        volume = rows.one(connection, tables.volumes, row.volume_id)
        assert volume is not None  # noqa: S101 - the foreign key
        pool = pools.get(connection, volume.backend, volume.pool)
        online = pool is not None and scheduling.capabilities(pool).online_snapshots
        if volume.status in {"in-use", "attaching", "detaching"} and not online:
            raise ConflictError(
                f"Invalid snapshot: its volume {volume.id} is {volume.status}; detach the volume first. "
                "Merging images under a running guest is not supported yet."
            )
        if force:
            queue.supersede(connection, row)
        else:
            require_status("Snapshot", row, step)
        rows.update(
            connection,
            tables.snapshots,
            snapshot_id,
            status=step.during,
            op_id=operation_id,
            updated_at=now(),
        )
        queue.enqueue(
            connection,
            caller,
            operation_id,
            "delete_snapshot",
            backend=volume.backend,
            volume_id=volume.id,
            resource_type="snapshot",
            resource_id=snapshot_id,
            previous_status=row.status,
        )
    service.wake()


def force_delete(service: Service, caller: Caller, snapshot_id: str) -> None:
    """Delete whatever the status is (admin)."""
    caller.require_admin("volume_extension:snapshot_admin_actions:force_delete")
    delete(service, caller, snapshot_id, force=True)


def reset_status(service: Service, caller: Caller, snapshot_id: str, status: str) -> None:
    """Write a status into the row, whatever it is (admin)."""
    caller.require_admin("volume_extension:snapshot_admin_actions:reset_status")
    if status not in ADMIN_SNAPSHOT_STATES:
        raise InvalidInputError(f"Invalid snapshot status: '{status}'.")
    with service.database.write() as connection:
        visible(connection, caller, snapshot_id)
        rows.update(connection, tables.snapshots, snapshot_id, status=status, updated_at=now())


def visible(connection: sa.Connection, caller: Caller, snapshot_id: str) -> Row:
    """Return a snapshot that the caller may see, inside a transaction."""
    row = rows.one(connection, tables.snapshots, snapshot_id)
    if row is None or not (caller.is_admin or row.project_id == caller.project_id):
        raise NotFoundError(f"Snapshot {snapshot_id} could not be found.")
    return row
