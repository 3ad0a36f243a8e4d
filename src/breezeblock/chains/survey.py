"""Looking without changing: whether a volume is what the catalogue believes, what a directory holds."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from breezeblock.chains import users
from breezeblock.chains.chain import Chain, load
from breezeblock.chains.families import above, family
from breezeblock.chains.info import DOCTOR, read_info
from breezeblock.chains.mending import advice
from breezeblock.chains.naming import Naming
from breezeblock.chains.repairing import QUARANTINE
from breezeblock.errors import BreezeblockError, CorruptError, NotFoundError
from breezeblock.shares import files

CINDER_MARKER = ".cinderSecureEnvIndicator"
"""Cinder puts it at a share's root to remember how careful it is to be; it belongs to no volume."""

Severity = Literal["warning", "error"]


class Problem(NamedTuple):
    """Something that is not as it should be."""

    subject: str
    problem: str
    remedy: str
    severity: Severity


class Item(NamedTuple):
    """A file in a directory of volumes."""

    name: str
    kind: Literal["volume", "snapshot", "layer", "kept", "metadata", "temporary", "foreign"]
    volume_id: str | None
    snapshot_id: str | None
    allocated_bytes: int


def check(
    directory: Path,
    naming: Naming,
    volume_id: str,
    snapshot_ids: Collection[str],
    virtual_bytes: int,
    format: str,  # noqa: A002 - what the catalogue calls it
    *,
    tables: bool = True,
    depth: int = 0,
) -> list[Problem]:
    """Compare a volume with what the catalogue believes; `tables`: also look at every layer's tables.

    Overlays beside the chain are looked for only where the `depth` is not known, as that takes a listing
    of the directory; `inventory` tells of them all at once.
    """
    volume = f"volume {volume_id}"
    with files.storage_errors(f"Volume {volume_id}"):
        if files.exists(directory / naming.intent(volume_id)):
            text = "a snapshot deletion was cut off"
            return [Problem(volume, text, "The next operation on the volume finishes it.", "warning")]
        try:
            chain = load(directory, naming, volume_id, format, depth)
        except BreezeblockError as error:
            remedy = error.remedy
            if remedy == DOCTOR or isinstance(error, NotFoundError):
                names = files.listing(directory)
                remedy = advice(directory, naming, volume_id, format, names, snapshot_ids)
            return [Problem(volume, error.message, remedy, "error")]
        found = list(_compare(volume, chain, set(snapshot_ids), virtual_bytes))
        found += _clones(directory, naming, volume_id, chain)
        names = files.listing(directory) if depth == 0 else []
        if any(problem.remedy == DOCTOR for problem in found):
            names = names or files.listing(directory)
            remedy = advice(directory, naming, volume_id, format, names, snapshot_ids)
            found = [one._replace(remedy=remedy) if one.remedy == DOCTOR else one for one in found]
        for name, kind in naming.of_volume(volume_id, names):
            if kind in {"overlay", "volume"} and name not in chain.names:
                text = f"{name} belongs to no snapshot and no layer refers to it"
                found.append(Problem(volume, text, f"Look what is in it; then remove {name}.", "warning"))
        return found + (list(_examine(directory, chain)) if tables else [])


def _compare(volume: str, chain: Chain, believed: set[str], virtual_bytes: int) -> Iterator[Problem]:
    for snapshot_id in sorted(believed - chain.snapshots.keys()):
        yield Problem(f"snapshot {snapshot_id}", f"{volume} does not record it in .info", DOCTOR, "error")
    for snapshot_id in sorted(chain.snapshots.keys() - believed):
        text = f"{volume} holds it, but the catalogue does not know it"
        yield Problem(f"snapshot {snapshot_id}", text, "Adopt it, or delete it to free its space.", "warning")
    if chain.active.virtual_bytes != virtual_bytes:
        text = (
            f"{chain.active.name} has {chain.active.virtual_bytes} bytes, the catalogue says {virtual_bytes}"
        )
        smaller = chain.active.virtual_bytes < virtual_bytes
        remedy = "Extend the volume to at least what the larger of the two says."
        yield Problem(volume, text, remedy, "error" if smaller else "warning")


