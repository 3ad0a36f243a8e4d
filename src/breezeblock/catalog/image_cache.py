"""Which images pools hold, so that volumes can be cloned from them instead of being written.

An image is a volume of the project `PROJECT`, status "cached" when it is whole. A volume that is being
made from it names it as its parent from the moment it was chosen: an image with children is never evicted.
"""

from typing import Any

import msgspec
import sqlalchemy as sa

from breezeblock.catalog.clock import now
from breezeblock.catalog.tables import cached_images, kept_volumes, volumes

PROJECT = "cace" * 8
"""To which the images belong: no identity service gives such an id."""

Row = sa.Row[Any]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much a pool may hold; 0 images = it holds none."""

    images: int = 0
    virtual_bytes: int = 0


def in_pool(connection: sa.Connection, backend: str, pool: str) -> list[Row]:
    """Return a pool's images with what their volumes say, the one that was longest unused first."""
    wanted = sa.and_(cached_images.c.backend == backend, cached_images.c.pool == pool)
    return list(connection.execute(_joined().where(wanted)))


def all_images(connection: sa.Connection) -> list[Row]:
    """Return every image with what its volume says, the one that was longest unused first."""
    return list(connection.execute(_joined()))


def one(connection: sa.Connection, volume_id: str) -> Row | None:
    """Return one image."""
    return connection.execute(_joined().where(cached_images.c.volume_id == volume_id)).one_or_none()


def used(connection: sa.Connection, volume_id: str) -> bool:
    """Note that a volume is being made of an image; False if that is not there, or not whole, any more."""
    whole = sa.and_(cached_images.c.volume_id == volume_id, cached_images.c.ready)
    noted = sa.update(cached_images).where(whole).values(used_at=now(), uses=cached_images.c.uses + 1)
    return connection.execute(noted).rowcount == 1


def hide(connection: sa.Connection, volume_id: str) -> bool:
    """Let nobody choose an image any more; the first half of evicting it. False if it is gone."""
    # An update, so that who is just choosing it is waited for.
    wanted = cached_images.c.volume_id == volume_id
    return connection.execute(sa.update(cached_images).where(wanted).values(ready=False)).rowcount == 1


def forget(connection: sa.Connection, volume_id: str) -> None:
    """Drop an image from the list; its volume is another matter."""
    connection.execute(sa.delete(cached_images).where(cached_images.c.volume_id == volume_id))


def _joined() -> sa.Select[Any]:
    children = [
        sa.select(sa.func.count()).where(table.c.parent_id == cached_images.c.volume_id).scalar_subquery()
        for table in (volumes.alias(), kept_volumes)
    ]
    child = volumes.alias()
    making = sa.exists().where(child.c.parent_id == cached_images.c.volume_id, child.c.op_id.is_not(None))
    return (
        sa.select(
            cached_images,
            volumes.c.virtual_bytes,
            volumes.c.status,
            volumes.c.op_id,
            volumes.c.created_at,
            (children[0] + children[1]).label("children"),
            making.label("making"),
        )
        .join(volumes, volumes.c.id == cached_images.c.volume_id)
        .order_by(cached_images.c.used_at, cached_images.c.volume_id)
    )
