"""Promises about images: a volume from one, and one from a volume."""

from typing import Any

import msgspec
import sqlalchemy as sa

from breezeblock.catalog import image_cache, numbering, pools, rows, tables
from breezeblock.catalog.states import transition
from breezeblock.errors import ConflictError, InvalidInputError, NotFoundError
from breezeblock.images import addresses, inspection, remote
from breezeblock.operations import image_cache as working
from breezeblock.service import queue, scheduling, volumes
from breezeblock.service.core import Caller, Service


class Cached(msgspec.Struct, frozen=True, kw_only=True):
    """An image that a pool holds."""

    id: str
    """Of the volume that it is."""
    pool: str
    url: str
    format: str
    state: str
    """`ready`; `replaced`: its source has another one by now; or what its volume's status is."""
    virtual_bytes: int
    volumes: int
    """How many rest on it."""
    uses: int
    used_at: str
    created_at: str


def bring_in(service: Service, caller: Caller, new: volumes.NewVolume) -> str:
    """Promise a volume with the content of `new.image`; return its id."""
    assert new.image is not None  # noqa: S101 - the caller's promise
    _check(service, new.image)
    return volumes.create(service, caller, new)


def bring_out(service: Service, caller: Caller, volume_id: str, image: volumes.Image) -> str:
    """Promise that an available volume is written as an image; return the operation's id."""
    _check(service, image)
    step = transition("volume", "export")
    with service.database.write() as connection:
        operation_id = numbering.number(connection)
        row = volumes.visible(connection, caller, volume_id)
        volumes.require_status("Volume", row, step)
        pool = pools.get(connection, row.backend, row.pool)
        if pool is not None and not scheduling.capabilities(pool).images:
            raise InvalidInputError(f"Back end {row.backend} cannot write images.")
        changed = rows.compare_and_set(
            connection, tables.volumes, volume_id, step.sources, status=step.during, op_id=operation_id
        )
        if not changed:
            raise ConflictError(f"Invalid volume: Volume {volume_id} was changed by another request.")
        queue.enqueue(
            connection,
            caller,
            operation_id,
            "export_volume",
            backend=row.backend,
            volume_id=volume_id,
            previous_status=row.status,
            arguments={"image": msgspec.to_builtins(image)},
        )
    service.wake()
    return operation_id


def cached(service: Service, caller: Caller) -> list[Cached]:
    """Return the images that pools hold for volumes to be made from, the longest unused first (admin)."""
    caller.require_admin("image_cache:list")
    with service.database.read() as connection:
        return [
            Cached(
                id=row.volume_id,
                pool=f"{row.backend}#{row.pool}",
                url=row.url,
                format=row.format,
                state=_state(row),
                virtual_bytes=row.virtual_bytes,
                volumes=row.children,
                uses=row.uses,
                used_at=row.used_at,
                created_at=row.created_at,
            )
            for row in image_cache.all_images(connection)
        ]


def _state(row: sa.Row[Any]) -> str:
    if row.status == "cached":
        return "ready" if row.ready else "replaced"
    return str(row.status)


def evict(service: Service, caller: Caller, image_id: str) -> None:
    """Promise that an image will be gone (admin); what volumes rest on stays until they are gone too."""
    caller.require_admin("image_cache:evict")
    with service.database.write() as connection:
        numbering.take_turn(connection)
        image = image_cache.one(connection, image_id)
        if image is None:
            raise NotFoundError(f"Image {image_id} could not be found.")
        if not working.evict(connection, image, even_if_used=True):
            raise ConflictError(
                f"Image {image_id} is {image.status}: an operation is at work on it, or on a volume from it.",
                remedy="Repeat it when that has ended.",
            )
    service.wake()


def _check(service: Service, image: volumes.Image) -> None:
    addresses.check(image.url, service.settings.images)
    if image.format not in inspection.FORMATS:
        raise InvalidInputError(
            f"Images of format {image.format[:40]!a} are not supported; {', '.join(inspection.FORMATS)} are."
        )
    if image.checksum:
        remote.check_checksum(image.checksum)