def _clones(directory: Path, naming: Naming, volume_id: str, chain: Chain) -> Iterator[Problem]:
    parent = chain.info.parent if chain.info else None
    if parent is not None and len(chain.layers) > len(chain.own):
        source = naming.owner(parent) or ""
        there = naming.like(parent)
        if users.of(directory, there, source).get(volume_id) != parent:
            text = f"it rests on {parent}, but {there.users(source)} does not say so"
            remedy = f"Flatten the volume, or make the file {volume_id}@{parent} there; until then delete "
            yield Problem(
                f"volume {volume_id}", text, f"{remedy}no snapshot and not volume {source}.", "error"
            )
    made = naming.of_format(above(chain.own[-1].format))
    for clone, image in users.of(directory, naming, volume_id).items():
        path = directory / naming.users(volume_id) / f"{clone}@{image}"
        try:
            info = read_info(directory, made, clone)
        except CorruptError:
            continue  # the clone's own check tells
        if info is None or info.parent != image:
            text = f"{path.name} freezes {image}, but volume {clone} does not rest on it"
            remedy = f"If no operation is at work on volume {clone}, remove {path}."
            yield Problem(f"volume {volume_id}", text, remedy, "warning")


def _examine(directory: Path, chain: Chain) -> Iterator[Problem]:
    for name, text, remedy, is_error in family(chain.active.format).examine(directory, chain.own):
        yield Problem(name, text, remedy, "error" if is_error else "warning")


def inventory(directory: Path, naming: Naming) -> Iterator[Item]:
    """Yield everything in the directory.

    "layer" is an overlay in a volume's chain that belongs to no snapshot; "kept" is what remains of a
    deleted volume for the clones that rest on it.
    """
    shapes: dict[str, _Shape] = {}
    all_names = naming
    with files.storage_errors(str(directory)), os.scandir(directory) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            allocated = status.st_blocks * 512
            naming = all_names.like(entry.name)
            users_of = _users_of(naming, entry) if entry.is_dir(follow_symlinks=False) else None
            parsed = naming.parse(entry.name) if entry.is_file(follow_symlinks=False) else None
            if users_of is not None:
                shape = shapes[users_of] = shapes.get(users_of) or _shape(directory, naming, users_of)
                kind = "kept" if shape.kept else "metadata"
                yield Item(entry.name, kind, users_of, None, allocated)  # type: ignore[arg-type]
            elif parsed:
                volume_id, sort, snapshot_id = parsed
                if volume_id not in shapes:
                    shapes[volume_id] = _shape(directory, naming, volume_id)
                shape = shapes[volume_id]
                kind = {"volume": "volume", "overlay": "snapshot"}.get(sort, "metadata")
                if shape.kept and (entry.name in shape.kept or sort == "info"):
                    kind, snapshot_id = "kept", None
                elif entry.name in shape.layers:
                    kind, snapshot_id = "layer", None
                yield Item(entry.name, kind, volume_id, snapshot_id, allocated)  # type: ignore[arg-type]
            elif entry.name in {CINDER_MARKER, QUARANTINE}:
                yield Item(entry.name, "metadata", None, None, allocated)
            else:
                ours = entry.name.startswith(files.TEMPORARY)
                yield Item(entry.name, "temporary" if ours else "foreign", None, None, allocated)


class _Shape(NamedTuple):
    """What of a volume is more than its first image and its snapshots' overlays."""

    layers: frozenset[str] = frozenset()
    kept: frozenset[str] = frozenset()


def _shape(directory: Path, naming: Naming, volume_id: str) -> _Shape:
    try:
        info = read_info(directory, naming, volume_id)
    except (CorruptError, OSError):
        return _Shape()
    if info is None:
        return _Shape()
    if info.deleted is not None:
        used = users.of(directory, naming, volume_id)
        kept, _whole = users.images(directory, naming, volume_id, info.deleted)
        return _Shape(kept=frozenset(kept if used else ()))
    names, _whole = users.images(directory, naming, volume_id, info.active)
    nobodys = set(names) - {naming.volume(volume_id), *info.snapshots.values()}
    return _Shape(layers=frozenset(nobodys))


def _users_of(naming: Naming, entry: "os.DirEntry[str]") -> str | None:
    owner = naming.owner(entry.name.removesuffix(".clones"))
    return owner if owner is not None and entry.name == naming.users(owner) else None


def sweep(directory: Path, live_operations: Collection[str]) -> list[str]:
    """Remove temporary files of operations that are not alive; return their names."""
    keep = tuple(f"{files.TEMPORARY}{operation}-" for operation in live_operations)
    gone = []
    with files.storage_errors(str(directory)):
        for name in sorted(files.listing(directory)):
            path = directory / name
            if name.startswith(files.TEMPORARY) and not name.startswith(keep) and path.is_file():
                path.unlink(missing_ok=True)
                gone.append(name)
    return gone
