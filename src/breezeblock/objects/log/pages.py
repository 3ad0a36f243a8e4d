"""The map of a volume: for each page a place, in leaves of 1 GiB that are fetched when they are read.

A place is one number: source (12 bits), segment (36), index + 1 in it (16). 0 is a hole. Changing the map
never waits: a leaf that is not here takes changes, and gets the rest when it is fetched.
"""

from array import array
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from breezeblock.objects.log.format import LEAF_PAGES

_RUN = 64
"""So many pages at once are put into the base."""
_FEW = 4096
"""So many changes of a leaf lie beside it."""
_CHANGES = 1 << 18
"""So many of all leaves may."""


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


class Frozen(NamedTuple):
    """A leaf as it was at one moment, to be stored."""

    leaf: "Leaf"
    base: "array[int] | None"
    blank: bool
    changes: dict[int, int]
    solid: bool
    dropped: bool


class Leaf:
    """1 GiB of the map: what is stored, and what was set since.

    A few changes lie beside, so that a volume that is written here and there needs no 2 MiB for each GiB
    that is touched; many are put in.
    """

    __slots__ = ("base", "blank", "changes", "dropped", "frozen", "held", "solid")

    def __init__(self, *, blank: bool) -> None:
        self.base: array[int] | None = None
        self.blank = blank
        """Nothing is stored: without a base, all are holes."""
        self.changes: dict[int, int] = {}
        self.frozen: dict[int, int] = {}
        """Earlier changes, that are being stored."""
        self.solid = False
        """The base has changes, and is not what is stored."""
        self.dropped = False
        """Something is stored under this number, and must not be named any more."""
        self.held = False
        """Somebody packs the base: the next change of it makes a copy."""

    @property
    def ready(self) -> bool:
        """Whether all of it is known."""
        return self.blank or self.base is not None

    @property
    def empty(self) -> bool:
        """Whether all are holes, as far as that can be seen without looking at each."""
        return self.blank and self.base is None and not self.changes and not self.frozen

    @property
    def dirty(self) -> bool:
        """Whether it was changed since it was stored."""
        return bool(self.changes) or self.solid or self.dropped

    def entry(self, index: int) -> int:
        """Return one place; 0 also if it is not known."""
        found = self.changes.get(index)
        if found is None:
            found = self.frozen.get(index)
        if found is None:
            found = self.base[index] if self.base is not None else 0
        return found

    def span(self, first: int, count: int) -> "array[int]":
        """Return places."""
        if count == 1:
            return array("Q", (self.entry(first),))
        base = self.base
        found = base[first : first + count] if base is not None else array("Q", bytes(8 * count))
        for over in (self.frozen, self.changes):
            if len(over) < count:
                for index, value in over.items():
                    if first <= index < first + count:
                        found[index - first] = value
            else:
                for index in range(first, first + count):
                    value = over.get(index, -1)
                    if value >= 0:
                        found[index - first] = value
        return found

    def set(self, first: int, count: int, entry: int) -> None:
        """Let pages lie at `entry` and behind it; 0: they are zeros."""
        if self.ready and (self.solid or count >= _RUN or len(self.changes) >= _FEW):
            base = self._made_solid()
            base[first : first + count] = (
                array("Q", range(entry, entry + count)) if entry else array("Q", bytes(8 * count))
            )
        elif count == 1:
            self.changes[first] = entry
        else:
            for index in range(count):
                self.changes[first + index] = entry + index if entry else 0

    def _made_solid(self) -> "array[int]":
        if not self.solid or self.changes:
            base = self.span(0, LEAF_PAGES)
            self.base, self.solid, self.held = base, True, False
            self.changes, self.frozen = {}, {}
            return base
        assert self.base is not None  # noqa: S101 - that is what solid means
        if self.held:
            self.base, self.held = self.base[:], False
        return self.base

    def freeze(self) -> Frozen:
        """Return what it is now; it goes on with changes of its own."""
        found = Frozen(self, self.base, self.blank, self.changes, self.solid, self.dropped)
        self.frozen, self.changes = self.changes, {}
        self.held = self.base is not None
        self.solid = self.dropped = False
        return found

    def thaw(self, frozen: Frozen) -> None:
        """Take back what could not be stored."""
        self.changes, self.frozen = {**self.frozen, **self.changes}, {}
        self.solid = self.solid or frozen.solid
        self.dropped = self.dropped or frozen.dropped
        self.held = False

    def settle(self, *, stored: bool) -> None:
        """Take notice that what was frozen is stored, or was nothing but holes."""
        self.held, self.blank = False, not stored
        if self.base is not None:
            for index, value in self.frozen.items():
                self.base[index] = value
        self.frozen = {}


