"""Mends that cannot lose anything: for a volume that nobody uses, one step at a time, each repeatable.

Nothing is ever removed. What seems to belong to nobody is moved aside into `QUARANTINE`, on the same file
system, under a name that says when.
"""

from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from breezeblock.attempt import Attempt
from breezeblock.chains import users
from breezeblock.chains.begin import begun
from breezeblock.chains.chain import Chain, load
from breezeblock.chains.families import family
from breezeblock.chains.info import read_info, write_info
from breezeblock.chains.mending import fitting
from breezeblock.chains.naming import Naming
from breezeblock.errors import BreezeblockError, ConflictError, CorruptError
from breezeblock.shares import files

QUARANTINE = ".breezeblock-quarantine"
"""A directory in each pool; made when something is first moved there."""


class Mend(NamedTuple):
    """One step that would make something right."""

    kind: str
    """finish, info, freeze, image or quarantine."""
    name: str
    """The file it is about; for "freeze" the name to be made."""
    text: str


def mends(
    directory: Path,
    naming: Naming,
    volume_id: str,
    snapshot_ids: Collection[str],
    format: str,  # noqa: A002 - what the catalogue calls it
) -> list[Mend]:
    """Say what `mend` can do for a volume; changes nothing. Empty where nothing is safe."""
    with files.storage_errors(f"Volume {volume_id}"):
        names = files.listing(directory)
        if _in_use(directory, naming, volume_id, names):
            return []
        if naming.intent(volume_id) in names:
            text = f"finish the snapshot deletion of volume {volume_id} that was cut off"
            return [Mend("finish", naming.intent(volume_id), text)]
        try:
            chain = load(directory, naming, volume_id, format)
        except BreezeblockError:
            return _of_info(directory, naming, volume_id, snapshot_ids, format, names)
        return [
            *_of_freezing(directory, naming, chain),
            *_of_leftovers(directory, naming, volume_id, chain, names),
            *_of_images(directory, chain, users.frozen(directory, naming, volume_id, chain)),
        ]


def mend(
    directory: Path,
    naming: Naming,
    volume_id: str,
    snapshot_ids: Collection[str],
    one: Mend,
    attempt: Attempt,
    *,
    format: str,  # noqa: A002 - what the catalogue calls it
) -> None:
    """Do one of `mends`, or nothing if it is no longer among them."""
    if one not in mends(directory, naming, volume_id, snapshot_ids, format):
        return
    with files.storage_errors(f"Volume {volume_id}"):
        if one.kind == "finish":
            with begun(directory, naming, volume_id, attempt, format):
                pass
        elif one.kind == "image":
            chain = load(directory, naming, volume_id, format)
            found = next(image for image in chain.own if image.name == one.name)
            family(found.format).mend(directory, found, attempt)
        elif one.kind == "freeze":
            clone, _at, image = one.name.partition("@")
            users.add(directory, naming, image, clone)
        elif one.kind == "quarantine":
            quarantine(directory, one.name)
        else:
            names = files.listing(directory)
            info = fitting(directory, naming, volume_id, format, names, snapshot_ids)
            if info is None:
                raise CorruptError(f"Volume {volume_id} was changed meanwhile; nothing was done.")
            if one.name in names:
                quarantine(directory, one.name)  # killed here, it is missing, which is mended the same way
            write_info(directory, naming, volume_id, info, attempt)


def quarantine(directory: Path, name: str) -> str:
    """Move a regular file of the directory aside; return where it is, relative to the directory."""
    path = directory / name
    with files.storage_errors(str(path)):
        with files.opened(path) as fd:
            if files.held(fd):
                raise ConflictError(f"{path} is open in another program.", remedy="Stop that; then repeat.")
        aside = directory / QUARANTINE
        aside.mkdir(mode=0o700, exist_ok=True)
        moved = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        path.rename(aside / f"{name}.{moved}")
        files.sync_directory(aside)
        files.sync_directory(directory)
    return f"{QUARANTINE}/{name}.{moved}"


def _in_use(directory: Path, naming: Naming, volume_id: str, names: Collection[str]) -> bool:
    for name, kind in naming.of_volume(volume_id, names):
        if kind in {"volume", "overlay"}:
            with files.opened(directory / name) as fd:
                if files.held(fd):
                    return True
    return False


def _of_info(
    directory: Path,
    naming: Naming,
    volume_id: str,
    snapshot_ids: Collection[str],
    base_format: str,
    names: Collection[str],
) -> list[Mend]:
    """Replace an `.info` that is lost or unreadable; one that says something is never overruled."""
    try:
        if read_info(directory, naming, volume_id) is not None:
            return []
    except CorruptError:
        pass
    info = fitting(directory, naming, volume_id, base_format, names, snapshot_ids)
    if info is None:
        return []
    name = naming.info(volume_id)
    before = f"quarantine the unreadable {name} and " if name in names else ""
    return [Mend("info", name, f"{before}write the {name} that fits: {info.active} is active")]


def _of_freezing(directory: Path, naming: Naming, chain: Chain) -> Iterator[Mend]:
    """Freeze what a clone rests on, and what that rests on, where a copy of the share has lost the names."""
    for above, below in pairwise(chain.names):
        clone, source = naming.owner(above), naming.owner(below)
        if clone and source and clone != source and users.of(directory, naming, source).get(clone) != below:
            text = f"note that volume {clone} rests on {below}, which is then kept"
            yield Mend("freeze", f"{clone}@{below}", text)


def _of_leftovers(
    directory: Path, naming: Naming, volume_id: str, chain: Chain, names: Collection[str]
) -> list[Mend]:
    if users.of(directory, naming, volume_id):
        return []  # a clone may rest on what the volume itself does not use any more
    return [
        Mend("quarantine", name, f"move {name}, which no layer of volume {volume_id} uses, to {QUARANTINE}/")
        for name, kind in sorted(naming.of_volume(volume_id, names))
        if kind in {"overlay", "volume"} and name not in chain.names
    ]


def _of_images(directory: Path, chain: Chain, frozen: Collection[str]) -> Iterator[Mend]:
    """Mend what is wrong within images; those that clones rest on may be open in a guest of theirs."""
    for image in chain.own:
        text = "" if image.name in frozen else family(image.format).mendable(directory, image)
        if text:
            yield Mend("image", image.name, text)
