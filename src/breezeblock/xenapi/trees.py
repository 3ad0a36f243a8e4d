"""The images under disks: hidden base copies, what stands on what, and what the collector has yet to merge.

A disk of an SR with chains is a leaf over base copies that nobody manages. When a leaf goes, a base copy
may be left with one child only: the SR's garbage collector then merges the two, some time, if it finds
the space for that. Sizes are bytes.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from breezeblock.xenapi.mirror import View
from breezeblock.xenapi.records import Vdi

PARENT = "vhd-parent"


@dataclass(frozen=True, slots=True)
class Debt:
    """What waits for the collector."""

    images: int = 0
    reclaimable_bytes: int = 0
    """At most so much is free when it is done."""


class Trees:
    """All images of a view, by uuid. Made once for as many questions as there are."""

    def __init__(self, view: View) -> None:
        self._images = {vdi.uuid: vdi for vdi in view.vdis.values()}
        self._children: dict[str, list[Vdi]] = {}
        for vdi in view.vdis.values():
            self._children.setdefault(vdi.sm_config.get(PARENT, ""), []).append(vdi)

    def chain(self, vdi: Vdi) -> Iterator[Vdi]:
        """Yield an image and those under it, as far as they are known."""
        seen: set[str] = set()
        one: Vdi | None = vdi
        while one and one.uuid not in seen:
            seen.add(one.uuid)
            yield one
            one = self._images.get(one.sm_config.get(PARENT, ""))

    def depth(self, vdi: Vdi) -> int:
        """Return how many images a disk is read through, itself counted."""
        return sum(1 for _one in self.chain(vdi))

    def deepest(self, sr_ref: str) -> int:
        """Return the depth of an SR's deepest disk, 0 if it has none."""
        disks = (vdi for vdi in self._images.values() if sr_ref == vdi.SR and vdi.managed)
        return max(map(self.depth, disks), default=0)

    def unmerged(self, vdi: Vdi) -> int:
        """Return how many images under a disk the collector will merge."""
        return sum(self._only_child(one) is not None for one in self.chain(vdi))

    def debt(self, sr_ref: str) -> Debt:
        """Return what an SR's collector has yet to do."""
        count = total = 0
        for one in self._images.values():
            if sr_ref != one.SR or one.managed:
                continue
            children = self._children.get(one.uuid, ())
            if len(children) < 2:
                count += 1
                total += min(
                    (one, *children), key=lambda image: image.physical_utilisation
                ).physical_utilisation
        return Debt(count, total)

    def _only_child(self, image: Vdi, gone: Collection[str] = ()) -> Vdi | None:
        if image.managed:
            return None
        left = [child for child in self._children.get(image.uuid, ()) if child.uuid not in gone]
        return left[0] if len(left) == 1 else None

    def missing_bytes(self, deleted: Collection[Vdi], free_bytes: int, *, thick: bool) -> int:
        """Return how much space the merges lack that follow when these disks go; 0: there is enough.

        What the disks take is free before the first merge. A thick SR needs the whole size of a disk whose
        base copy becomes the disk; else a base copy grows by what its child holds.
        """
        gone = {vdi.uuid: vdi for vdi in deleted}
        below = [one for vdi in deleted for one in self.chain(vdi) if not one.managed]
        for base in below:
            if all(child.uuid in gone for child in self._children.get(base.uuid, ())):
                gone[base.uuid] = base
        need = 0
        for base in below:
            child = None if base.uuid in gone else self._only_child(base, gone)
            if child is not None and self._only_child(base) is None:
                grown = base.virtual_size - base.physical_utilisation
                whole = thick and child.managed
                need = max(need, grown if whole else min(grown, child.physical_utilisation))
        return max(0, need - free_bytes - sum(vdi.physical_utilisation for vdi in gone.values()))
