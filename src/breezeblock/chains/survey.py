"""Looking without changing: whether a volume is what the catalogue believes, what a directory holds."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from breezeblock.attempt import Attempt
from breezeblock.chains.chain import Chain, load
from breezeblock.chains.info import DOCTOR
from breezeblock.chains.mending import advice
from breezeblock.chains.naming import Naming
from breezeblock.errors import BreezeblockError, NotFoundError
from breezeblock.images import qemu_img
from breezeblock.shares import files

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
    kind: Literal["volume", "snapshot", "metadata", "temporary", "foreign"]
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
) -> list[Problem]:
    """Compare a volume with what the catalogue believes; `tables` lets qemu-img examine every QCOW2 layer."""
    volume = f"volume {volume_id}"
    with files.storage_errors(f"Volume {volume_id}"):
        if files.exists(directory / naming.intent(volume_id)):
            text = "a snapshot deletion was cut off"
            return [Problem(volume, text, "The next operation on the volume finishes it.", "warning")]
        names = files.listing(directory)
        try:
            chain = load(directory, naming, volume_id, format, names)
        except NotFoundError as error:
            return [Problem(volume, error.message, "Restore its files, or delete the volume.", "error")]
        except BreezeblockError as error:
            remedy = error.remedy
            if remedy == DOCTOR:
                remedy = advice(directory, naming, volume_id, format, names, snapshot_ids)
            return [Problem(volume, error.message, remedy, "error")]
        found = list(_compare(volume, chain, set(snapshot_ids), virtual_bytes))
        if any(problem.remedy == DOCTOR for problem in found):
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


def _examine(directory: Path, chain: Chain) -> Iterator[Problem]:
    looking = Attempt(operation_id="check", token="0")  # noqa: S106 - it names no file
    for image in chain.layers:
        if image.format != "qcow2":
            continue
        try:
            verdict, said = qemu_img.check(directory / image.name, looking)
        except BreezeblockError as error:
            yield Problem(image.name, error.message, error.remedy, "error")
            continue
        if verdict == "leaks":
            remedy = f"`qemu-img check -r leaks -f qcow2 {image.name}` frees them."
            yield Problem(image.name, "clusters are reserved that nothing uses", remedy, "warning")
        elif verdict == "broken":
            text = "its tables are damaged: " + " ".join(said.split())[:300]
            yield Problem(image.name, text, "Restore it from a copy; keep the volume detached.", "error")


def inventory(directory: Path, naming: Naming) -> Iterator[Item]:
    """Yield everything in the directory."""
    with files.storage_errors(str(directory)), os.scandir(directory) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            parsed = naming.parse(entry.name) if entry.is_file(follow_symlinks=False) else None
            allocated = status.st_blocks * 512
            if parsed:
                kind = {"volume": "volume", "overlay": "snapshot"}.get(parsed[1], "metadata")
                yield Item(entry.name, kind, parsed[0], parsed[2], allocated)  # type: ignore[arg-type]
            else:
                ours = entry.name.startswith(files.TEMPORARY)
                yield Item(entry.name, "temporary" if ours else "foreign", None, None, allocated)


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
