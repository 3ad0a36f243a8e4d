"""What is only written on a volume's row, and never on storage: a status by hand, bootable, read-only."""

from typing import Any

import sqlalchemy as sa

from breezeblock.catalog import pools, rows, tables
from breezeblock.catalog.clock import now
from breezeblock.catalog.states import ADMIN_VOLUME_STATES
from breezeblock.errors import ConflictError, InvalidInputError
from breezeblock.service import scheduling
from breezeblock.service.core import Caller, Service
from breezeblock.service.volumes import visible


def reset_status(
    service: Service,
    caller: Caller,
    volume_id: str,
    *,
    status: str | None = None,
    attach_status: str | None = None,
    migration_status: str | None = None,
) -> None:
    """Write a status into the row, whatever it is (admin). An operation at work is not stopped by it."""
    caller.require_admin("volume_extension:volume_admin_actions:reset_status")
    values: dict[str, Any] = {}
    if status is not None:
        if status not in ADMIN_VOLUME_STATES:
            raise InvalidInputError(f"Invalid volume status: '{status}'.")
        values["status"] = status
    if migration_status is not None:
        values["migration_status"] = None if migration_status == "none" else migration_status
    with service.database.write() as connection:
        visible(connection, caller, volume_id)
        if attach_status == "detached":
            table = tables.attachments
            connection.execute(sa.delete(table).where(table.c.volume_id == volume_id))
        if values or attach_status:
            rows.update(connection, tables.volumes, volume_id, updated_at=now(), **values)


def set_bootable(service: Service, caller: Caller, volume_id: str, bootable: bool) -> None:
    """Say whether the volume can be booted from."""
    _set(service, caller, volume_id, bootable=bootable)


def set_readonly(service: Service, caller: Caller, volume_id: str, readonly: bool) -> None:
    """Say whether hosts may only read the volume. Raises ConflictError where nobody can write it."""
    with service.database.read() as connection:
        row = visible(connection, caller, volume_id)
        pool = pools.get(connection, row.backend, row.pool)
    if not readonly and pool is not None and scheduling.capabilities(pool).read_only:
        raise ConflictError(f"Invalid volume: Volume {volume_id} is in a pool that is only read.")
    _set(service, caller, volume_id, readonly=readonly)


def _set(service: Service, caller: Caller, volume_id: str, **values: Any) -> None:
    with service.database.write() as connection:
        visible(connection, caller, volume_id)
        rows.update(connection, tables.volumes, volume_id, updated_at=now(), **values)