class PageMap:
    """The leaves of one volume."""

    def __init__(self, refs: dict[int, tuple[int, int]], limit: int) -> None:
        self.refs = dict(refs)
        """Stored leaves. One that is dirty keeps its ref until the new one is stored."""
        self.leaves: OrderedDict[int, Leaf] = OrderedDict()
        self.limit = limit
        """So many leaves are kept in memory, and those that only we know."""

    def at(self, number: int) -> Leaf | None:
        """Return a leaf to read from; None: it must be fetched, by its ref."""
        leaf = self.leaves.get(number)
        if leaf is None:
            if number in self.refs:
                return None
            leaf = self.leaves[number] = Leaf(blank=True)
        elif not leaf.ready:
            return None
        self.leaves.move_to_end(number)
        return leaf

    def fetched(self, number: int, ref: tuple[int, int], entries: "array[int]") -> None:
        """Put a leaf in that was fetched by `ref`, unless it was replaced meanwhile."""
        if self.refs.get(number) != ref:
            return
        leaf = self.leaves.get(number)
        if leaf is None:
            leaf = self.leaves[number] = Leaf(blank=False)
        if not leaf.ready:
            leaf.base = entries
            self.leaves.move_to_end(number)
            self.trim_memory(number)

    def set(self, first: int, count: int, entry: int) -> None:
        """Let pages lie at `entry` and behind it; 0: they are zeros."""
        number, start = divmod(first, LEAF_PAGES)
        if entry and start + count <= LEAF_PAGES and (known := self.leaves.get(number)):
            known.set(start, count, entry)
            return
        for number, start, amount in parts(first, count):
            if not entry and amount == LEAF_PAGES:
                self.drop(number)
                continue
            leaf = self.leaves.get(number)
            if leaf is None:
                if not entry and number not in self.refs:
                    continue
                leaf = self.leaves[number] = Leaf(blank=number not in self.refs)
            leaf.set(start, amount, entry)
            entry += amount if entry else 0

    def drop(self, number: int) -> None:
        """Let 1 GiB be zeros, without looking at it."""
        if number in self.refs or number in self.leaves:
            self.refs.pop(number, None)
            self.leaves[number] = Leaf(blank=True)
            self.leaves[number].dropped = True

    def freeze(self) -> dict[int, Frozen]:
        """Return the leaves that were changed since they were stored, as they are at this moment."""
        return {number: leaf.freeze() for number, leaf in self.leaves.items() if leaf.dirty}

    def thaw(self, frozen: dict[int, Frozen]) -> None:
        """Take back what could not be stored, but for leaves that were dropped meanwhile."""
        for number, one in frozen.items():
            if self.leaves.get(number) is one.leaf:
                one.leaf.thaw(one)

    def settle(self, frozen: dict[int, Frozen], stored: dict[int, tuple[int, int]]) -> None:
        """Take notice of where frozen leaves are stored now; those that are not were all holes."""
        for number, one in frozen.items():
            ref = stored.get(number)
            if ref is None:
                self.refs.pop(number, None)
            else:
                self.refs[number] = ref
            leaf = self.leaves.get(number)
            if leaf is one.leaf:
                leaf.settle(stored=ref is not None)
            elif leaf is not None:
                leaf.dropped = True  # whoever dropped it did not know this ref
        self.trim_memory()

    @property
    def dirty(self) -> int:
        """How many leaves were changed since they were stored."""
        return sum(leaf.dirty for leaf in self.leaves.values())

    @property
    def weight(self) -> float:
        """How much of what may be kept unstored is: at 1, it is time to store it."""
        solid = sum(leaf.solid for leaf in self.leaves.values())
        changes = sum(len(leaf.changes) for leaf in self.leaves.values())
        return max(2 * solid / self.limit, changes / _CHANGES)

    def trim_memory(self, wanted: int = -1) -> None:
        """Forget leaves that can be fetched again, the longest unused first, but for `wanted`."""
        spare = sum(leaf.base is not None for leaf in self.leaves.values()) - self.limit
        for number in list(self.leaves) if spare > 0 else ():
            leaf = self.leaves[number]
            # While it is being stored, only it knows what it is.
            fixed = leaf.solid or leaf.blank or leaf.held or number == wanted
            if spare > 0 and leaf.base is not None and not fixed:
                leaf.base = None
                spare -= 1
                if not leaf.dirty and not leaf.frozen:
                    del self.leaves[number]


def parts(first: int, count: int) -> Iterator[tuple[int, int, int]]:
    """Split pages by leaves: the leaf, the first page in it, how many."""
    while count:
        number, start = divmod(first, LEAF_PAGES)
        amount = min(count, LEAF_PAGES - start)
        yield number, start, amount
        first, count = first + amount, count - amount
