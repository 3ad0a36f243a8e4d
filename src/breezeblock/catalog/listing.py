"""Lists of rows: filtered, sorted, paged.

A page is found by its marker's sort values, not by counting rows: rows that come or go meanwhile shift
nothing, and page 1,000 costs what page 1 costs. Where every sort key runs the same way the condition is
one row-value comparison, which both databases answer from an index.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from breezeblock.catalog.tables import attachments, messages, operations, snapshots, volume_types, volumes

GIB = 1024**3

Test = Literal["eq", "like", "gt", "gte", "lt", "lte", "neq", "has"]


class Condition(msgspec.Struct, frozen=True):
    """One field of a row compared with a value; `has`: the JSON object in the field has these entries."""

    field: str
    value: Any
    test: Test = "eq"


class Sort(msgspec.Struct, frozen=True):
    """One key of an order."""

    field: str
    descending: bool = True


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of a list: after the row named `marker`, at most `limit` rows, skipping `offset`."""

    limit: int
    offset: int = 0
    marker: str | None = None
    sort: tuple[Sort, ...] = (Sort("created_at"),)


class Listing(msgspec.Struct, frozen=True):
    """A table as lists see it: what is selected, and which fields can be filtered and sorted by."""

    table: sa.Table
    fields: Mapping[str, sa.ColumnElement[Any]]
    source: sa.FromClause
    everything: sa.Select[Any]
    """All columns of all rows; made once, because naming twenty columns takes longer than reading a row."""


def _listing(
    table: sa.Table,
    *columns: sa.ColumnElement[Any],
    source: sa.FromClause | None = None,
    **fields: sa.ColumnElement[Any],
) -> Listing:
    named = {column.name: column for column in table.c}
    source = table if source is None else source
    return Listing(table, {**named, **fields}, source, sa.select(*table.c, *columns).select_from(source))


VOLUMES = _listing(
    volumes,
    volume_types.c.name.label("volume_type"),
    source=volumes.join(volume_types, volumes.c.volume_type_id == volume_types.c.id),
    size=(volumes.c.virtual_bytes + (GIB - 1)) // GIB,
    volume_type=volume_types.c.name,
    host=volumes.c.backend + "#" + volumes.c.pool,
)
SNAPSHOTS = _listing(snapshots, size=(snapshots.c.virtual_bytes + (GIB - 1)) // GIB)
ATTACHMENTS = _listing(attachments)
MESSAGES = _listing(messages)
OPERATIONS = _listing(operations)
VOLUME_TYPES = _listing(volume_types)


def rows(
    connection: sa.Connection,
    listing: Listing,
    conditions: Sequence[Condition],
    page: Page,
    *also: sa.ColumnElement[bool],
) -> Sequence[sa.Row[Any]] | None:
    """Return one page; None where the marker names no row that the conditions of `also` allow."""
    order = _order(listing, page.sort)
    query = listing.everything.where(*also, *_conditions(connection, listing, conditions))
    if page.marker is not None:
        values = connection.execute(
            sa.select(*(column for column, _ in order))
            .select_from(listing.source)
            .where(listing.table.c.id == page.marker, *also)
        ).one_or_none()
        if values is None:
            return None
        query = query.where(_after(order, tuple(values)))
    query = query.order_by(*(column.desc() if descending else column.asc() for column, descending in order))
    return connection.execute(query.limit(page.limit).offset(page.offset or None)).all()


def count(
    connection: sa.Connection,
    listing: Listing,
    conditions: Sequence[Condition],
    *also: sa.ColumnElement[bool],
) -> int:
    """Return how many rows all pages together have."""
    query = sa.select(sa.func.count()).select_from(listing.source)
    query = query.where(*also, *_conditions(connection, listing, conditions))
    return connection.execute(query).scalar_one()


def one(
    connection: sa.Connection, listing: Listing, row_id: str, *also: sa.ColumnElement[bool]
) -> sa.Row[Any] | None:
    """Return the row with an id, with the columns that its list has."""
    query = listing.everything.where(listing.table.c.id == row_id, *also)
    return connection.execute(query).one_or_none()


def attachments_of(connection: sa.Connection, volume_ids: Sequence[str]) -> Sequence[sa.Row[Any]]:
    """Return the attachments that hold these volumes now, oldest first."""
    if not volume_ids:
        return ()
    query = ATTACHMENTS.everything.where(
        attachments.c.status == "attached", attachments.c.volume_id.in_(volume_ids)
    )
    return connection.execute(query.order_by(attachments.c.attached_at, attachments.c.id)).all()


def volume_summary(
    connection: sa.Connection, project_id: str | None
) -> tuple[int, int, list[tuple[str, str]]]:
    """Return how many volumes there are, their virtual bytes, and every (key, value) of their metadata."""
    mine = () if project_id is None else (volumes.c.project_id == project_id,)
    number, virtual_bytes = connection.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(volumes.c.virtual_bytes), 0)).where(*mine)
    ).one()
    entries = _entries(connection, volumes.c.metadata)
    pairs = connection.execute(
        sa.select(entries.c.key, entries.c.value)
        .select_from(volumes.join(entries, sa.true()))
        .where(*mine)
        .distinct()
        .order_by(entries.c.key, entries.c.value)
    ).all()
    return number, int(virtual_bytes), [(key, value) for key, value in pairs]


