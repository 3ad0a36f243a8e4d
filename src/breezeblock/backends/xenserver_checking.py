"""Volumes compared with what the catalog believes: one look at the pool for many that are asked for together.

A look that another volume's check made just before is good enough to say that all is well. A finding is
only told after a look of its own.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from breezeblock.backends.contract import Finding, Snapshot, Volume
from breezeblock.backends.xenserver_reports import DEEP
from breezeblock.backends.xenserver_tags import Disk, disks, the_disk
from breezeblock.errors import NotFoundError
from breezeblock.xenapi import srkinds
from breezeblock.xenapi.mirror import View
from breezeblock.xenapi.records import Vdi
from breezeblock.xenapi.trees import Trees

YOUNG_S = 5.0


@dataclass(frozen=True, slots=True)
class Picture:
    """A view, sorted for questions about volumes."""

    view: View
    trees: Trees
    disks: dict[str, list[Disk]]
    """The published disks of each volume."""


class Checks:
    """The checks of one back end. Safe for many threads."""

    def __init__(self, look: Callable[[], View]) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._picture: Picture | None = None
        self._taken = 0.0
        self._asked: set[str] = set()

    def check(
        self, volume: Volume, snapshots: Sequence[Snapshot], srs_of: Callable[[View], Sequence[str]]
    ) -> list[Finding]:
        """Return what is wrong with a volume of these SRs."""
        picture, fresh = self._latest(volume.id)
        found = compare(picture, srs_of(picture.view), volume, snapshots)
        if found and not fresh:
            picture = self._take()
            found = compare(picture, srs_of(picture.view), volume, snapshots)
        return found

    def _latest(self, volume_id: str) -> tuple[Picture, bool]:
        """Return a picture, and whether it was taken now: for no volume is one used twice."""
        with self._lock:
            held = self._picture
            if held and volume_id not in self._asked and time.monotonic() < self._taken + YOUNG_S:
                self._asked.add(volume_id)
                return held, False
            picture = self._picture = self._take()
            self._taken, self._asked = time.monotonic(), {volume_id}
            return picture, True

    def _take(self) -> Picture:
        view = self._look()
        found: dict[str, list[Disk]] = {}
        for disk in disks(view):
            if disk.published:
                found.setdefault(disk.volume, []).append(disk)
        return Picture(view, Trees(view), found)


def compare(
    picture: Picture, srs: Sequence[str], volume: Volume, snapshots: Sequence[Snapshot]
) -> list[Finding]:
    """Compare the disks of a volume of these SRs with what the catalog believes."""
    mine = picture.disks.get(volume.id, [])
    current = max((disk for disk in mine if not disk.snapshot), key=lambda one: one.generation, default=None)
    if current is None:
        try:
            current = the_disk(picture.view, volume.id)  # which says what may have become of it
        except NotFoundError as error:
            return [Finding(subject=volume.id, problem=error.message, remedy=error.remedy)]
    held = {disk.snapshot: disk for disk in mine if disk.snapshot}
    found = _examine(volume.id, current.vdi, volume.virtual_bytes)
    for item in snapshots:
        if item.id in held:
            found += _examine(item.id, held[item.id].vdi, item.virtual_bytes)
        else:
            found.append(Finding(subject=item.id, problem="Its disk is missing.", remedy="Delete it."))
    unknown = held.keys() - {item.id for item in snapshots}
    found += [Finding(subject=one, problem="Not in the catalog.", remedy="Delete it.") for one in unknown]
    return found + _astray(volume, srs, current.vdi) + _deep(volume.id, picture.trees, current.vdi)


def _deep(subject: str, trees: Trees, vdi: Vdi) -> list[Finding]:
    """Return a warning if the disk's chain is long."""
    depth = trees.depth(vdi)
    if depth < DEEP:
        return []
    state = f"{depth} deep (of {srkinds.CHAIN_LIMIT}), {trees.unmerged(vdi)} to be merged"
    remedy = "Delete snapshots, and see that the SR coalesces."
    return [Finding(subject=subject, problem=f"Its chain is {state}.", remedy=remedy, severity="warning")]


def _astray(volume: Volume, srs: Sequence[str], vdi: Vdi) -> list[Finding]:
    """Return a warning if the disk is not in one of its pool's SRs: it was moved."""
    if vdi.SR in srs:
        return []
    return [
        Finding(
            subject=volume.id,
            problem=f"Disk {vdi.uuid} is not in pool {volume.pool}.",
            remedy=f"Unmanage the volume, and manage it in the pool where it is as volume-{volume.id}.",
            severity="warning",
        )
    ]


def _examine(subject: str, vdi: Vdi, virtual_bytes: int) -> list[Finding]:
    """Return what is wrong with a disk that should have that many bytes."""
    if vdi.missing:
        return [Finding(subject=subject, problem=f"Disk {vdi.uuid} has no data.", remedy="Restore it.")]
    if vdi.virtual_size < virtual_bytes:
        text = f"Disk {vdi.uuid} has {vdi.virtual_size} bytes, not {virtual_bytes}."
        return [Finding(subject=subject, problem=text, remedy="Extend the volume.")]
    return []
