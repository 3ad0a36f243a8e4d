"""Snapshots as clients see them."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from msgspec import UNSET, Raw, Struct, UnsetType

from breezeblock.api.http import Request
from breezeblock.service.core import GIB

Row = sa.Row[Any]


class Snapshot(
    Struct,
    gc=False,
    rename={
        "progress": "os-extended-snapshot-attributes:progress",
        "project_id": "os-extended-snapshot-attributes:project_id",
    },
):
    """A snapshot."""

    id: str
    name: str | None
    description: str | None
    volume_id: str
    status: str
    size: int
    created_at: str
    updated_at: str | None
    metadata: Raw
    group_snapshot_id: str | UnsetType | None = UNSET
    user_id: str | UnsetType = UNSET
    consumes_quota: bool | UnsetType = UNSET
    progress: str | UnsetType = UNSET
    project_id: str | UnsetType = UNSET


def brief(row: Row) -> Snapshot:
    """Return a snapshot as lists without details have it."""
    return Snapshot(
        row.id,
        row.name,
        row.description,
        row.volume_id,
        row.status,
        -(-row.virtual_bytes // GIB),
        row.created_at,
        row.updated_at,
        Raw(row.metadata),
    )


def detailed(request: Request, row: Row, *, extended: bool = True) -> Snapshot:
    """Return a snapshot with everything; `extended` off for the answers to create and update."""
    view = brief(row)
    if request.at_least(14):
        view.group_snapshot_id = None
    if request.at_least(41):
        view.user_id = row.user_id
    if request.at_least(65):
        view.consumes_quota = True
    if extended:
        view.progress = row.progress
        view.project_id = row.project_id
    return view


def listed(request: Request, rows: Sequence[Row], *, detail: bool) -> list[Snapshot]:
    """Return the snapshots of a list."""
    return [detailed(request, row) if detail else brief(row) for row in rows]
