"""Looking at operations, waiting for them, asking them to stop."""

import time
from typing import Any

import sqlalchemy as sa

from breezeblock.catalog import operations, pools, rows, tables
from breezeblock.errors import BreezeblockError, ConflictError, NotFoundError, UnavailableError
from breezeblock.operations.job import Environment
from breezeblock.operations.run import cancel_queued
from breezeblock.operations.table import VERBS
from breezeblock.service.core import Caller, Service

Row = sa.Row[Any]

LONG_PAUSE_S = 0.1
STATES = ("queued", "running", "done", "error", "cancelled")


def list_(
    service: Service,
    caller: Caller,
    *,
    states: tuple[str, ...] = (),
    volume_id: str | None = None,
    limit: int = 100,
    marker: str | None = None,
) -> list[Row]:
    """Return operations of the caller's project (an admin: of all), newest first."""
    table = tables.operations
    statement = sa.select(table).order_by(table.c.id.desc()).limit(limit)
    if not caller.is_admin:
        statement = statement.where(table.c.project_id == caller.project_id)
    if states:
        statement = statement.where(table.c.state.in_(states))
    if volume_id:
        statement = statement.where(table.c.volume_id == volume_id)
    if marker:
        statement = statement.where(table.c.id < marker)
    with service.database.read() as connection:
        return list(connection.execute(statement))


def get(service: Service, caller: Caller, operation_id: str) -> Row:
    """Return one operation that the caller may see."""
    with service.database.read() as connection:
        row = operations.get(connection, operation_id)
    if row is None or not (caller.is_admin or row.project_id == caller.project_id):
        raise NotFoundError(f"Operation {operation_id} could not be found.")
    return row


def cancel(service: Service, caller: Caller, operation_id: str) -> None:
    """Ask an operation to stop. It takes back what it did, unless it completes first.

    One that nobody has begun ends at once, also where no worker is left that could begin it.
    """
    get(service, caller, operation_id)
    environment = Environment(service.database, {}, service.settings.message_ttl_s, service.settings.images)
    with service.database.write() as connection:
        row = operations.get(connection, operation_id)
        if row is not None and cancel_queued(connection, environment, VERBS, row):
            return
        if not operations.request_cancel(connection, operation_id):
            raise ConflictError(f"Operation {operation_id} has already ended.")
    service.wake()


def wait(service: Service, operation_id: str) -> None:
    """Return when an operation is done; raise its reason when it failed, UnavailableError when late."""
    end = time.monotonic() + service.settings.connect_timeout_s
    pause = 0.001
    while time.monotonic() < end:
        with service.database.read() as connection:
            row = operations.get(connection, operation_id)
        if row is None or row.state == "done":
            return
        if row.state not in operations.LIVE:
            raise BreezeblockError(row.error or f"operation {operation_id} ended as {row.state}")
        if row.state == "queued" and pause == LONG_PAUSE_S and (reason := _down(service, row)):
            raise UnavailableError(
                f"operation {operation_id} waits for its pool: {reason}",
                remedy="It goes on by itself when the storage answers again.",
            )
        time.sleep(pause)
        pause = min(pause * 1.5, LONG_PAUSE_S)
    raise UnavailableError(
        f"operation {operation_id} is not done after {service.settings.connect_timeout_s:g} s; it goes on.",
        remedy="Look at it again later; 'breezeblock pool list' shows storage that does not answer.",
    )


def _down(service: Service, row: Row) -> str:
    with service.database.read() as connection:
        volume = rows.one(connection, tables.volumes, row.volume_id)
        return pools.down(connection, row.backend).get(volume.pool, "") if volume is not None else ""
