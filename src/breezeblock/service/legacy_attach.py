"""The volume actions with which clients attached before microversion 3.27, told in attachments."""

from typing import Any

import msgspec
import sqlalchemy as sa

from breezeblock.catalog import rows, tables
from breezeblock.catalog.clock import new_id, now
from breezeblock.catalog.states import transition
from breezeblock.errors import ConflictError, NotFoundError
from breezeblock.service import attachments
from breezeblock.service.core import Caller, Service
from breezeblock.service.volumes import require_status, visible

Row = sa.Row[Any]


def reserve(service: Service, caller: Caller, volume_id: str) -> None:
    """Keep everybody else off an available volume. These clients then look for `attaching`."""
    attachments.create(service, caller, attachments.NewAttachment(volume_id=volume_id))
    with service.database.write() as connection:
        rows.compare_and_set(connection, tables.volumes, volume_id, ("reserved",), status="attaching")


def unreserve(service: Service, caller: Caller, volume_id: str) -> None:
    """Withdraw `reserve`."""
    for row in _of(service, caller, volume_id):
        if row.status in {"reserved", "attaching", "error_attaching"}:
            attachments.delete(service, caller, row.id)


def begin_detaching(service: Service, caller: Caller, volume_id: str) -> None:
    """Note that a host is about to let go."""
    _move(service, caller, volume_id, "begin_detaching")


def roll_detaching(service: Service, caller: Caller, volume_id: str) -> None:
    """Note that it did not."""
    _move(service, caller, volume_id, "roll_detaching")


def initialize_connection(
    service: Service, caller: Caller, volume_id: str, connector: dict[str, Any]
) -> dict[str, Any]:
    """Return the connection info for a host."""
    found = _of(service, caller, volume_id)
    open_ = [row for row in found if row.status in {"reserved", "attaching"}]
    if open_:
        attachment_id = open_[0].id
        attachments.connect(service, caller, attachment_id, connector)
    elif found:
        attachment_id = found[0].id  # asked again for a volume that is attached: the same answer
    else:
        new = attachments.NewAttachment(volume_id=volume_id, connector=connector)
        attachment_id = attachments.create(service, caller, new)
    row = attachments.get(service, caller, attachment_id)
    info: dict[str, Any] = msgspec.json.decode(row.connection_info or "{}")
    info.get("data", {})["access_mode"] = row.attach_mode or "rw"
    return info


def terminate_connection(service: Service, caller: Caller, volume_id: str, connector: dict[str, Any]) -> None:
    """Withdraw what `initialize_connection` granted to a host; the volume is still marked attached."""
    host = connector.get("host")
    for row in _of(service, caller, volume_id):
        if row.status == "attaching" and row.connector and host in {None, row.host_name}:
            attachments.delete(service, caller, row.id)


def attach(
    service: Service,
    caller: Caller,
    volume_id: str,
    *,
    instance_id: str | None,
    host_name: str | None,
    mountpoint: str,
    mode: str | None,
) -> None:
    """Note that a host or guest has the volume."""
    with service.database.write() as connection:
        volume = visible(connection, caller, volume_id)
        step = transition("volume", "attach")
        if volume.status not in (*step.sources, "attaching"):
            raise ConflictError(
                f"Invalid volume: Volume {volume_id} status must be available or reserved or attaching, "
                f"but current status is: {volume.status}."
            )
        values = {
            "status": "attached",
            "instance_id": instance_id,
            "host_name": host_name,
            "mountpoint": mountpoint,
            "attach_mode": mode or "rw",
            "attached_at": now(),
        }
        found = rows.attachments_of(connection, [volume_id])
        if found:
            rows.update(connection, tables.attachments, found[0].id, updated_at=now(), **values)
        else:
            rows.insert(
                connection,
                tables.attachments,
                id=new_id(),
                volume_id=volume_id,
                project_id=volume.project_id,
                created_at=now(),
                **values,
            )
        rows.update(connection, tables.volumes, volume_id, status="in-use", updated_at=now())


def detach(
    service: Service,
    caller: Caller,
    volume_id: str,
    attachment_id: str | None = None,
    *,
    force: bool = False,
) -> None:
    """Note that the host let go, and withdraw its access. `force` (admin) skips the check of the status."""
    if force:
        caller.require_admin("volume_extension:volume_admin_actions:force_detach")
    found = _of(service, caller, volume_id)
    if attachment_id is not None:
        found = [row for row in found if row.id == attachment_id]
    if not found:
        if attachment_id is not None:
            raise NotFoundError(
                f"Volume attachment could not be found with filter: attachment_id = {attachment_id}."
            )
        if not force:
            raise ConflictError(f"Invalid volume: Volume {volume_id} is not attached.")
    for row in found:
        attachments.delete(service, caller, row.id)


def _of(service: Service, caller: Caller, volume_id: str) -> list[Row]:
    with service.database.read() as connection:
        visible(connection, caller, volume_id)
        return rows.attachments_of(connection, [volume_id])


def _move(service: Service, caller: Caller, volume_id: str, verb: str) -> None:
    step = transition("volume", verb)
    with service.database.write() as connection:
        row = visible(connection, caller, volume_id)
        require_status("Volume", row, step)
        rows.compare_and_set(connection, tables.volumes, volume_id, step.sources, status=step.done)
