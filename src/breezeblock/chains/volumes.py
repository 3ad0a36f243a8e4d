"""Verbs on whole volumes. The rules for verbs are those of `backends.contract`.

`format` is always that of the image the volume begins with, and is what every verb returns.
"""

import os
from collections.abc import Collection
from pathlib import Path

import msgspec

from breezeblock.attempt import Attempt
from breezeblock.chains import users
from breezeblock.chains.begin import begun, tidied
from breezeblock.chains.chain import FORMATS, Layer, layer, load
from breezeblock.chains.info import Info, read_info, read_intent, write_info
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
    with tidied(directory, volume_id, attempt):
        if is_there(directory, naming, volume_id, virtual_bytes, format):
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


def is_there(directory: Path, naming: Naming, volume_id: str, virtual_bytes: int, image_format: str) -> bool:
    """Tell whether an earlier attempt published the new volume; CorruptError if something else did."""
    name, *beside = naming.volume(volume_id), naming.info(volume_id), naming.intent(volume_id)
    own = [one for one in (name, *beside) if files.exists(directory / one)]
    if not own:
        return False
    if own == [name]:
        found = layer(directory, name, image_format)
        if found.virtual_bytes == virtual_bytes and found.backing is None:
            return True
    raise CorruptError(
        f"{directory} holds {', '.join(own)} already, which is not the new volume of {virtual_bytes} bytes.",
        remedy="Move the foreign files away, then repeat.",
    )


def delete(
    directory: Path,
    naming: Naming,
    volume_id: str,
    attempt: Attempt,
    *,
    depth: int = 0,
    snapshots: Collection[str] = (),
) -> None:
    """Remove every file of the volume but the images that clones rest on, and what earlier attempts left.

    Those images keep their names; `.info` then says that the volume is gone. The last clone's deletion
    removes them. `snapshots` = ids whose overlays may lie beside the chain. The files are found by
    following the chain; a volume that is not whole, or whose `depth` is not known, is looked for in a
    listing.
    """
    with tidied(directory, volume_id, attempt):
        info, whole = _looked_at(directory, naming, volume_id)
        if not users.nobody(directory, naming, volume_id):
            kept = _retire(directory, naming, volume_id, info, attempt)
            if not users.nobody(directory, naming, volume_id):
                _remove(directory, naming, volume_id, info, set(kept), snapshots, whole=True)
                return
        _remove(directory, naming, volume_id, info, set(), snapshots, whole=whole and depth > 0)
        if info is not None and info.parent is not None:
            _forget_parent(directory, naming, volume_id, info.parent)
        for name in (naming.info(volume_id), naming.intent(volume_id)):
            files.remove(directory / name)


def _looked_at(directory: Path, naming: Naming, volume_id: str) -> tuple[Info | None, bool]:
    """Return `.info`, and whether the chain is all there."""
    try:
        info = read_info(directory, naming, volume_id)
        read_intent(directory, naming, volume_id)
    except CorruptError:
        return None, False
    top = info.active if info else naming.volume(volume_id)
    return info, users.images(directory, naming, volume_id, top)[1]


def _retire(
    directory: Path, naming: Naming, volume_id: str, info: Info | None, attempt: Attempt
) -> list[str]:
    """Write down that the volume is gone but for what its clones need; return the images kept."""
    top = info.deleted or info.active if info else naming.volume(volume_id)
    names, whole = users.images(directory, naming, volume_id, top)
    used = set(users.of(directory, naming, volume_id).values())
    unreadable = info is None and files.exists(directory / naming.info(volume_id))
    if unreadable or not whole or not used <= set(names):
        raise CorruptError(
            f"Volume {volume_id} is damaged and clones rest on it: what they need cannot be told.",
            remedy="`breezeblock doctor` says what is missing. Delete the clones first, or restore it.",
        )
    kept = names[min((names.index(name) for name in used), default=len(names) - 1) :]
    if info is None or info.deleted is None:
        retired = msgspec.structs.replace(info or Info(top, {}), snapshots={}, deleted=kept[0])
        write_info(directory, naming, volume_id, retired, attempt)
    return kept


