"""Making volumes from an image that the pool holds, and getting it there.

What an import does about the cache is decided once, in a transaction, and written into the operation: a
later attempt goes on with it, whatever the cache looks like by then. Imports of one address into one pool
share a lane (`lane`), so nobody else is at work on the image that one of them has chosen.
"""

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Placement, Volume
from breezeblock.catalog import image_cache, numbering, operations, pools, quotas, rows, tables, types
from breezeblock.catalog.clock import new_id, now
from breezeblock.catalog.states import transition
from breezeblock.engine.port import Json
from breezeblock.images.addresses import shown
from breezeblock.operations.job import Job
from breezeblock.operations.verbs import GIB, columns_of, quota_amounts

NOBODY = "0" * 32


def lane(url: str, image_format: str, backend: str, pool: str) -> str:
    """Return the lane of imports of one image into one pool."""
    return f"image-{_digest(url, image_format, backend, pool)[:40]}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _source(job: Job) -> str:
    asked = job.arguments["image"]
    return _digest(asked["url"], asked["format"])


def wanted(job: Job) -> bool:
    """Tell whether the volume may rest on an image: its type and its pool allow it."""
    options = job.arguments.get("options", {})
    return (
        job.environment.image_cache(job.row.backend).images > 0
        and job.backend.capabilities().linked_clones
        and options.get("clone") != "full"
        and options.get("provisioning") != "thick"
        and options.get("format") != "raw"
    )


def chosen(job: Job) -> str:
    """Return the image that was chosen for the volume, by this or an earlier attempt; empty: none yet."""
    with job.environment.database.read() as connection:
        return _chosen(connection, job)


def _chosen(connection: sa.Connection, job: Job) -> str:
    row = operations.get(connection, job.id)
    return str(msgspec.json.decode(row.arguments).get("image_volume", "")) if row is not None else ""


def choose(job: Job, validator: str) -> str:
    """Choose the image that the pool holds, if it is still what its source has; empty if there is none.

    What the source has replaced is evicted, now or, while volumes rest on it, when it is the oldest.
    """
    asked = job.arguments["image"]
    with job.environment.database.write() as connection:
        numbering.take_turn(connection)  # what is evicted is queued
        volume = rows.one(connection, tables.volumes, job.row.resource_id)
        if volume is None or volume.op_id != job.id:
            return ""
        for image in image_cache.in_pool(connection, volume.backend, volume.pool):
            if image.source != _source(job) or not image.ready or image.virtual_bytes > volume.virtual_bytes:
                continue
            same = validator == image.validator if validator else bool(asked["checksum"])
            if not same:
                evict(connection, image, even_if_used=False)
                image_cache.hide(connection, image.volume_id)
            elif asked["checksum"] in {"", image.checksum} and image_cache.used(connection, image.volume_id):
                _decide(connection, job, image.volume_id)
                return str(image.volume_id)
    return ""


