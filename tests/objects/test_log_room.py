"""What collections ask of the store and of each other: lengths, fences, time, and volumes at rest."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
from collecting_lab import LENGTH, ONE, QUIET, TWO, made, write
from log_lab import PAGE, Disk, content, soon

from breezeblock.errors import ConflictError, NotFoundError, UnavailableError
from breezeblock.objects.log import collecting, volumes
from breezeblock.objects.log import format as form
from breezeblock.objects.log.collecting import AT_ONCE, collect
from breezeblock.objects.log.writer import FencedError
from breezeblock.objects.stores.memory import MemoryStore
from breezeblock.objects.stores.port import Item, Page

_T = TypeVar("_T")
pytestmark = pytest.mark.usefixtures("no_pause")


class Untold(MemoryStore):
    """Its listings tell no lengths, as CDMI's."""

    async def page(self, prefix: str, after: str = "") -> Page:
        found = await super().page(prefix, after)
        return Page([Item(one.key, -1) for one in found.items], found.more)


def test_lengths_that_listings_do_not_tell_are_asked_for() -> None:
    async def run(store: MemoryStore) -> list[Any]:
        device = await made(store)
        for mark in b"abc":
            await write(device, 0, 40, bytes([mark]))
        await write(device, 1, 39, b"d")
        await device.writer.checkpoint()
        await device.close()
        found = [await collect(store) for _ in range(2)]
        return [(one.removed, one.removed_bytes, one.waiting, one.sparse) for one in found]

    told = asyncio.run(run(MemoryStore()))
    assert asyncio.run(run(Untold())) == told
    assert told[0][3][ONE]
    assert told[1][1] > 2 * 40 * PAGE


def test_fences_go_when_the_writer_before_them_has_ended() -> None:
    async def run() -> None:
        store = MemoryStore()
        await volumes.create(store, ONE, LENGTH)
        for number in range(40):
            device = await volumes.attach(store, ONE, memory=QUIET)
            await write(device, number, 1, b"a")
            await device.close()
        await volumes.extend(store, ONE, 2 * LENGTH)
        await volumes.snapshot_detached(store, ONE, "s")
        await volumes.revert(store, ONE, "s")
        lost = await volumes.attach(store, ONE, memory=QUIET)
        device = await volumes.attach(store, ONE, memory=QUIET)
        await device.writer.checkpoint()
        await volumes.delete_snapshot(store, ONE, "s")
        for _ in range(2):
            await collect(store)
        heads = [
            form.unpack(store.objects[key], ONE, int(key[-12:], 16))
            for key in sorted(key for key in store.objects if "/seg/" in key)
        ]
        fences = [head for head in heads if head.fence]
        assert [head.follows for head in fences if head.number < device.writer.root.next] == [False]
        with pytest.raises(FencedError):
            await write(lost, 0, 1, b"b")
        assert (await content(device))[: 41 * PAGE] == b"a" * 40 * PAGE + bytes(PAGE)
        await device.close()

    asyncio.run(run())


def test_what_somebody_has_is_not_taken_to_be_compacted() -> None:
    async def run() -> None:
        store = MemoryStore()
        await volumes.create(store, ONE, LENGTH)
        device = await volumes.attach(store, ONE, memory=QUIET, at_rest=True)
        with pytest.raises(ConflictError, match="is attached"):
            await volumes.attach(store, ONE, at_rest=True)
        await write(device, 0, 1, b"a")
        with pytest.raises(ConflictError, match="is attached"):
            await volumes.attach(store, ONE, at_rest=True)
        await device.writer.checkpoint()
        await device.close()
        other = await volumes.attach(store, ONE, memory=QUIET, at_rest=True)
        assert (await content(other))[:PAGE] == b"a" * PAGE
        await other.close()

    asyncio.run(run())


