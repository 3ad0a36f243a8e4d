"""Rows of volumes and snapshots that were on storage before the catalog knew of them."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import sqlalchemy as sa

from breezeblock.backends.contract import Ancestor, Snapshot
from breezeblock.catalog import families, quotas, rows, tables, types
from breezeblock.catalog.clock import later, now
from breezeblock.operations.verbs import quota_amounts


def add_snapshots(
    connection: sa.Connection,
    volume: sa.Row[Any],
    found: Iterable[Snapshot],
    known: Mapping[str, Mapping[str, Any]] | None = None,
) -> int:
    """Add the rows of those snapshots (oldest first) that the catalog lacks; return how many.

    `known` gives more columns by snapshot id. Quota counts them and refuses none: they exist.
    """
    added = 0
    for place, snapshot in enumerate(found):
        if rows.one(connection, tables.snapshots, snapshot.id) is not None:
            continue
        values = {
            "name": None,
            "description": None,
            "metadata": "{}",
            "created_at": later(place / 1e6),  # their order is known, their age is not
            **((known or {}).get(snapshot.id) or {}),
        }
        rows.insert(
            connection,
            tables.snapshots,
            id=snapshot.id,
            volume_id=volume.id,
            project_id=volume.project_id,
            user_id=volume.user_id,
            virtual_bytes=snapshot.virtual_bytes,
            status="available",
            locator=snapshot.locator,
            progress="100%",
            **values,
        )
        name = types.name(connection, volume.volume_type_id)
        amounts = quota_amounts(name, snapshots=1, virtual_bytes=snapshot.virtual_bytes)
        quotas.count(connection, volume.project_id, amounts)
        added += 1
    return added


def add_kept(connection: sa.Connection, volume: sa.Row[Any], ancestors: tuple[Ancestor, ...]) -> int:
    """Add what the catalog lacks of deleted volumes that this one rests on; return how many there were."""
    added = 0
    for place, one in enumerate(ancestors):
        known = families.one_kept(connection, one.id) or rows.one(connection, tables.volumes, one.id)
        if not one.gone or known is not None:
            continue
        rows.insert(
            connection,
            tables.kept_volumes,
            id=one.id,
            backend=volume.backend,
            pool=volume.pool,
            project_id=volume.project_id,  # whose it was is not known; those who rest on it need it
            parent_id=ancestors[place + 1].id if place + 1 < len(ancestors) else None,
            deleted_at=now(),
        )
        added += 1
    return added


def as_json(value: object) -> str:
    """Return the text that a JSON column holds."""
    return msgspec.json.encode(value).decode()
