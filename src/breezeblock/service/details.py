"""What users say about volumes and snapshots: names, descriptions, metadata. The storage is not touched."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from breezeblock.catalog import rows, tables
from breezeblock.catalog.clock import now
from breezeblock.errors import InvalidInputError, NotFoundError
from breezeblock.service.core import Caller, Service

Row = sa.Row[Any]

Kind = Literal["volume", "snapshot"]
Metadata = dict[str, str]

MAX_METADATA = 128
"""Entries a resource can have; Nova's limit too."""

_REPORTS = {
    "creating": ("creating", "available", "error"),
    "deleting": ("deleting", "error_deleting"),
}
_TABLES = {"volume": tables.volumes, "snapshot": tables.snapshots}


def update(service: Service, caller: Caller, kind: Kind, resource_id: str, values: Mapping[str, Any]) -> None:
    """Change name, description or metadata (which is replaced)."""
    with service.database.write() as connection:
        _visible(connection, caller, kind, resource_id)
        changed = dict(values)
        if "metadata" in changed:
            changed["metadata"] = _text(changed["metadata"])
        rows.update(connection, _TABLES[kind], resource_id, updated_at=now(), **changed)


def report_snapshot(
    service: Service, caller: Caller, snapshot_id: str, *, status: str, progress: str | None = None
) -> None:
    """Note what a hypervisor says, in its user's name, about a snapshot that it takes or removes.

    Only of a snapshot that no operation of ours owns: our own know better.
    """
    with service.database.write() as connection:
        row = _visible(connection, caller, "snapshot", snapshot_id)
        allowed = _REPORTS.get(row.status, ())
        if row.op_id is not None or status not in allowed:
            raise InvalidInputError(
                f"Provided snapshot status {status} not allowed for snapshot with status {row.status}."
            )
        values = {"status": status} if progress is None else {"status": status, "progress": progress}
        rows.update(connection, tables.snapshots, snapshot_id, updated_at=now(), **values)


def metadata(service: Service, caller: Caller, kind: Kind, resource_id: str) -> Metadata:
    """Return the metadata."""
    with service.database.read() as connection:
        return _decode(_visible(connection, caller, kind, resource_id).metadata)


def change_metadata(
    service: Service,
    caller: Caller,
    kind: Kind,
    resource_id: str,
    change: Callable[[Metadata], Metadata],
) -> Metadata:
    """Replace the metadata by what `change` makes of it, in one transaction; return it.

    What `change` raises, a failed precondition for example, undoes everything.
    """
    return _change(service, caller, kind, resource_id, "metadata", change)


def change_image_metadata(
    service: Service, caller: Caller, volume_id: str, change: Callable[[Metadata], Metadata]
) -> Metadata:
    """Replace what is remembered of the image a volume was made from; return it."""
    return _change(service, caller, "volume", volume_id, "image_metadata", change)


def _change(
    service: Service,
    caller: Caller,
    kind: Kind,
    resource_id: str,
    column: str,
    change: Callable[[Metadata], Metadata],
) -> Metadata:
    with service.database.write() as connection:
        # Read after the write lock where the database has one; locked where it has rows to lock.
        table = _TABLES[kind]
        connection.execute(sa.update(table).where(table.c.id == resource_id).values(id=resource_id))
        row = _visible(connection, caller, kind, resource_id)
        changed = change(_decode(getattr(row, column)))
        rows.update(connection, table, resource_id, updated_at=now(), **{column: _text(changed)})
    return changed


def _visible(connection: sa.Connection, caller: Caller, kind: Kind, resource_id: str) -> Row:
    row = rows.one(connection, _TABLES[kind], resource_id)
    if row is None or not (caller.is_admin or row.project_id == caller.project_id):
        raise NotFoundError(f"{kind.capitalize()} {resource_id} could not be found.")
    return row


def _decode(text: str) -> Metadata:
    found: Metadata = msgspec.json.decode(text)
    return found


def _text(entries: Metadata) -> str:
    if len(entries) > MAX_METADATA:
        raise InvalidInputError(
            f"Invalid metadata: {len(entries)} entries; at most {MAX_METADATA} are allowed."
        )
    return msgspec.json.encode(entries).decode()
