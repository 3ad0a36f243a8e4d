"""Verbs on whole volumes. The rules for verbs are those of `backends.contract`.

`format` is always that of the image the volume begins with, and is what every verb returns.
"""

from collections.abc import Collection
from pathlib import Path

import msgspec

from breezeblock.attempt import Attempt
from breezeblock.chains import differencing, plain, users
from breezeblock.chains.begin import begun, tidied
from breezeblock.chains.chain import Chain, load
from breezeblock.chains.families import family, layer
from breezeblock.chains.info import Info, read_info, read_intent, write_info
from breezeblock.chains.layers import Layer
from breezeblock.chains.naming import Naming
from breezeblock.errors import CorruptError, InvalidInputError
from breezeblock.images import qemu_img, raw
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
            family(format).create(fd, temp, format, virtual_bytes, attempt, thick=thick)
            check_cancelled(attempt)
            files.publish(fd, temp, final)
    return format


def check_size(virtual_bytes: int, image_format: str) -> None:
    """Raise InvalidInputError unless an image of this format can have these virtual bytes."""
    limit = family(image_format).MAX_VIRTUAL_BYTES[image_format]
    if not 0 < virtual_bytes <= limit or virtual_bytes % 512:
        raise InvalidInputError(
            f"{virtual_bytes} virtual bytes: a {image_format} volume needs a positive multiple of 512 "
            f"up to {limit}."
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
    chain = users.images(directory, naming, volume_id, info.active)[0] if info is not None else []
    try:
        intent = read_intent(directory, naming, volume_id)
        names += [intent.top] if intent else []
    except CorruptError:
        whole = False
    if not whole:
        present = naming.of_volume(volume_id, files.listing(directory))
        names += [name for name, kind in present if kind in {"volume", "overlay"}]
    # The chain from below: what is above a gap is still found from the active image if this is cut off.
    ordered = (*sorted(set(names).difference(chain)), *reversed(chain))
    names = [name for name in ordered if name not in kept]
    for name in (*names, naming.info(volume_id), naming.intent(volume_id)):
        files.exists(directory / name)  # refuses what is no file before anything is removed
    users.remove(directory, names)


def _forget_parent(directory: Path, naming: Naming, volume_id: str, parent: str) -> None:
    """Let go of the image that the volume rested on, and of what a cloning that was cut off made there."""
    source, there = naming.owner(parent) or "", naming.like(parent)
    made = there.overlay(source, volume_id)
    if files.exists(directory / made):
        info = read_info(directory, there, source)
        if info is not None and info.deleted is None:
            names, whole = users.images(directory, there, source, info.active)
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
    """Grow the active image; see `grow` for the layers of snapshots."""
    check_size(virtual_bytes, format)
    with begun(directory, naming, volume_id, attempt, format):
        chain = load(directory, naming, volume_id, format, depth)
        check_cancelled(attempt)
        grow(directory, naming, volume_id, chain, virtual_bytes, attempt)
    return format


def grow(
    directory: Path, naming: Naming, volume_id: str, chain: Chain, virtual_bytes: int, attempt: Attempt
) -> None:
    """Let the active image be at least so long, and where lengths must be even, first those below it.

    Images that clones rest on keep their length, and so does what the volume itself was cloned from.
    """
    kind, active = family(chain.active.format), chain.active
    if kind.EVEN and active.virtual_bytes < virtual_bytes:
        frozen = users.frozen(directory, naming, volume_id, chain)
        for image in reversed(chain.own[1:]):
            if image.name not in frozen:
                kind.grow(directory, image, virtual_bytes, 0, attempt)
    below = chain.layers[1].virtual_bytes if len(chain.layers) > 1 else 0
    kind.grow(directory, active, virtual_bytes, below, attempt)


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
    source_bytes: int = 0,
    thick: bool = False,
    format: str = "raw",  # noqa: A002 - what the catalogue calls it
) -> str:
    """Make a volume with the content of another one, or of a snapshot of it; zeros beyond its end.

    `source_bytes` is how long a snapshot was when it was taken, 0 if that is not known: its image may have
    grown with the volume. The source must be held by the same operation: an edit of it that was cut off is
    finished first.
    """
    check_size(virtual_bytes, format)
    final = directory / naming.volume(volume_id)
    with tidied(directory, volume_id, attempt):
        if is_there(directory, naming, volume_id, virtual_bytes, format):
            return format
        there = source_naming or naming
        with begun(source_directory, there, source_id, attempt, source_format):
            chain = load(source_directory, there, source_id, source_format, source_depth)
            layers = chain.layers if snapshot_id is None else chain.data(snapshot_id)
        if (held := taken_bytes(layers, source_bytes)) > virtual_bytes:
            raise InvalidInputError(f"{virtual_bytes} bytes are too few: the source has {held}.")
        temp = directory / attempt.temp_name
        with files.fresh(temp, naming.mode) as fd:
            fill(fd, temp, source_directory, layers, format, virtual_bytes, attempt, thick=thick)
            check_cancelled(attempt)
            files.publish(fd, temp, final)
    return format


def taken_bytes(layers: tuple[Layer, ...], source_bytes: int) -> int:
    """Return how long a source is: as long as it was when it was taken, where that is known."""
    return min(layers[0].virtual_bytes, source_bytes or layers[0].virtual_bytes)


def fill(
    fd: int,
    path: Path,
    source_directory: Path,
    layers: tuple[Layer, ...],
    image_format: str,
    virtual_bytes: int,
    attempt: Attempt,
    *,
    thick: bool = False,
) -> None:
    """Write a new image, empty and open, that reads as what the layers read as; zeros beyond their end."""
    top = layers[0]
    if image_format in differencing.ABOVE or top.format in differencing.ABOVE:
        flat = plain.unpacked(source_directory, layers, path, attempt)
        source, source_format = (flat, "raw") if flat else (source_directory / top.name, top.format)
        differencing.copy(
            fd, path.name, source, source_format, image_format, virtual_bytes, attempt, fixed=thick
        )
        if flat:
            flat.unlink()
    elif image_format == "raw" and plain.lay_flat(source_directory, layers, fd, attempt):
        raw.grow(fd, virtual_bytes)
    else:
        qemu_img.convert(source_directory / top.name, top.format, path, image_format, attempt)
        made = layer(path.parent, path.name, image_format)
        family(image_format).grow(path.parent, made, virtual_bytes, 0, attempt)
