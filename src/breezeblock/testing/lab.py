"""What every case of the suite works with: volumes on a back end beside a model of their content."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable
from uuid import uuid4

import msgspec

from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Backend, Placement, Snapshot, Volume


class Storage(Protocol):
    """What the author of a back end supplies: the back end, and ways to its storage that avoid it."""

    packages: tuple[str, ...]
    """The Python packages or modules that the kill schedule kills in, before each of their lines."""
    unit_bytes: int
    """A small size that the back end takes for a volume; the suite uses one to four times this."""
    options: Mapping[str, str]
    """`Volume.options` of every volume that the suite makes."""

    def open(self) -> Backend:
        """Return a new, started back end over the same storage, as after a restart."""

    def read(self, volume: Volume, snapshot: Snapshot | None = None) -> bytes:
        """Return all bytes of the volume or snapshot, as a consumer sees them, without the back end."""

    def write(self, volume: Volume, offset: int, data: bytes) -> None:
        """Write to the volume as a consumer does, without the back end."""

    def names(self) -> set[str]:
        """Return the name of everything on the storage, without the back end."""

    def damage(self, volume: Volume) -> None:
        """Break the volume so that it cannot be right (take away its data, say)."""


@runtime_checkable
class InDirectory(Storage, Protocol):
    """A storage that is one directory: the kill schedule kills once for each state that it leaves there."""

    root: Path
    """Has all that outlives a process. It is copied and brought back without the back end, so be it small."""


@dataclass(eq=False)
class Disk:
    """A volume, with what it and its snapshots (oldest first) must hold."""

    volume: Volume
    content: bytearray
    snapshots: dict[str, tuple[Snapshot, bytes]] = field(default_factory=dict)

    def placed(self, placement: Placement) -> None:
        """Remember where the volume is now."""
        self.volume = msgspec.structs.replace(
            self.volume, locator=placement.locator, format=placement.format, depth=placement.depth
        )

    def at(self, index: int) -> Snapshot:
        """Return one of the snapshots, 0 being the oldest."""
        return list(self.snapshots.values())[index][0]


class Lab:
    """One case's volumes. The verbs keep the model in step; `verify` compares it with the storage."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.unit = storage.unit_bytes
        self.backend = storage.open()
        self.able = self.backend.capabilities()
        self.pool = self.backend.stats()[0].name
        self.before = storage.names()
        self.disks: list[Disk] = []
        self._known: list[Disk] = []
        self._patterns = 0

    def reopen(self) -> None:
        """Let the back end go and take a new one, as a restart does."""
        self.backend.stop()
        self.backend = self.storage.open()

    def remember(self) -> Callable[[], None]:
        """Return what makes the model again what it is now, for a storage that is brought back as well."""
        disks, patterns = list(self.disks), self._patterns
        known = [(disk, disk.volume, bytes(disk.content), dict(disk.snapshots)) for disk in self._known]

        def bring_back() -> None:
            self.disks, self._patterns = list(disks), patterns
            self._known = [disk for disk, *_was in known]
            for disk, volume, content, snapshots in known:
                disk.volume, disk.content, disk.snapshots = volume, bytearray(content), dict(snapshots)

        return bring_back

    def new(self, units: int = 1) -> Disk:
        """Think of a volume that the back end has not heard of."""
        size = units * self.unit
        volume = Volume(
            id=str(uuid4()), virtual_bytes=size, pool=self.pool, options=dict(self.storage.options), depth=1
        )
        self._known.append(Disk(volume, bytearray(size)))
        return self._known[-1]

    def create(self, units: int = 1, *, written: bool = True) -> Disk:
        """Create a volume, with something at its start and its end if `written`."""
        disk = self.new(units)
        disk.placed(self.backend.create(disk.volume, attempt()))
        self.disks.append(disk)
        if written:
            self.write(disk, 0)
            self.write(disk, disk.volume.virtual_bytes - 4096)
        return disk

    def write(self, disk: Disk, offset: int, length: int = 4096) -> None:
        """Write a pattern that was never written before."""
        self._patterns += 1
        seed = f"{disk.volume.id} {self._patterns}".encode()
        data = hashlib.shake_128(seed).digest(length)
        self.storage.write(disk.volume, offset, data)
        disk.content[offset : offset + length] = data

    def extend(self, disk: Disk, units: int) -> None:
        """Extend a volume."""
        self.extended(disk, units, self.backend.extend(disk.volume, units * self.unit, attempt()))

    def extended(self, disk: Disk, units: int, placement: Placement) -> None:
        """Note that a volume was extended."""
        disk.placed(placement)
        size = max(units * self.unit, disk.volume.virtual_bytes)
        disk.volume = msgspec.structs.replace(disk.volume, virtual_bytes=size)
        disk.content.extend(bytes(size - len(disk.content)))

    def snapshot(self, disk: Disk) -> Snapshot:
        """Take a snapshot."""
        snapshot = self.new_snapshot(disk)
        done = self.backend.snapshot(disk.volume, snapshot, attempt())
        self.snapped(disk, snapshot, done.volume, done.locator)
        return disk.at(-1)

    def new_snapshot(self, disk: Disk) -> Snapshot:
        """Think of a snapshot."""
        return Snapshot(id=str(uuid4()), volume_id=disk.volume.id, virtual_bytes=disk.volume.virtual_bytes)

    def snapped(self, disk: Disk, snapshot: Snapshot, placement: Placement, locator: str) -> None:
        """Note that a snapshot was taken."""
        disk.placed(placement)
        placed = msgspec.structs.replace(snapshot, locator=locator)
        disk.snapshots[snapshot.id] = (placed, bytes(disk.content))

    def snapshots(self, disk: Disk, number: int) -> None:
        """Take that many snapshots, writing something after each: over the old, and beside it."""
        for index in range(number):
            self.snapshot(disk)
            self.write(disk, 0)
            self.write(disk, (index + 1) * 8192, 8192)

    def delete_snapshot(self, disk: Disk, snapshot: Snapshot) -> None:
        """Delete a snapshot."""
        disk.placed(self.backend.delete_snapshot(disk.volume, snapshot, attempt()))
        del disk.snapshots[snapshot.id]

    def revert(self, disk: Disk, snapshot: Snapshot) -> None:
        """Revert to a snapshot."""
        self.reverted(disk, snapshot, self.backend.revert(disk.volume, snapshot, attempt()))

    def reverted(self, disk: Disk, snapshot: Snapshot, placement: Placement) -> None:
        """Note that a volume was reverted."""
        disk.placed(placement)
        held = disk.snapshots[snapshot.id][1]
        disk.content[:] = held + bytes(disk.volume.virtual_bytes - len(held))

    def flatten(self, disk: Disk) -> None:
        """Flatten a volume."""
        disk.placed(self.backend.flatten(disk.volume, attempt()))

    def shorten(self, disk: Disk) -> None:
        """Shorten a volume's chain, where the back end has such."""
        if self.able.linked_clones:
            disk.placed(self.backend.shorten(disk.volume, attempt()))

    def derived(self, disk: Disk, content: bytes, placement: Placement) -> None:
        """Note that a volume was made from content that is known."""
        disk.placed(placement)
        disk.content[: len(content)] = content
        self.disks.append(disk)

    def delete(self, disk: Disk) -> None:
        """Delete a volume."""
        self.backend.delete(disk.volume, attempt())
        self.disks.remove(disk)

    def verify(self, *disks: Disk) -> None:
        """Compare these volumes (none named: all) and their snapshots with the model, and `check` them."""
        self.compare(*disks)
        for disk in disks or tuple(self.disks):
            self.verify_clean(disk)

    def compare(self, *disks: Disk) -> None:
        """Compare these volumes (none named: all) and their snapshots with the model."""
        for disk in disks or tuple(self.disks):
            self._same(f"Volume {disk.volume.id}", self.storage.read(disk.volume), disk.content)
            for snapshot, content in disk.snapshots.values():
                held = self.storage.read(disk.volume, snapshot)
                self._same(f"Snapshot {snapshot.id}", held, content)

    def verify_clean(self, disk: Disk) -> None:
        """Have the back end check the volume: it must find nothing wrong."""
        known = tuple(snapshot for snapshot, _content in disk.snapshots.values())
        findings = self.backend.check(disk.volume, known)
        wrong = [finding for finding in findings if finding.severity == "error"]
        assert not wrong, f"check of a healthy volume found {wrong}"

    def verify_nothing_left(self) -> None:
        """See that the storage holds exactly what it held at first."""
        now = self.storage.names()
        assert now == self.before, (
            f"left behind: {sorted(now - self.before)}; gone: {sorted(self.before - now)}"
        )

    def finish(self) -> None:
        """Delete what is there, newest first, and see that nothing stays behind."""
        for disk in reversed(list(self.disks)):
            for snapshot, _content in reversed(list(disk.snapshots.values())):
                self.delete_snapshot(disk, snapshot)
            self.delete(disk)
        self.verify_nothing_left()

    @staticmethod
    def _same(what: str, held: bytes, expected: bytes | bytearray) -> None:
        assert len(held) == len(expected), f"{what} has {len(held)} bytes and must have {len(expected)}."
        if held != expected:
            at = next(i for i, (a, b) in enumerate(zip(held, expected, strict=True)) if a != b)
            raise AssertionError(f"{what} is wrong from byte {at}: {held[at : at + 16]!r}")


@contextmanager
def lab_on(storage: Storage) -> Iterator[Lab]:
    """Lend a lab; at the end everything in it is deleted, and must be gone."""
    lab = Lab(storage)
    try:
        yield lab
        lab.finish()
    finally:
        lab.backend.stop()


def attempt(operation_id: str = "") -> Attempt:
    """Return a fresh attempt, of a fresh operation if none is given."""
    return Attempt(operation_id=operation_id or str(uuid4()), token=uuid4().hex[:12])
