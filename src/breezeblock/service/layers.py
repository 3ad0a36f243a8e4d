"""Promises about the layers that a volume is read through: how many there may be, and getting rid of them."""

from typing import Any

import sqlalchemy as sa

from breezeblock.catalog import families as catalog
from breezeblock.catalog import numbering, rows, tables
from breezeblock.catalog.clock import now
from breezeblock.catalog.families import Member
from breezeblock.catalog.states import transition
from breezeblock.errors import ConflictError
from breezeblock.service import queue
from breezeblock.service.core import Caller, Service
from breezeblock.service.volumes import require_status, visible

Row = sa.Row[Any]


def flatten(service: Service, caller: Caller, volume_id: str) -> None:
    """Promise that a volume will share nothing with the one that it was made from."""
    with service.database.write() as connection:
        row = visible(connection, caller, volume_id)
        if catalog.has_children(connection, volume_id):
            raise ConflictError(
                f"Invalid volume: volumes that were cloned from volume {volume_id} rest on it; flatten or "
                "delete those first."
            )
        _enqueue(connection, caller, row, "flatten")
    service.wake()


def shorten(service: Service, caller: Caller, volume_id: str) -> None:
    """Promise that what no snapshot and no clone needs of a volume's chain will be merged."""
    with service.database.write() as connection:
        _enqueue(connection, caller, visible(connection, caller, volume_id), "shorten")
    service.wake()


def families(service: Service, caller: Caller, *, all_projects: bool = False) -> list[Member]:
    """Return the volumes that are read through several layers or share some, and what is kept of others."""
    if all_projects:
        caller.require_admin("volume:get_all_chains")
    with service.database.read() as connection:
        return catalog.members(connection, None if all_projects else caller.project_id)


def shorten_due(connection: sa.Connection, budgets: dict[str, int], limit: int) -> int:
    """Queue the shortening of idle volumes; `budgets` = bytes a second for each back end, 0 = none."""
    due = catalog.shortenable(connection, {name for name, budget in budgets.items() if budget}, limit)
    for row in due:
        caller = Caller(project_id=row.project_id, user_id=row.user_id)
        _enqueue(connection, caller, row, "shorten", io_bytes_per_s=budgets[row.backend])
    return len(due)


def _enqueue(connection: sa.Connection, caller: Caller, row: Row, verb: str, **arguments: int) -> None:
    require_status("Volume", row, transition("volume", verb))
    operation_id = numbering.number(connection)
    rows.update(connection, tables.volumes, row.id, op_id=operation_id, updated_at=now())
    queue.enqueue(
        connection,
        caller,
        operation_id,
        f"{verb}_volume",
        backend=row.backend,
        volume_id=row.id,
        previous_status=row.status,
        arguments=arguments,
    )