def _remove(
    directory: Path,
    naming: Naming,
    volume_id: str,
    info: Info | None,
    kept: set[str],
    snapshots: Collection[str],
    *,
    whole: bool,
) -> None:
    """Remove the volume's images; what describes them stays, so that a deletion is recognised as one."""
    names = [naming.volume(volume_id), *(naming.overlay(volume_id, one) for one in snapshots)]
    if info is not None:
        names += users.images(directory, naming, volume_id, info.active)[0]
    try:
        intent = read_intent(directory, naming, volume_id)
        names += [intent.top] if intent else []
    except CorruptError:
        whole = False
    if not whole:
        present = naming.of_volume(volume_id, files.listing(directory))
        names += [name for name, kind in present if kind in {"volume", "overlay"}]
    names = [name for name in sorted(set(names), reverse=True) if name not in kept]
    for name in (*names, naming.info(volume_id), naming.intent(volume_id)):
        files.exists(directory / name)  # refuses what is no file before anything is removed
    users.remove(directory, names)


def _forget_parent(directory: Path, naming: Naming, volume_id: str, parent: str) -> None:
    """Let go of the image that the volume rested on, and of what a cloning that was cut off made there."""
    source = naming.owner(parent) or ""
    made = naming.overlay(source, volume_id)
    if files.exists(directory / made):
        info = read_info(directory, naming, source)
        if info is not None and info.deleted is None:
            names, whole = users.images(directory, naming, source, info.active)
            if whole and made not in names:
                files.remove(directory / made)
    users.release(directory, naming, parent, volume_id)


def extend(
    directory: Path,
    naming: Naming,
    volume_id: str,
    virtual_bytes: int,
    attempt: Attempt,
    *,
    format: str,  # noqa: A002 - what the catalogue calls it
    depth: int = 0,
) -> str:
    """Grow the active image; the layers of snapshots keep their length."""
    check_size(virtual_bytes, format)
    with begun(directory, naming, volume_id, attempt, format):
        chain = load(directory, naming, volume_id, format, depth)
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
    source_depth: int = 0,
    source_naming: Naming | None = None,
    format: str = "raw",  # noqa: A002 - what the catalogue calls it
) -> str:
    """Make a volume with the content of another one, or of a snapshot of it; zeros beyond its end.

    The source must be held by the same operation: an edit of it that was cut off is finished first.
    """
    check_size(virtual_bytes, format)
    final = directory / naming.volume(volume_id)
    with tidied(directory, volume_id, attempt):
        if is_there(directory, naming, volume_id, virtual_bytes, format):
            return format
        source_naming = source_naming or naming
        with begun(source_directory, source_naming, source_id, attempt, source_format):
            chain = load(source_directory, source_naming, source_id, source_format, source_depth)
            layers = chain.layers if snapshot_id is None else chain.data(snapshot_id)
        if layers[0].virtual_bytes > virtual_bytes:
            raise InvalidInputError(
                f"{virtual_bytes} bytes are too few: the source has {layers[0].virtual_bytes}."
            )
        temp = directory / attempt.temp_name
        with files.fresh(temp, naming.mode) as fd:
            if format == "raw" and lay_flat(source_directory, layers, fd, attempt):
                raw.grow(fd, virtual_bytes)
            else:
                qemu_img.convert(source_directory / layers[0].name, layers[0].format, temp, format, attempt)
                grow(directory, layer(directory, temp.name, format), virtual_bytes, 0, attempt)
            check_cancelled(attempt)
            files.publish(fd, temp, final)
    return format


def lay_flat(directory: Path, layers: tuple[Layer, ...], target: int, attempt: Attempt) -> bool:
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
