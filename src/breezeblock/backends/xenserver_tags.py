"""Which disk of an SR is what of ours: our marks in VDI.other_config.

XenServer copies a disk's other_config to its snapshots, clones and copies, whoever makes them. So a disk
is ours only if its marks name its own uuid; the others merely inherited them. Before we derive a disk we
mark its source with the target (`making:<id>`), which the new disk inherits at its birth: what a killed
attempt leaves behind says of itself whose it is, and a stranger's snapshot of our disk never does.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from breezeblock.backends.contract import Snapshot
from breezeblock.errors import NotFoundError
from breezeblock.xenapi.mirror import View
from breezeblock.xenapi.records import Vdi

PREFIX = "breezeblock:"
VOLUME, SNAPSHOT, SELF = f"{PREFIX}volume", f"{PREFIX}snapshot", f"{PREFIX}vdi"
GENERATION, OPERATION, DRAFT = f"{PREFIX}generation", f"{PREFIX}operation", f"{PREFIX}draft"
MAKING = f"{PREFIX}making:"


@dataclass(frozen=True, slots=True)
class Disk:
    """A managed disk with marks of ours."""

    ref: str
    vdi: Vdi
    moved: bool = False
    """The disk that its marks name is gone: this one was moved, or is a stranger's copy of a deleted one.
    Never unfinished work of ours, for its source outlives that."""

    @property
    def volume(self) -> str:
        """Return the volume's id."""
        return self.vdi.other_config.get(VOLUME, "")

    @property
    def snapshot(self) -> str:
        """Return the snapshot's id, empty for a volume."""
        return self.vdi.other_config.get(SNAPSHOT, "")

    @property
    def published(self) -> bool:
        """Say whether the marks are its own and complete."""
        return self.vdi.other_config.get(SELF) == self.vdi.uuid

    @property
    def generation(self) -> int:
        """Return how often the volume was given another disk."""
        text = self.vdi.other_config.get(GENERATION, "0")
        return int(text) if text.isdigit() else 0

    @property
    def operation(self) -> str:
        """Return the operation that published it."""
        return self.vdi.other_config.get(OPERATION, "")

    @property
    def draft(self) -> str:
        """Return the operation that began to create it and has not published it."""
        return self.vdi.other_config.get(DRAFT, "")

    @property
    def making(self) -> Mapping[str, str]:
        """Return what is being made of it (or was, when it inherited the marks): target to operation."""
        config = self.vdi.other_config
        return {key.removeprefix(MAKING): value for key, value in config.items() if key.startswith(MAKING)}

    @property
    def abandoned(self) -> Mapping[str, str]:
        """Return for unpublished work whose it is: target to operation. Empty for anything else."""
        if self.draft:
            return {self.volume: self.draft}
        # A disk in a machine is not our work: a VM's snapshot, taken by others just then, inherits the mark.
        return {} if self.published or self.moved or self.vdi.VBDs else self.making


def disk_of(view: View, ref: str) -> Disk:
    """Return a disk as its marks make it."""
    vdi = view.vdis[ref]
    named = vdi.other_config.get(SELF, "")
    return Disk(ref, vdi, moved=named not in {"", vdi.uuid} and view.find(named) is None)


def disks(view: View) -> Iterator[Disk]:
    """Yield every managed disk with marks of ours, inherited ones too."""
    for ref, vdi in view.vdis.items():
        if vdi.managed and VOLUME in vdi.other_config:
            yield disk_of(view, ref)


def of_volume(view: View, volume_id: str) -> list[Disk]:
    """Return the published disks of a volume, the current one first."""
    found = [d for d in disks(view) if d.published and d.volume == volume_id and not d.snapshot]
    return sorted(found, key=lambda disk: -disk.generation)


def the_disk(view: View, volume_id: str) -> Disk:
    """Return a volume's current disk. Raises NotFoundError."""
    found = of_volume(view, volume_id)
    if found:
        return found[0]
    others = ", ".join(disk.vdi.uuid for disk in disks(view) if disk.volume == volume_id)
    remedy = (
        f"A copy or moved disk of it may be {others}; where it was moved, run `breezeblock xenserver move` "
        "with the pool that it is in now."
    )
    raise NotFoundError(f"Volume {volume_id} has no disk.", remedy=remedy if others else "Delete the volume.")


def the_snapshot(view: View, snapshot: Snapshot) -> Disk:
    """Return a snapshot's disk. Raises NotFoundError."""
    held = snapshots_of(view, snapshot.volume_id).get(snapshot.id)
    if held is None:
        raise NotFoundError(f"Volume {snapshot.volume_id} has no snapshot {snapshot.id}.")
    return held


def current(view: View) -> dict[str, Disk]:
    """Return the current disk of every volume by id."""
    found: dict[str, Disk] = {}
    for disk in disks(view):
        if disk.published and not disk.snapshot:
            held = found.get(disk.volume)
            if held is None or held.generation < disk.generation:
                found[disk.volume] = disk
    return found


def snapshots_of(view: View, volume_id: str) -> dict[str, Disk]:
    """Return the published snapshots of a volume by id."""
    return {d.snapshot: d for d in disks(view) if d.published and d.snapshot and d.volume == volume_id}


def leftovers(view: View, target: str) -> list[Disk]:
    """Return the unpublished work that is surely of this target: nobody else's mark is on it."""
    return [disk for disk in disks(view) if list(disk.abandoned) == [target]]


def marked_sources(view: View, target: str) -> list[Disk]:
    """Return the published disks that still say the target is being made of them."""
    return [disk for disk in disks(view) if disk.published and target in disk.making]


def own_marks(vdi: Vdi, **marks: str) -> dict[str, str]:
    """Return an other_config with these marks in place of all of ours; others' keys stay."""
    kept = {key: value for key, value in vdi.other_config.items() if not key.startswith(PREFIX)}
    names = {"volume": VOLUME, "snapshot": SNAPSHOT, "generation": GENERATION, "operation": OPERATION}
    return kept | {SELF: vdi.uuid} | {names[key]: value for key, value in marks.items()}
