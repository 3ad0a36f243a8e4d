"""Putting an operation into its lane, inside the transaction that promises it."""

from collections.abc import Mapping
from typing import Any

import msgspec
import sqlalchemy as sa

from breezeblock.catalog import operations
from breezeblock.service.core import Caller


def enqueue(
    connection: sa.Connection,
    caller: Caller,
    operation_id: str,
    kind: str,
    *,
    backend: str,
    volume_id: str | None,
    resource_type: str = "volume",
    resource_id: str | None = None,
    lane: str | None = None,
    previous_status: str | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> None:
    """Queue an operation on a volume; its lane is the volume's unless another is named."""
    operations.enqueue(
        connection,
        id=operation_id,
        kind=kind,
        lane=lane or volume_id or operation_id,
        backend=backend,
        resource_type=resource_type,
        resource_id=resource_id or volume_id or "",
        volume_id=volume_id,
        previous_status=previous_status,
        arguments=msgspec.json.encode(arguments or {}).decode(),
        project_id=caller.project_id,
        user_id=caller.user_id,
        request_id=caller.request_id,
    )


def supersede(connection: sa.Connection, row: sa.Row[Any]) -> str | None:
    """Ask the operation that owns a row to stop; return its lane, in which its successor must wait."""
    if row.op_id is None:
        return None
    owner = operations.get(connection, row.op_id)
    if owner is None or owner.state not in operations.LIVE:
        return None
    operations.request_cancel(connection, owner.id)
    lane: str = owner.lane
    return lane