def _order(listing: Listing, sort: Sequence[Sort]) -> list[tuple[sa.ColumnElement[Any], bool]]:
    keys = list(sort)
    for field in ("created_at", "id"):  # every order ends in id: equal keys must not repeat or skip rows
        if field in listing.fields and field not in {key.field for key in keys}:
            keys.append(Sort(field, descending=keys[-1].descending if keys else True))
    order = []
    for key in keys:
        column = listing.fields[key.field]
        # Absent sorts as empty in every database, and can then be compared with a marker.
        if isinstance(column, sa.Column) and column.nullable:
            column = sa.func.coalesce(column, "")
        order.append((column, key.descending))
    return order


def _after(
    order: Sequence[tuple[sa.ColumnElement[Any], bool]], values: Sequence[Any]
) -> sa.ColumnElement[bool]:
    if len({descending for _, descending in order}) == 1:
        mine = sa.tuple_(*(column for column, _ in order))
        theirs = sa.tuple_(*(sa.literal(value) for value in values))
        return mine < theirs if order[0][1] else mine > theirs
    alternatives = []
    for index, (column, descending) in enumerate(order):
        equal = [earlier == value for (earlier, _), value in zip(order[:index], values[:index], strict=True)]
        beyond = column < values[index] if descending else column > values[index]
        alternatives.append(sa.and_(*equal, beyond))
    return sa.or_(*alternatives)


def _conditions(
    connection: sa.Connection, listing: Listing, conditions: Sequence[Condition]
) -> list[sa.ColumnElement[bool]]:
    clauses: list[sa.ColumnElement[bool]] = []
    for condition in conditions:
        column, value = listing.fields[condition.field], condition.value
        match condition.test:
            case "eq":
                clauses.append(column.is_(None) if value is None else column == value)
            case "neq":
                clauses.append(column != value)
            case "gt":
                clauses.append(column > value)
            case "gte":
                clauses.append(column >= value)
            case "lt":
                clauses.append(column < value)
            case "lte":
                clauses.append(column <= value)
            case "like":
                clauses.append(sa.cast(column, sa.Text).contains(value, autoescape=True))
            case "has":
                for key, wanted in value.items():
                    entries = _entries(connection, column)
                    found = sa.select(sa.literal(1)).select_from(entries)
                    found = found.where(entries.c.key == key, entries.c.value == wanted)
                    clauses.append(found.exists())
    return clauses


def _entries(connection: sa.Connection, column: sa.ColumnElement[Any]) -> sa.TableValuedAlias:
    """Give the members of a JSON object as rows; a path expression would misread keys with quotes."""
    if connection.dialect.name == "postgresql":
        return sa.func.json_each_text(sa.cast(column, sa.JSON)).table_valued("key", "value")
    return sa.func.json_each(column).table_valued("key", "value")
