"""Reading volumes together with their snapshots, for those who compare the catalog with storage."""

from collections.abc import Iterator
from typing import Any

import msgspec
import sqlalchemy as sa

from breezeblock.catalog import rows
from breezeblock.catalog.tables import snapshots, volumes

Row = sa.Row[Any]

PAGE = 500


class Believed(msgspec.Struct, frozen=True):
    """What the catalog says of one volume at one moment. Equal to another when nothing changed."""

    volume: Row
    snapshots: tuple[Row, ...]

    @property
    def busy(self) -> bool:
        """Say whether an operation has the volume or one of its snapshots in hand."""
        return self.volume.op_id is not None or any(row.op_id is not None for row in self.snapshots)


def one(connection: sa.Connection, volume_id: str) -> Believed | None:
    """Return what the catalog says of one volume now."""
    row = rows.one(connection, volumes, volume_id)
    return None if row is None else Believed(row, tuple(rows.snapshots_of(connection, volume_id)))


def all_volumes(connection: sa.Connection) -> Iterator[Believed]:
    """Yield every volume in the order of the ids, a page of them in memory at a time."""
    after = ""
    while True:
        statement = sa.select(volumes).where(volumes.c.id > after).order_by(volumes.c.id).limit(PAGE)
        page = list(connection.execute(statement))
        if not page:
            return
        of: dict[str, list[Row]] = {row.id: [] for row in page}
        taken = sa.select(snapshots).where(snapshots.c.volume_id.in_(of))
        for row in connection.execute(taken.order_by(snapshots.c.created_at, snapshots.c.id)):
            of[row.volume_id].append(row)
        yield from (Believed(row, tuple(of[row.id])) for row in page)
        after = page[-1].id
