"""Volume types, messages, pools, services and operations as clients see them."""

from typing import Any

import msgspec
import sqlalchemy as sa
from msgspec import UNSET, Raw, Struct, UnsetType

from breezeblock.api.http import Request

Row = sa.Row[Any]

VISIBLE_SPECS = ("RESKEY:availability_zones", "multiattach", "replication_enabled")
"""The extra specs that a user may see; others tell how the storage is built."""


class VolumeType(Struct, rename={"access_is_public": "os-volume-type-access:is_public"}):
    """A volume type."""

    id: str
    name: str
    description: str | None
    is_public: bool
    extra_specs: dict[str, str] | UnsetType = UNSET
    access_is_public: bool | UnsetType = UNSET
    qos_specs_id: str | UnsetType | None = UNSET


class Message(Struct):
    """Why something failed, in words for the user."""

    id: str
    event_id: str
    user_message: str
    message_level: str
    request_id: str
    created_at: str
    guaranteed_until: str
    links: Raw
    resource_type: str | UnsetType = UNSET
    resource_uuid: str | UnsetType = UNSET


class Operation(Struct):
    """A piece of work, queued, running or ended."""

    id: str
    kind: str
    state: str
    progress: int | None
    """Per cent, where it is known."""
    progress_done: int
    """Bytes."""
    progress_total: int
    resource_type: str
    resource_id: str
    volume_id: str | None
    error: str | None
    cancel_requested: bool
    attempts: int
    request_id: str
    created_at: str
    started_at: str | None
    finished_at: str | None


def specs(request: Request, row: Row) -> dict[str, str]:
    """Return the extra specs of a type that the caller may see."""
    found: dict[str, str] = msgspec.json.decode(row.extra_specs)
    if request.caller.is_admin:
        return found
    return {key: value for key, value in found.items() if key in VISIBLE_SPECS}


def volume_type(request: Request, row: Row, *, access: bool = True, qos: bool = True) -> VolumeType:
    """Return a volume type."""
    view = VolumeType(row.id, row.name, row.description, row.is_public, specs(request, row))
    if access:
        view.access_is_public = row.is_public
    if qos and request.caller.is_admin:
        view.qos_specs_id = None
    return view


def message(request: Request, row: Row) -> Message:
    """Return a message."""
    view = Message(
        row.id,
        row.event_id,
        row.user_message,
        row.message_level,
        row.request_id,
        row.created_at,
        row.expires_at,
        Raw(
            f'[{{"rel":"self","href":"{request.project_url}/messages/{row.id}"}},'
            f'{{"rel":"bookmark","href":"{request.bookmark_url}/messages/{row.id}"}}]'
        ),
    )
    if row.resource_type:
        view.resource_type = row.resource_type
    if row.resource_uuid:
        view.resource_uuid = row.resource_uuid
    return view


def operation(row: Row) -> Operation:
    """Return an operation."""
    done = row.state == "done"
    progress = 100 if done else None
    if not done and row.progress_total > 0:
        progress = min(99, row.progress_done * 100 // row.progress_total)
    return Operation(
        row.id,
        row.kind,
        row.state,
        progress,
        row.progress_done,
        row.progress_total,
        row.resource_type,
        row.resource_id,
        row.volume_id,
        row.error,
        row.cancel_requested,
        row.attempts,
        row.request_id,
        row.created_at,
        row.started_at,
        row.finished_at,
    )
