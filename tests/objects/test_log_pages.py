"""The map of a volume beside a plain dictionary, while leaves are stored, fetched, forgotten and dropped."""

import asyncio
import itertools
import random
from array import array

from hypothesis import given, settings
from hypothesis import strategies as st
from log_lab import PAGE, soon

from breezeblock.objects.log import format as form
from breezeblock.objects.log import volumes
from breezeblock.objects.log.format import LEAF_BYTES, LEAF_PAGES
from breezeblock.objects.log.pages import Frozen, PageMap
from breezeblock.objects.log.pieces import mapped
from breezeblock.objects.stores.memory import MemoryStore

ONE = "1" * 32
LEAVES = 5


class Shelf:
    """What a writer does with a map: it stores leaves, and may fail."""

    def __init__(self, dice: random.Random) -> None:
        self.dice, self.map = dice, PageMap({}, 2)
        self.model: dict[int, int] = {}
        self.stored: dict[tuple[int, int], bytes] = {}
        self.under_way: dict[int, Frozen] | None = None
        self._moment: dict[int, tuple[int, int]] = {}

    def fetch(self, number: int) -> None:
        ref = self.map.refs.get(number)
        if ref is not None:
            self.map.fetched(number, ref, form.unpack_leaf(self.stored[ref], "leaf"))

    def step(self) -> None:
        number = self.dice.randrange(LEAVES)
        kind = self.dice.choices(
            ("set", "zero", "drop", "freeze", "end", "fetch", "look"), (9, 3, 1, 3, 4, 3, 6)
        )
        start = number * LEAF_PAGES + self.dice.choice((0, 5, LEAF_PAGES - 40))
        count = self.dice.choice((1, 3, 80))
        match kind[0]:
            case "set":
                entry = self.dice.randrange(1, 1 << 40) << 16 | 1
                self.map.set(start, count, entry)
                self.model |= {start + at: entry + at for at in range(count)}
            case "zero":
                self.map.set(start, count, 0)
                self.model |= dict.fromkeys(range(start, start + count), 0)
            case "drop":
                self.map.set(number * LEAF_PAGES, LEAF_PAGES, 0)
                self.model = {page: at for page, at in self.model.items() if page // LEAF_PAGES != number}
            case "freeze" if self.under_way is None:
                self._moment, self.under_way = dict(self.map.refs), self.map.freeze()
            case "end" if self.under_way is not None:
                self.end(self.under_way)
            case "fetch":
                self.fetch(number)
            case "look":
                self.look(start, count)

    def end(self, frozen: dict[int, Frozen]) -> None:
        self.under_way = None
        if self.dice.random() < 0.3:
            self.map.thaw(frozen)
            return
        refs = {}
        for number, one in frozen.items():
            base = one.base
            if base is None and not one.blank:
                base = form.unpack_leaf(self.stored[self._moment[number]], "leaf")
            body = form.pack_changed(base, one.changes)
            if body:
                refs[number] = (0, len(self.stored) + 1)
                self.stored[refs[number]] = body
        self.map.settle(frozen, refs)

    def look(self, start: int, count: int) -> None:
        number, count = start // LEAF_PAGES, min(count, 40)
        if self.map.at(number) is None:
            self.fetch(number)
        leaf = self.map.at(number)
        assert leaf is not None
        expected = array("Q", [self.model.get(page, 0) for page in range(start, start + count)])
        assert leaf.span(start % LEAF_PAGES, count) == expected
        assert leaf.entry(start % LEAF_PAGES) == expected[0]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_a_map_says_what_was_set_whatever_is_stored_and_forgotten(seed: int) -> None:
    shelf = Shelf(random.Random(seed))
    for _ in range(60):
        shelf.step()
    if shelf.under_way is not None:
        shelf.end(shelf.under_way)
    for number in range(LEAVES):
        for start in (0, 5, LEAF_PAGES - 40):
            shelf.look(number * LEAF_PAGES + start, 40)
    shelf.map.settle(frozen := shelf.map.freeze(), dict.fromkeys(frozen, (1, 1)))
    shelf.map.trim_memory()
    assert sum(leaf.base is not None for leaf in shelf.map.leaves.values()) <= 2


def test_a_volume_that_is_written_all_over_takes_little_memory() -> None:
    async def run() -> None:
        store, leaves = MemoryStore(), 24
        await volumes.create(store, ONE, leaves * LEAF_BYTES)
        memory = volumes.Memory(leaves=4, age_s=3600)
        device = await volumes.attach(store, ONE, memory=memory)
        pages = device.writer.pages
        for number in range(leaves):  # as making a file system does
            await soon(device.write(number * LEAF_BYTES, memoryview(bytes([number + 1]) * PAGE)))
        assert not any(leaf.base is not None for leaf in pages.leaves.values())
        for number in range(leaves):  # and then long runs
            await soon(
                device.write(number * LEAF_BYTES + 70 * PAGE, memoryview(bytes([number + 1]) * 80 * PAGE))
            )
            await device.writer.barrier()
            await soon(device.write(number * LEAF_BYTES + 300 * PAGE, memoryview(b"z" * PAGE)))
            assert sum(leaf.solid for leaf in pages.leaves.values()) <= 5
        await device.close()
        device = await volumes.attach(store, ONE, memory=memory)
        for number in range(leaves):
            for page, mark in ((0, number + 1), (149, number + 1), (150, 0), (300, ord("z"))):
                got = await soon(device.read(number * LEAF_BYTES + page * PAGE, PAGE))
                assert bytes(got) == bytes([mark]) * PAGE
        assert sum(leaf.base is not None for leaf in device.writer.pages.leaves.values()) <= 4
        await device.close()

    asyncio.run(run())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_what_is_mapped_is_told_whatever_is_in_memory(seed: int) -> None:
    dice = random.Random(seed)
    shelf = Shelf(dice)
    for _ in range(30):
        shelf.step()
    first, count = dice.randrange(LEAF_PAGES), dice.randrange(1, 4 * LEAF_PAGES)
    limit = dice.choice((1, 3, 1000))
    found = mapped(shelf.map, first, count, limit)
    assert 0 < len(found) <= limit
    assert all(one[0] != two[0] for one, two in itertools.pairwise(found))
    assert sum(pages for _, pages in found) <= count
    data = {page for page, entry in shelf.model.items() if entry}
    at = first
    for state, pages in found:
        inside = {page for page in data if at <= page < at + pages}
        if not state:
            assert not inside, "what is said to be a hole has no data"
        at += pages
    # Of leaves that are here, each page is told as it is.
    here = {number for number, leaf in shelf.map.leaves.items() if leaf.ready}
    at = first
    for state, pages in found:
        if state:
            for page in {at, at + pages - 1}:
                assert page in data or page // LEAF_PAGES not in here
        at += pages


def test_telling_what_is_mapped_looks_through_one_leaf_at_a_time() -> None:
    pages = PageMap({}, 8)
    for number in range(3):
        pages.set(number * LEAF_PAGES, LEAF_PAGES, number << 40 | 1)
    assert mapped(pages, 5, 3 * LEAF_PAGES - 5, 1000) == [(True, LEAF_PAGES - 5)]
    pages.drop(0)
    assert mapped(pages, 0, 3 * LEAF_PAGES, 1000) == [(False, LEAF_PAGES), (True, LEAF_PAGES)]
    for page in range(LEAF_PAGES, 2 * LEAF_PAGES, 2):
        pages.set(page, 1, 0)
    assert mapped(pages, LEAF_PAGES, LEAF_PAGES, 4) == [(False, 1), (True, 1), (False, 1), (True, 1)]
