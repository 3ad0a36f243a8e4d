"""Promises about attachments: which host may use a volume, and how it gets there.

A volume that is not multi-attachable has one attachment at most. Connecting asks the back end, so it is
an operation like any other, run where the back end is; the caller waits for it, because the Block
Storage API answers these calls with their result.
"""

from typing import Any

import msgspec
import sqlalchemy as sa

from breezeblock.catalog import numbering, rows, tables
from breezeblock.catalog.clock import new_id, now
from breezeblock.catalog.states import transition
from breezeblock.errors import ConflictError, InvalidInputError, NotFoundError
from breezeblock.operations.verbs import settle_attach_status
from breezeblock.service import operations, queue
from breezeblock.service.core import Caller, Service
from breezeblock.service.volumes import visible

Row = sa.Row[Any]

MAX_CONNECTOR_BYTES = 65_536


class NewAttachment(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller asks for; without a connector the volume is only reserved."""

    volume_id: str
    instance_id: str | None = None
    connector: dict[str, Any] | None = None
    mode: str | None = None


def create(service: Service, caller: Caller, new: NewAttachment) -> str:
    """Reserve a volume and, with a connector, connect it; return the attachment's id."""
    attachment_id = new_id()
    with service.database.write() as connection:
        volume = visible(connection, caller, new.volume_id)
        _require_attachable(connection, volume)
        _access(volume, new.mode)
        rows.insert(
            connection,
            tables.attachments,
            id=attachment_id,
            volume_id=volume.id,
            project_id=volume.project_id,
            instance_id=new.instance_id,
            status="reserved",
            attach_mode=new.mode,
            created_at=now(),
        )
        rows.update(connection, tables.volumes, volume.id, status="reserved", updated_at=now())
    if new.connector is not None:
        connect(service, caller, attachment_id, new.connector, new.mode)
    return attachment_id


def get(service: Service, caller: Caller, attachment_id: str) -> Row:
    """Return an attachment that the caller may see."""
    with service.database.read() as connection:
        return _visible(connection, caller, attachment_id)


def by_volumes(connection: sa.Connection, volume_ids: list[str]) -> list[Row]:
    """Return the attachments of some volumes."""
    return rows.attachments_of(connection, volume_ids)


def connect(
    service: Service,
    caller: Caller,
    attachment_id: str,
    connector: dict[str, Any],
    mode: str | None = None,
) -> None:
    """Find out how the host that `connector` describes reaches the volume; waits for the answer."""
    text = msgspec.json.encode(connector).decode()
    if len(text) > MAX_CONNECTOR_BYTES:
        raise InvalidInputError(
            f"Invalid input for field connector: longer than {MAX_CONNECTOR_BYTES} bytes."
        )
    step = transition("attachment", "connect")
    with service.database.write() as connection:
        operation_id = numbering.number(connection)
        row = _visible(connection, caller, attachment_id)
        volume = visible(connection, caller, row.volume_id)
        access = _access(volume, mode or row.attach_mode)
        ready = rows.compare_and_set(
            connection,
            tables.attachments,
            attachment_id,
            (*step.sources, "attaching"),
            status=step.during,
            op_id=operation_id,
            connector=text,
            host_name=connector.get("host"),
            mountpoint=connector.get("mountpoint"),
            attach_mode=access,
        )
        if not ready:
            raise ConflictError(f"Invalid attachment: Attachment {attachment_id} is {row.status}.")
        rows.update(connection, tables.volumes, volume.id, status="attaching", updated_at=now())
        queue.enqueue(
            connection,
            caller,
            operation_id,
            "connect_attachment",
            backend=volume.backend,
            volume_id=volume.id,
            resource_type="attachment",
            resource_id=attachment_id,
            previous_status=row.status,
        )
    service.wake()
    operations.wait(service, operation_id)


def complete(service: Service, caller: Caller, attachment_id: str) -> None:
    """Note that the host has the volume."""
    step = transition("attachment", "complete")
    with service.database.write() as connection:
        row = _visible(connection, caller, attachment_id)
        done = rows.compare_and_set(
            connection,
            tables.attachments,
            attachment_id,
            step.sources,
            status=step.done,
            attached_at=now(),
        )
        if not done:
            raise ConflictError(
                f"Invalid attachment: Attachment {attachment_id} must be attaching, it is {row.status}."
            )
        rows.update(connection, tables.volumes, row.volume_id, status="in-use", updated_at=now())


def delete(service: Service, caller: Caller, attachment_id: str) -> list[Row]:
    """Withdraw an attachment; return those that the volume still has."""
    with service.database.write() as connection:
        operation_id = numbering.number(connection)
        row = _visible(connection, caller, attachment_id)
        volume = visible(connection, caller, row.volume_id)
        if row.connector is None:
            connection.execute(sa.delete(tables.attachments).where(tables.attachments.c.id == row.id))
            left = rows.attachments_of(connection, [row.volume_id])
            settle_attach_status(connection, row.volume_id, [other.status for other in left])
            return left
        # Two disconnects of one attachment are one: the second takes the row over.
        rows.update(connection, tables.attachments, row.id, op_id=operation_id, updated_at=now())
        queue.enqueue(
            connection,
            caller,
            operation_id,
            "disconnect_attachment",
            backend=volume.backend,
            volume_id=volume.id,
            resource_type="attachment",
            resource_id=row.id,
            previous_status=row.status,
        )
    service.wake()
    operations.wait(service, operation_id)
    with service.database.read() as connection:
        return rows.attachments_of(connection, [row.volume_id])


def _require_attachable(connection: sa.Connection, volume: Row) -> None:
    others = rows.attachments_of(connection, [volume.id])
    allowed = ("available", "in-use", "reserved", "attaching") if volume.multiattach else ("available",)
    if volume.status not in allowed or (others and not volume.multiattach):
        raise ConflictError(
            f"Invalid volume: Volume {volume.id} status must be {' or '.join(allowed)} to attach, "
            f"but current status is: {volume.status}."
        )
    if volume.op_id is not None:
        raise ConflictError(f"Invalid volume: operation {volume.op_id} is still at work on it.")


def _access(volume: Row, mode: str | None) -> str:
    """Return how a volume is used, where nothing is said as it can be. Raises ConflictError."""
    access = mode or ("ro" if volume.readonly else "rw")
    if volume.readonly and access != "ro":
        raise ConflictError(f"Invalid volume: Volume {volume.id} is read-only; attach it with mode 'ro'.")
    return access


def _visible(connection: sa.Connection, caller: Caller, attachment_id: str) -> Row:
    row = rows.one(connection, tables.attachments, attachment_id)
    if row is None or not (caller.is_admin or row.project_id == caller.project_id):
        raise NotFoundError(
            f"Volume attachment could not be found with filter: attachment_id = {attachment_id}."
        )
    return row
