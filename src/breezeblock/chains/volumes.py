"""Verbs on whole volumes. The rules for verbs are those of `backends.contract`.

`format` is always that of the image the volume begins with, and is what every verb returns.
"""

import os
from pathlib import Path

from breezeblock.attempt import Attempt
from breezeblock.chains.begin import begun, tidied
from breezeblock.chains.chain import FORMATS, Layer, layer, load
from breezeblock.chains.merge import grow
from breezeblock.chains.naming import Naming
from breezeblock.errors import CorruptError, InvalidInputError
from breezeblock.images import clusters, qcow2, qemu_img, raw
from breezeblock.images.raw import check_cancelled
from breezeblock.shares import files


def create(
    directory: Path,
    naming: Naming,
    volume_id: str,
    virtual_bytes: int,
    attempt: Attempt,
    *,
    format: str = "raw",  # noqa: A002 - what the catalogue calls it
    thick: bool = False,
) -> str:
    """Make an empty volume; `thick` reserves its space."""
    check_size(virtual_bytes, format)
    final = directory / naming.volume(volume_id)
    with files.storage_errors(f"Volume {volume_id}"):
        if _is_there(directory, naming, volume_id, tidied(directory, attempt), virtual_bytes, format):
            return format
        check_cancelled(attempt)
        temp = directory / attempt.temp_name
        with files.fresh(temp, naming.mode) as fd:
            if format == "qcow2" and thick:
                qemu_img.create_preallocated(temp, virtual_bytes, attempt)
            elif format == "qcow2":
                qcow2.create(fd, virtual_bytes)
            elif thick:
                raw.preallocate(fd, virtual_bytes, attempt)
            else:
                raw.grow(fd, virtual_bytes)
            check_cancelled(attempt)
            files.publish(fd, temp, final)
    return format


def check_size(virtual_bytes: int, image_format: str) -> None:
    """Raise InvalidInputError unless an image of this format can have these virtual bytes."""
    if image_format not in FORMATS:
        raise InvalidInputError(f"Image format {image_format[:40]!a} is none of raw, qcow2.")
    limit = qcow2.MAX_VIRTUAL_BYTES  # snapshots of a raw volume are qcow2
    if not 0 < virtual_bytes <= limit or virtual_bytes % 512:
        raise InvalidInputError(
            f"{virtual_bytes} virtual bytes: a positive multiple of 512 up to {limit} is needed."
        )


def _is_there(
    directory: Path, naming: Naming, volume_id: str, names: list[str], virtual_bytes: int, image_format: str
) -> bool:
    """Tell whether an earlier attempt published the new volume; CorruptError if something else did."""
    own = naming.of_volume(volume_id, names)
    if not own:
        return False
    name = naming.volume(volume_id)
    if [found for found, _kind in own] == [name]:
        found = layer(directory, name, image_format)
        if found.virtual_bytes == virtual_bytes and found.backing is None:
            return True
    raise CorruptError(
        f"{directory} holds {', '.join(sorted(found for found, _kind in own))} already, which is not the "
        f"new volume of {virtual_bytes} bytes.",
        remedy="Move the foreign files away, then repeat.",
    )


def delete(directory: Path, naming: Naming, volume_id: str, attempt: Attempt) -> None:
    """Remove every file of the volume, and what earlier attempts of the operation left."""
    with files.storage_errors(f"Volume {volume_id}"):
        own = naming.of_volume(volume_id, tidied(directory, attempt))
        for name, _kind in own:
            files.exists(directory / name)
        # Images before what describes them: a deletion that is cut off stays recognisable as one.
        order = ("overlay", "volume", "info", "intent")
        for name, _kind in sorted(own, key=lambda one: order.index(one[1])):
            (directory / name).unlink(missing_ok=True)
        if own:
            files.sync_directory(directory)


def extend(
    directory: Path,
    naming: Naming,
    volume_id: str,
    virtual_bytes: int,
    attempt: Attempt,
    *,
    format: str,  # noqa: A002 - what the catalogue calls it
) -> str:
    """Grow the active image; the layers of snapshots keep their length."""
    check_size(virtual_bytes, format)
    with begun(directory, naming, volume_id, attempt, format) as names:
        chain = load(directory, naming, volume_id, format, names)
        below = chain.layers[1].virtual_bytes if len(chain.layers) > 1 else 0
        check_cancelled(attempt)
        grow(directory, chain.active, virtual_bytes, below, attempt)
    return format


def copy(
    source_directory: Path,
    naming: Naming,
    source_id: str,
    snapshot_id: str | None,
    directory: Path,
    volume_id: str,
    virtual_bytes: int,
    attempt: Attempt,
    *,
    source_format: str,
    format: str = "raw",  # noqa: A002 - what the catalogue calls it
) -> str:
    """Make a volume with the content of another one, or of a snapshot of it; zeros beyond its end.

    The source must be held by the same operation: an edit of it that was cut off is finished first.
    """
    check_size(virtual_bytes, format)
    final = directory / naming.volume(volume_id)
    with files.storage_errors(f"Volume {volume_id}"):
        if _is_there(directory, naming, volume_id, tidied(directory, attempt), virtual_bytes, format):
            return format
    with begun(source_directory, naming, source_id, attempt, source_format) as names:
        chain = load(source_directory, naming, source_id, source_format, names)
        layers = chain.layers if snapshot_id is None else chain.data(snapshot_id)
    if layers[0].virtual_bytes > virtual_bytes:
        raise InvalidInputError(
            f"{virtual_bytes} bytes are too few: the source has {layers[0].virtual_bytes}."
        )
    with files.storage_errors(f"Volume {volume_id}"):
        temp = directory / attempt.temp_name
        with files.fresh(temp, naming.mode) as fd:
            if format == "raw" and flatten(source_directory, layers, fd, attempt):
                raw.grow(fd, virtual_bytes)
            else:
                qemu_img.convert(source_directory / layers[0].name, layers[0].format, temp, format, attempt)
                grow(directory, layer(directory, temp.name, format), virtual_bytes, 0, attempt)
            check_cancelled(attempt)
            files.publish(fd, temp, final)
    return format


def flatten(directory: Path, layers: tuple[Layer, ...], target: int, attempt: Attempt) -> bool:
    """Write what the layers read as into an empty raw image; False if only qemu-img can (nothing written).

    The bottom image is copied, sharing blocks where the file system can; each layer above is then laid
    over it.
    """
    for image in layers:
        if image.format == "qcow2":
            with files.opened(directory / image.name) as fd:
                if clusters.has_compressed(fd, qcow2.parse(fd)):
                    return False
    for image in reversed(layers):
        with files.opened(directory / image.name) as fd:
            if image.format == "raw":
                raw.copy(fd, target, attempt)
            else:
                raw.grow(target, image.virtual_bytes)
                clusters.commit_to_raw(fd, qcow2.parse(fd), target, attempt)
    os.ftruncate(target, layers[0].virtual_bytes)
    return True
