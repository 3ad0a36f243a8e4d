"""What the deployment is made of: its pools and its processes."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from breezeblock.catalog import infrastructure
from breezeblock.catalog import pools as pool_rows
from breezeblock.errors import NotFoundError
from breezeblock.service.core import Caller, Service

Row = sa.Row[Any]


def pools(service: Service, caller: Caller) -> Sequence[Row]:
    """Return every pool (admin)."""
    caller.require_admin("scheduler_extension:scheduler_stats:get_pools")
    with service.database.read() as connection:
        return pool_rows.all_pools(connection)


def services(
    service: Service, caller: Caller, *, host: str | None = None, binary: str | None = None
) -> Sequence[Row]:
    """Return the processes that have reported (admin)."""
    caller.require_admin("volume_extension:services:index")
    with service.database.read() as connection:
        return infrastructure.list_services(connection, host=host, binary=binary)


def set_disabled(
    service: Service, caller: Caller, host: str, binary: str, *, disabled: bool, reason: str | None = None
) -> None:
    """Take a process out of scheduling, or put it back (admin)."""
    caller.require_admin("volume_extension:services:update")
    with service.database.write() as connection:
        done = infrastructure.set_service_disabled(connection, host, binary, disabled=disabled, reason=reason)
    if not done:
        raise NotFoundError(f"Service {binary} could not be found on host {host}.")