def make_room(job: Job, virtual_bytes: int, validator: str, checksum: str) -> str:
    """Enter the volume that is to hold the image, evicting others; empty if there is no room for it."""
    limits = job.environment.image_cache(job.row.backend)
    whole = -(-virtual_bytes // GIB) * GIB
    with job.environment.database.write() as connection:
        numbering.take_turn(connection)  # what is evicted is queued
        volume = rows.one(connection, tables.volumes, job.row.resource_id)
        if volume is None or volume.op_id != job.id or volume.virtual_bytes < virtual_bytes:
            return ""
        images = image_cache.in_pool(connection, volume.backend, volume.pool)
        while len(images) >= limits.images or _bytes(images) + whole > limits.virtual_bytes:
            gone = next((i for i in images if evict(connection, i, even_if_used=False)), None)
            if gone is None:
                return ""
            images.remove(gone)
        image_id = _enter(connection, job, volume, whole, validator, checksum)
        _decide(connection, job, image_id)
        return image_id


def _bytes(images: list[sa.Row[Any]]) -> int:
    return sum(image.virtual_bytes for image in images)


def _enter(
    connection: sa.Connection,
    job: Job,
    volume: sa.Row[Any],
    virtual_bytes: int,
    validator: str,
    checksum: str,
) -> str:
    image_id, asked = new_id(), job.arguments["image"]
    rows.insert(
        connection,
        tables.volumes,
        id=image_id,
        project_id=image_cache.PROJECT,
        user_id=NOBODY,
        name=shown(asked["url"]),
        virtual_bytes=virtual_bytes,
        status=transition("volume", "keep_image").during,
        op_id=job.id,
        backend=volume.backend,
        pool=volume.pool,
        volume_type_id=volume.volume_type_id,
        availability_zone=volume.availability_zone,
        depth=1,
        created_at=now(),
    )
    rows.insert(
        connection,
        tables.cached_images,
        volume_id=image_id,
        backend=volume.backend,
        pool=volume.pool,
        source=_source(job),
        url=shown(asked["url"]),
        format=asked["format"],
        validator=validator,
        checksum=checksum,
        used_at=now(),
    )
    amounts = quota_amounts(
        types.name(connection, volume.volume_type_id), volumes=1, virtual_bytes=virtual_bytes
    )
    quotas.count(connection, image_cache.PROJECT, amounts)
    pools.provision(connection, volume.backend, volume.pool, virtual_bytes)
    return image_id


def _decide(connection: sa.Connection, job: Job, image_id: str) -> None:
    """Write down what the volume is made from: where it goes on after a kill, and why that must stay."""
    text = msgspec.json.encode({**job.arguments, "image_volume": image_id}).decode()
    connection.execute(
        sa.update(tables.operations).where(tables.operations.c.id == job.id).values(arguments=text)
    )
    rows.update(connection, tables.volumes, job.row.resource_id, parent_id=image_id)


def evict(connection: sa.Connection, image: sa.Row[Any], *, even_if_used: bool) -> bool:
    """Let an image's volume be deleted, in the caller's transaction; False if an operation needs it.

    Volumes rest on it no less when it is deleted: what they need is kept until the last of them goes.
    """
    image_cache.hide(connection, image.volume_id)
    fresh = image_cache.one(connection, image.volume_id)  # nobody chooses it any more
    step = transition("volume", "evict")
    if fresh is None or fresh.making or (fresh.children and not even_if_used):
        if fresh is not None and image.ready:
            _show(connection, image.volume_id)
        return False
    operation_id = numbering.number(connection)
    if not rows.compare_and_set(
        connection, tables.volumes, image.volume_id, step.sources, status=step.during, op_id=operation_id
    ):
        return False
    _delete_soon(connection, operation_id, image.backend, image.volume_id)
    return True


def _show(connection: sa.Connection, volume_id: str) -> None:
    table = tables.cached_images
    connection.execute(sa.update(table).where(table.c.volume_id == volume_id).values(ready=True))


def _delete_soon(connection: sa.Connection, operation_id: str, backend: str, volume_id: str) -> None:
    image_cache.forget(connection, volume_id)
    operations.enqueue(
        connection,
        id=operation_id,
        kind="delete_volume",
        lane=volume_id,
        backend=backend,
        resource_type="volume",
        resource_id=volume_id,
        volume_id=volume_id,
        previous_status="cached",
        arguments="{}",
        project_id=image_cache.PROJECT,
        user_id=NOBODY,
        request_id="",
    )


def is_written(job: Job, image_id: str) -> bool:
    """Tell whether the image's volume holds it already."""
    with job.environment.database.read() as connection:
        image = image_cache.one(connection, image_id)
    return image is None or bool(image.written)


def write(job: Job, image_id: str, path: Path, attempt: Attempt) -> None:
    """Bring the image into its volume; once that is noted, the volume may have clones, and is left alone."""
    made = job.backend.import_image(
        _volume(job, image_id), str(path), job.arguments["image"]["format"], attempt
    )
    with job.environment.database.write() as connection:
        table = tables.cached_images
        connection.execute(sa.update(table).where(table.c.volume_id == image_id).values(written=True))
        rows.update(connection, tables.volumes, image_id, **columns_of(made))


def clone(job: Job, image_id: str, attempt: Attempt) -> Placement:
    """Make the operation's volume from the image."""
    return job.backend.clone(_volume(job, image_id), job.volume(), attempt)


def _volume(job: Job, image_id: str) -> Volume:
    return msgspec.structs.replace(job.volume(image_id), options={})


def publish(connection: sa.Connection, job: Job, result: Json) -> None:
    """Let others use an image that this operation has brought in, inside its last transaction."""
    image_id, placement = _chosen(connection, job), msgspec.convert(result, Placement)
    if not image_id:
        return
    if placement.parent == image_id:
        table = tables.volumes
        deeper = sa.and_(table.c.id == image_id, table.c.depth < placement.depth)
        connection.execute(
            sa.update(table)
            .where(deeper)
            .values(depth=placement.depth, hidden_layers=table.c.hidden_layers + 1)
        )
    if rows.finish(connection, tables.volumes, image_id, job.id, status="cached"):
        _show(connection, image_id)


def fail(connection: sa.Connection, job: Job) -> None:
    """Get rid of what this operation has begun to bring in, inside its last transaction."""
    table = tables.volumes
    mine = sa.select(table).where(table.c.op_id == job.id, table.c.project_id == image_cache.PROJECT)
    for image in connection.execute(mine).all():
        operation_id = numbering.number(connection)
        during = transition("volume", "evict").during
        rows.update(connection, table, image.id, status=during, op_id=operation_id)
        _delete_soon(connection, operation_id, image.backend, image.id)
