"""Attachments as clients see them.

`connection_info` is flattened: Nova and os-brick put `driver_volume_type` and `data` together again from
the keys at its top.
"""

from typing import Any

import msgspec
import sqlalchemy as sa
from msgspec import UNSET, Struct, UnsetType

Row = sa.Row[Any]


class Attachment(Struct):
    """An attachment."""

    id: str
    status: str
    instance: str | None
    volume_id: str
    attached_at: str | UnsetType = UNSET
    detached_at: str | UnsetType = UNSET
    attach_mode: str | UnsetType | None = UNSET
    connection_info: dict[str, Any] | UnsetType = UNSET


def brief(row: Row) -> Attachment:
    """Return an attachment as lists without details have it."""
    return Attachment(row.id, row.status, row.instance_id, row.volume_id)


def detailed(row: Row) -> Attachment:
    """Return an attachment with its connection."""
    view = brief(row)
    view.attached_at = row.attached_at or ""
    view.detached_at = ""
    view.attach_mode = row.attach_mode
    view.connection_info = _connection_info(row)
    return view


def _connection_info(row: Row) -> dict[str, Any]:
    if not row.connection_info:
        return {}
    found = msgspec.json.decode(row.connection_info)
    return {
        "enforce_multipath": False,
        "qos_specs": None,
        "encrypted": False,
        "cacheable": False,
        **found.get("data", {}),
        "access_mode": row.attach_mode or "rw",
        "driver_volume_type": found["driver_volume_type"],
        "attachment_id": row.id,
    }
