"""Who rests on whose images: the names that linked clones leave beside the volume they were cloned from.

`volume-<id>.clones/` holds an empty file `<clone id>@<image>` for each clone. As long as it is there,
that image and everything below it is frozen: never written, merged, resized, re-linked or removed. A name
is added while the source is held by the cloning operation; it is removed by whoever deletes or flattens
the clone, at any time and without holding the source, so what is frozen can only become less while a verb
looks at it.

A volume that is deleted while others rest on it first writes into its `.info` that it is deleted, then
tries to remove the directory; the last clone first takes its name away, then tries to remove the
directory, then reads `.info`. The server lets exactly one of them remove it, and only when it is empty: in
whatever order they come, at least one of them knows that nobody is left, and removes the images. If both
do, that does no harm.
"""

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from breezeblock.chains.chain import Chain
from breezeblock.chains.families import FORMATS, above, layer
from breezeblock.chains.info import read_info
from breezeblock.chains.naming import Naming, is_id
from breezeblock.errors import CorruptError
from breezeblock.shares import files


def of(directory: Path, naming: Naming, volume_id: str) -> dict[str, str]:
    """Return the clones that rest on the volume's images, and on which; costs as much as there are clones."""
    try:
        names = files.listing(directory / naming.users(volume_id))
    except FileNotFoundError:
        return {}
    found = (name.partition("@") for name in names)
    return {clone: image for clone, _at, image in found if is_id(clone) and naming.is_image(volume_id, image)}


def frozen(directory: Path, naming: Naming, volume_id: str, chain: Chain) -> frozenset[str]:
    """Return the names of the volume's own layers that clones rest on, directly or not."""
    used = set(of(directory, naming, volume_id).values())
    names = [layer.name for layer in chain.own]
    if not used:
        return frozenset()
    if not used <= set(names):  # somebody moved files about: touch nothing
        return frozenset(names)
    return frozenset(names[min(names.index(name) for name in used) :])


def add(directory: Path, naming: Naming, image: str, clone_id: str) -> None:
    """Freeze an image for a clone; the caller holds the volume that the image belongs to."""
    place = directory / naming.like(image).users(_owner(naming, image))
    mode = naming.mode | (naming.mode & 0o444) >> 2  # whoever may read the files may look who there is
    while True:
        try:
            place.mkdir()
            place.chmod(mode)
            files.sync_directory(directory)
        except FileExistsError:
            pass
        try:
            with files.opened(place / f"{clone_id}@{image}", os.O_WRONLY | os.O_CREAT, naming.mode):
                pass
            files.sync_directory(place)
        except FileNotFoundError:
            continue  # the last of the others went, and took the directory along
        return


def nobody(directory: Path, naming: Naming, volume_id: str) -> bool:
    """Tell, once and for all who ask, whether no clone rests on the volume."""
    try:
        (directory / naming.users(volume_id)).rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
            return False
        raise
    files.sync_directory(directory)
    return True


def release(directory: Path, naming: Naming, image: str, clone_id: str) -> None:
    """Take a clone's name away; where that was a deleted volume's last one, remove what was kept of it.

    That volume may itself have been a clone, and the last one of its own parent. Repeating it all finds
    its way again, as what describes a volume is removed last, the deepest volume's first.
    """
    gone: list[Path] = []
    needed: str | None = image
    while needed is not None:
        owner, naming = _owner(naming, needed), naming.like(needed)
        place = directory / naming.users(owner)
        try:
            (place / f"{clone_id}@{needed}").unlink(missing_ok=True)
            files.sync_directory(place)
        except FileNotFoundError:
            pass
        if not nobody(directory, naming, owner):
            break
        info = read_info(directory, naming, owner)
        if info is None or info.deleted is None:
            break
        names, _whole = images(directory, naming, owner, info.active)
        kept, _whole = images(directory, naming, owner, info.deleted)
        remove(directory, [*reversed(names), *reversed(kept)])
        gone.append(directory / naming.info(owner))
        needed, clone_id = info.parent, owner
    for path in reversed(gone):
        files.remove(path)


def images(directory: Path, naming: Naming, volume_id: str, top: str) -> tuple[list[str], bool]:
    """Return the volume's own images from `top` downwards, and whether the first one was reached.

    The first one is not always called `volume-<id>`: Cinder, deleting a snapshot under a guest, may have
    merged that upwards into an overlay. A deletion that was cut off leaves gaps, so what cannot be read
    ends the walk and is no error.
    """
    names: list[str] = []
    current: str | None = top
    while current is not None and current not in names and naming.is_image(volume_id, current):
        try:
            if not files.exists(directory / current):
                return names, False
            names.append(current)
            if current == naming.volume(volume_id):
                return names, True
            current = layer(directory, current, _overlay_format(naming)).backing
        except (CorruptError, FileNotFoundError):  # another of its last users may be removing them just now
            return names, False
    return names, bool(names) and current is None


def _overlay_format(naming: Naming) -> str:
    """Return what the volume's overlays are, which its name tells although nobody remembers it."""
    return above(naming.extension if naming.extension in FORMATS else "raw")


def remove(directory: Path, names: Iterable[str]) -> None:
    """Remove images durably, in this order."""
    for name in names:
        (directory / name).unlink(missing_ok=True)
    files.sync_directory(directory)


def _owner(naming: Naming, image: str) -> str:
    owner = naming.owner(image)
    if owner is None:
        raise CorruptError(f"{image[:80]!a} is no name of an image.")
    return owner
