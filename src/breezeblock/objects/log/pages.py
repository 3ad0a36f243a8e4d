"""The map of a volume: for each page a place, in leaves of 1 GiB that are fetched when they are read.

A place is one number: source (12 bits), segment (36), index + 1 in it (16). 0 is a hole. Changing the map
never waits: a leaf that is not here takes changes on a blank, and gets the rest when it is fetched.
"""

from array import array
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from breezeblock.objects.log.format import LEAF_PAGES

_BLANK = bytes(LEAF_PAGES * 8)


class Place(NamedTuple):
    """Where pages lie."""

    source: int
    segment: int
    page: int


def packed(source: int, segment: int, index: int) -> int:
    """Return a place as a number; consecutive pages have consecutive numbers."""
    return source << 52 | segment << 16 | index + 1


def unpacked(entry: int) -> Place:
    """Return the place that a number other than 0 stands for."""
    return Place(entry >> 52, entry >> 16 & 0xFFFFFFFFF, (entry & 0xFFFF) - 1)


class Leaf:
    """1 GiB of the map."""

    __slots__ = ("changes", "dirty", "entries", "held")

    def __init__(self, entries: "array[int] | None" = None, *, complete: bool) -> None:
        self.entries = entries if entries is not None else array("Q", _BLANK)
        self.changes: list[tuple[int, int]] | None = None if complete else []
        """What was set while the rest has not been fetched."""
        self.dirty = False
        self.held = False
        """Somebody packs `entries`: the next change makes a copy."""

    def set(self, first: int, values: "array[int]") -> None:
        """Change a part."""
        if self.held:
            self.entries, self.held = self.entries[:], False
        self.dirty = True
        self.entries[first : first + len(values)] = values
        if self.changes is not None:
            self.changes.append((first, len(values)))

    def complete(self, fetched: "array[int]") -> None:
        """Add what was fetched below what was set meanwhile."""
        for first, count in self.changes or ():
            fetched[first : first + count] = self.entries[first : first + count]
        self.entries, self.changes, self.held = fetched, None, False


class PageMap:
    """The leaves of one volume."""

    def __init__(self, refs: dict[int, tuple[int, int]], limit: int) -> None:
        self.refs = dict(refs)
        """Stored leaves. One that is dirty keeps its ref until the new one is stored."""
        self.leaves: OrderedDict[int, Leaf] = OrderedDict()
        self._limit = limit

    def at(self, number: int) -> Leaf | None:
        """Return a leaf to read from; None: it must be fetched, by its ref."""
        leaf = self.leaves.get(number)
        if leaf is None:
            if number in self.refs:
                return None
            leaf = self.leaves[number] = Leaf(complete=True)
            self.trim_memory()
        elif leaf.changes is not None:
            return None
        self.leaves.move_to_end(number)
        return leaf

    def fetched(self, number: int, ref: tuple[int, int], entries: "array[int]") -> None:
        """Put a leaf in that was fetched by `ref`, unless it was replaced meanwhile."""
        if self.refs.get(number) != ref:
            return
        leaf = self.leaves.get(number)
        if leaf is None:
            self.leaves[number] = Leaf(entries, complete=True)
        elif leaf.changes is not None:
            leaf.complete(entries)
        self.trim_memory()

    def set(self, first: int, count: int, entry: int) -> None:
        """Let pages lie at `entry` and behind it; 0: they are zeros."""
        for number, start, amount in parts(first, count):
            if not entry and amount == LEAF_PAGES:
                self.drop(number)
                continue
            leaf = self.leaves.get(number)
            if leaf is None:
                if not entry and number not in self.refs:
                    continue
                leaf = self.leaves[number] = Leaf(complete=number not in self.refs)
            values = array("Q", range(entry, entry + amount)) if entry else array("Q", bytes(8 * amount))
            leaf.set(start, values)
            entry += amount if entry else 0

    def drop(self, number: int) -> None:
        """Let 1 GiB be zeros, without looking at it."""
        if number in self.refs or number in self.leaves:
            self.refs.pop(number, None)
            self.leaves[number] = Leaf(complete=True)
            self.leaves[number].dirty = True

    def dirty(self) -> list[int]:
        """Return the leaves that were changed since they were stored."""
        return [number for number, leaf in self.leaves.items() if leaf.dirty]

    def trim_memory(self) -> None:
        """Forget leaves that can be fetched again, the longest unused first."""
        spare = len(self.leaves) - self._limit
        for number in list(self.leaves) if spare > 0 else ():
            leaf = self.leaves[number]
            if spare > 0 and not leaf.dirty and leaf.changes is None:
                del self.leaves[number]
                spare -= 1


def parts(first: int, count: int) -> Iterator[tuple[int, int, int]]:
    """Split pages by leaves: the leaf, the first page in it, how many."""
    while count:
        number, start = divmod(first, LEAF_PAGES)
        amount = min(count, LEAF_PAGES - start)
        yield number, start, amount
        first, count = first + amount, count - amount