def test_a_quick_clone_is_seen_by_the_second_look_of_a_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The snapshot goes when the clone has looked; a collection's first look comes before the clone."""
    monkeypatch.setattr(form, "STILL_S", 1.0)

    class Late(MemoryStore):
        collecting: asyncio.Task[Any] | None = None

        async def put(self, key: str, body: Any, *, create: bool = False, match: str = "") -> None:
            if key == form.root_key(TWO, 0, 0):
                await asyncio.sleep(0.01)
                await volumes.delete_snapshot(self, ONE, "s")
                await collect(self)  # it notes what is nobody's now; there is nothing to remove yet
                self.collecting = asyncio.ensure_future(collect(self))
                await asyncio.sleep(0.05)
            await super().put(key, body, create=create)

    async def run() -> None:
        store = Late()
        device = await made(store)
        await write(device, 0, 8, b"a")
        await volumes.snapshot(device, "s")
        await write(device, 0, 8, b"b")
        await device.writer.checkpoint()
        await device.close()
        with suppress(NotFoundError):  # where this machine is so slow that it looked once more
            await volumes.clone(store, ONE, "s", TWO)
            assert store.collecting
            assert not (await store.collecting).removed
            for _ in range(2):
                await collect(store)
            two = await volumes.attach(store, TWO, memory=QUIET)
            assert (await content(two))[: 8 * PAGE] == b"a" * 8 * PAGE
            await two.close()

    asyncio.run(run())


def test_the_journal_of_a_page_that_is_written_again_and_again_stays_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Disk(monkeypatch)

    async def run() -> None:
        store = MemoryStore()
        await volumes.create(store, ONE, LENGTH)
        device = await volumes.attach(store, ONE, tmp_path / "journal", QUIET)
        most = 0
        for number in range(1000):
            await soon(device.write(0, memoryview(number.to_bytes(2) * (PAGE // 2))))
            await asyncio.sleep(0.001 if number % 20 == 0 else 0)
            most = max(most, device.journal_bytes)
        assert device.writer.stored
        assert most < 1000 * PAGE // 2
        assert (await content(device))[:2] == (999).to_bytes(2)
        await device.close()

    asyncio.run(run())


async def rewritten(store: MemoryStore, times: int) -> None:
    """Make a volume, all of whose segments but the last are nobody's."""
    device = await made(store)
    for number in range(times):
        await write(device, 0, 1, bytes([number + 1]))
    await device.writer.checkpoint()
    await device.close()


def test_an_error_of_any_kind_ends_a_collection_at_once() -> None:
    class Broken(MemoryStore):
        deletes = 0
        error: Exception = UnavailableError("no answer")

        async def delete(self, key: str) -> None:
            if key.startswith("gc/"):
                return
            await asyncio.sleep(0)
            self.deletes += 1
            raise self.error

    async def run() -> None:
        store = Broken()
        await rewritten(store, 60)
        await collect(store)
        for store.error in (UnavailableError("no answer"), RuntimeError("a bug")):
            store.deletes = 0
            with pytest.raises(type(store.error)):
                await collect(store)
            assert store.deletes <= AT_ONCE
        assert [key for key in store.objects if key.startswith("gc/")] == ["gc/000000000001"]

    asyncio.run(run())


def test_more_than_can_be_noted_goes_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "MAX_NOTED", 7)

    async def run() -> None:
        store = MemoryStore()
        await rewritten(store, 20)
        removed = [(await collect(store)).removed for _ in range(6)]
        assert removed[0] == 0
        assert 7 <= max(removed) <= 3 * 7
        assert sum(removed) >= 20
        assert not (await collect(store)).waiting

    asyncio.run(run())


def test_what_one_side_has_damaged_does_not_stop_collections() -> None:
    class TwoSided(MemoryStore):
        damaged = False

        async def get(self, key: str, first: int = 0, length: int | None = None) -> bytes:
            body = await super().get(key, first, length)
            return body[:-1] + bytes([body[-1] ^ 1]) if self.damaged and key.startswith("v/") else body

        async def get_judged(
            self, key: str, first: int, length: int | None, judge: Callable[[bytes], _T]
        ) -> _T:
            return judge(await super().get(key, first, length))

    async def run() -> None:
        store = TwoSided()
        await rewritten(store, 4)
        store.damaged = True
        await collect(store)
        assert (await collect(store)).removed >= 4

    asyncio.run(run())


def test_few_requests_are_under_way_at_a_time_however_much_is_to_be_looked_at() -> None:
    class Counting(Untold):
        now = most = 0

        async def get(self, key: str, first: int = 0, length: int | None = None) -> bytes:
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0)
            self.now -= 1
            return await super().get(key, first, length)

    async def run() -> None:
        store = Counting()
        await rewritten(store, 3 * AT_ONCE)
        store.most = 0
        assert (await collect(store)).waiting >= 3 * AT_ONCE
        assert store.most <= AT_ONCE

    asyncio.run(run())
