"""Reading what the catalog holds, seen by one caller: their project's rows, or everyone's for an admin."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from breezeblock.catalog import listing, rows, tables
from breezeblock.catalog.clock import now
from breezeblock.catalog.listing import Condition, Listing, Page
from breezeblock.errors import NotFoundError
from breezeblock.service.core import Caller, Service

Row = sa.Row[Any]


class Found(msgspec.Struct, frozen=True):
    """One page, and how long the whole list is where that was asked for."""

    rows: Sequence[Row]
    count: int | None = None


def volumes(
    service: Service,
    caller: Caller,
    conditions: Sequence[Condition],
    page: Page,
    *,
    all_projects: bool = False,
    count: bool = False,
) -> tuple[Found, Mapping[str, list[Row]]]:
    """Return a page of volumes, and by volume the attachments that are attached."""
    also = _mine(listing.VOLUMES, caller, all_projects=all_projects)
    with service.database.read() as connection:
        found = _page(connection, listing.VOLUMES, conditions, page, also, "Volume", count=count)
        return found, _attached(connection, [row.id for row in found.rows])


_UNATTACHED = frozenset({"creating", "available", "extending", "deleting"})
"""States in which nothing is attached: what clients ask for again and again while they wait."""


def volume(service: Service, caller: Caller, volume_id: str) -> tuple[Row, list[Row]]:
    """Return a volume with its type's name, and what is attached of it."""
    with service.database.read() as connection:
        row = listing.one(connection, listing.VOLUMES, volume_id, *_visible(listing.VOLUMES, caller))
        if row is None:
            raise NotFoundError(f"Volume {volume_id} could not be found.")
        if row.status in _UNATTACHED:
            return row, []
        return row, _attached(connection, [volume_id]).get(volume_id, [])


def snapshots(
    service: Service,
    caller: Caller,
    conditions: Sequence[Condition],
    page: Page,
    *,
    all_projects: bool = False,
    count: bool = False,
) -> Found:
    """Return a page of snapshots."""
    also = _mine(listing.SNAPSHOTS, caller, all_projects=all_projects)
    with service.database.read() as connection:
        return _page(connection, listing.SNAPSHOTS, conditions, page, also, "Snapshot", count=count)


def attachments(
    service: Service,
    caller: Caller,
    conditions: Sequence[Condition],
    page: Page,
    *,
    all_projects: bool = False,
) -> Found:
    """Return a page of attachments."""
    also = _mine(listing.ATTACHMENTS, caller, all_projects=all_projects)
    with service.database.read() as connection:
        return _page(connection, listing.ATTACHMENTS, conditions, page, also, "Volume attachment")


def messages(service: Service, caller: Caller, conditions: Sequence[Condition], page: Page) -> Found:
    """Return a page of the messages that have not expired."""
    also = (
        *_mine(listing.MESSAGES, caller, all_projects=False),
        tables.messages.c.expires_at > now(),
    )
    with service.database.read() as connection:
        return _page(connection, listing.MESSAGES, conditions, page, also, "Message")


def message(service: Service, caller: Caller, message_id: str) -> Row:
    """Return one message."""
    with service.database.read() as connection:
        return visible_message(connection, caller, message_id)


def visible_message(connection: sa.Connection, caller: Caller, message_id: str) -> Row:
    """Return one message, inside a transaction."""
    row = rows.one(connection, tables.messages, message_id)
    if row is None or not (caller.is_admin or row.project_id == caller.project_id) or row.expires_at <= now():
        raise NotFoundError(f"Message {message_id} could not be found.")
    return row


def summary(
    service: Service, caller: Caller, *, all_projects: bool = False
) -> tuple[int, int, list[tuple[str, str]]]:
    """Return number of volumes, their virtual bytes, and the (key, value) pairs of their metadata."""
    project_id = None if all_projects and caller.is_admin else caller.project_id
    with service.database.read() as connection:
        return listing.volume_summary(connection, project_id)


def _mine(what: Listing, caller: Caller, *, all_projects: bool) -> tuple[sa.ColumnElement[bool], ...]:
    if all_projects and caller.is_admin:
        return ()
    return (what.table.c.project_id == caller.project_id,)


def _visible(what: Listing, caller: Caller) -> tuple[sa.ColumnElement[bool], ...]:
    return () if caller.is_admin else (what.table.c.project_id == caller.project_id,)


def _page(
    connection: sa.Connection,
    what: Listing,
    conditions: Sequence[Condition],
    page: Page,
    also: tuple[sa.ColumnElement[bool], ...],
    noun: str,
    *,
    count: bool = False,
) -> Found:
    found = listing.rows(connection, what, conditions, page, *also)
    if found is None:
        raise NotFoundError(f"{noun} {page.marker} could not be found.", remedy="It was given as marker.")
    return Found(found, listing.count(connection, what, conditions, *also) if count else None)


def _attached(connection: sa.Connection, volume_ids: Sequence[str]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in listing.attachments_of(connection, volume_ids):
        found.setdefault(row.volume_id, []).append(row)
    return found
