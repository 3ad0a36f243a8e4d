"""Verbs of the layout *log*, in a directory and in memory, with two writers and damaged objects."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from log_lab import content, soon
from mirrors_lab import Flaky, now, run

from breezeblock.errors import BreezeblockError, ConflictError, CorruptError, NotFoundError, UnavailableError
from breezeblock.objects.log import format as form
from breezeblock.objects.log import opening, volumes
from breezeblock.objects.log.device import LogDevice
from breezeblock.objects.log.format import LEAF_BYTES, LEAF_PAGES
from breezeblock.objects.log.writer import FencedError
from breezeblock.objects.nbd.device import DATA, HOLE
from breezeblock.objects.stores.directory import DirectoryStore
from breezeblock.objects.stores.memory import MemoryStore
from breezeblock.objects.stores.port import Store

MIB = 1 << 20
ONE, TWO, THREE = "1" * 32, "2" * 32, "3" * 32


def with_each(test: Callable[[Store], Awaitable[None]]) -> Callable[[str, Path], None]:
    @pytest.mark.parametrize("kind", ["memory", "directory"])
    def run(kind: str, tmp_path: Path) -> None:
        asyncio.run(test(MemoryStore() if kind == "memory" else DirectoryStore(tmp_path)))  # type: ignore[arg-type]

    return run


async def fill(device: LogDevice, offset: int, length: int, mark: bytes) -> None:
    for at in range(offset, offset + length, MIB):
        await soon(device.write(at, memoryview(mark * min(MIB, offset + length - at))))


async def piece(device: LogDevice, offset: int, length: int) -> bytes:
    got: Any = await soon(device.read(offset, length))
    return b"".join(got) if isinstance(got, list) else bytes(got)


@with_each
async def test_snapshots_and_clones_keep_what_was(store: Store) -> None:
    await volumes.create(store, ONE, 64 * MIB)
    device = await volumes.attach(store, ONE)
    await fill(device, 0, 10 * MIB, b"a")
    await volumes.snapshot(device, "first")
    await fill(device, MIB, MIB, b"b")
    await device.writer.checkpoint()
    await volumes.snapshot(device, "second")
    await fill(device, 2 * MIB, MIB, b"c")
    await device.close()
    await volumes.clone(store, ONE, "first", TWO, 80 * MIB)
    await volumes.clone(store, ONE, "second", THREE)
    two, three = await volumes.attach(store, TWO), await volumes.attach(store, THREE)
    assert two.length == 80 * MIB
    assert await piece(two, 0, 11 * MIB) == b"a" * 10 * MIB + bytes(MIB)
    assert await piece(three, 0, 4 * MIB) == b"a" * MIB + b"b" * MIB + b"a" * 2 * MIB
    await fill(two, 5 * MIB, MIB, b"z")
    await volumes.snapshot(two, "own")
    await two.close()
    await three.close()
    await volumes.revert(store, ONE, "first")
    one = await volumes.attach(store, ONE)
    assert await piece(one, 0, 11 * MIB) == b"a" * 10 * MIB + bytes(MIB)
    await one.close()
    assert await volumes.snapshots(store, ONE) == ["first", "second"]
    assert await volumes.volumes(store) == [ONE, TWO, THREE]
    with pytest.raises(ConflictError):
        await volumes.delete(store, ONE)
    for name in ("first", "second", "second"):
        await volumes.delete_snapshot(store, ONE, name)
    await volumes.delete(store, ONE)
    await volumes.delete(store, ONE)
    with pytest.raises(NotFoundError):
        await volumes.attach(store, ONE)


@with_each
async def test_a_clone_of_a_clone_shares_segments_and_trims_alone(store: Store) -> None:
    await volumes.create(store, ONE, 3 * LEAF_BYTES)
    device = await volumes.attach(store, ONE)
    for leaf in range(3):
        await fill(device, leaf * LEAF_BYTES, MIB, b"x")
    await device.writer.checkpoint()
    await volumes.snapshot(device, "s")
    await device.close()
    await volumes.clone(store, ONE, "s", TWO)
    two = await volumes.attach(store, TWO)
    await soon(two.trim(0, 2 * LEAF_BYTES))
    assert not [
        number
        for number, leaf in two.writer.pages.leaves.items()
        if number < 2 and any(leaf.span(0, LEAF_PAGES))
    ]
    await volumes.snapshot(two, "s")
    await two.writer.checkpoint()
    assert set(two.writer.root.leaves) == {2}
    await two.close()
    await volumes.clone(store, TWO, "s", THREE)
    three = await volumes.attach(store, THREE)
    for leaf, mark in enumerate((bytes(MIB), bytes(MIB), b"x" * MIB)):
        assert await piece(three, leaf * LEAF_BYTES, MIB) == mark
    found = await soon(three.extents(0, 3 * LEAF_BYTES, 10))
    assert [(e.length, e.state) for e in found] == [
        (2 * LEAF_BYTES, HOLE),
        (MIB, DATA),
        (LEAF_BYTES - MIB, HOLE),
    ]
    await three.close()


@with_each
async def test_the_older_of_two_writers_stops_and_nothing_is_lost(store: Store) -> None:
    await volumes.create(store, ONE, 16 * MIB)
    older = await volumes.attach(store, ONE)
    await fill(older, 0, MIB, b"a")
    await soon(older.flush())
    newer = await volumes.attach(store, ONE)
    assert await piece(newer, 0, MIB) == b"a" * MIB
    await fill(newer, MIB, MIB, b"b")
    await soon(newer.flush())
    await fill(older, 0, MIB, b"c")
    with pytest.raises(FencedError):
        await soon(older.flush())
    with pytest.raises(FencedError):
        await soon(older.write(0, memoryview(bytes(4096))))
    with pytest.raises(FencedError):
        await older.close()
    await newer.close()
    last = await volumes.attach(store, ONE)
    assert await piece(last, 0, 2 * MIB) == b"a" * MIB + b"b" * MIB
    await last.close()


@with_each
async def test_many_claims_at_once_leave_one_writer(store: Store) -> None:
    await volumes.create(store, ONE, MIB)
    tries = await asyncio.gather(*(volumes.attach(store, ONE) for _ in range(6)), return_exceptions=True)
    devices = {number: one for number, one in enumerate(tries) if isinstance(one, LogDevice)}
    assert all(isinstance(one, LogDevice | ConflictError) for one in tries)

    async def use(device: LogDevice, number: int) -> bool:
        try:
            await soon(device.write(0, memoryview(bytes([number]) * 4096)))
            await soon(device.flush())
        except FencedError:
            return False
        return True

    alive = [number for number, device in devices.items() if await use(device, number)]
    assert len(alive) == 1
    again = await volumes.attach(store, ONE)
    assert await piece(again, 0, 1) == bytes(alive)
    for device in (*devices.values(), again):
        await device.writer.stop()


@with_each
async def test_a_volume_grows_attached_and_not(store: Store) -> None:
    await volumes.create(store, ONE, MIB)
    await volumes.create(store, ONE, MIB)
    with pytest.raises(ConflictError):
        await volumes.create(store, ONE, 2 * MIB)
    await volumes.extend(store, ONE, 2 * MIB)
    device = await volumes.attach(store, ONE)
    assert device.length == 2 * MIB
    await soon(device.grow(3 * MIB))
    await device.writer.stop()
    device = await volumes.attach(store, ONE)
    assert device.length == 3 * MIB
    await volumes.extend(store, ONE, 3 * MIB)  # large enough: nobody is fenced off
    await soon(device.flush())
    await device.close()


def test_damage_is_found_and_never_served() -> None:
    async def run() -> None:
        store = MemoryStore()
        await volumes.create(store, ONE, MIB)
        device = await volumes.attach(store, ONE)
        await fill(device, 0, MIB, b"a")
        await device.close()
        whole = dict(store.objects)
        big = max(whole, key=lambda key: len(whole[key]))
        for at in (0, 100, 24 << 10, (24 << 10) + 70 * 4096, len(whole[big]) - 1):
            body = bytearray(whole[big])
            body[at] ^= 4
            store.objects = {**whole, big: bytes(body)}
            with pytest.raises(CorruptError):
                await content(await volumes.attach(store, ONE))
        newest = max(key for key in whole if "/root/" in key)
        store.objects = {**whole, newest: whole[newest][:-1]}
        with pytest.raises(CorruptError):
            await volumes.attach(store, ONE)

    asyncio.run(run())


def test_a_journal_of_a_host_that_was_overtaken_is_not_applied(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        await volumes.create(store, ONE, MIB)
        device = await volumes.attach(store, ONE, tmp_path / "here")
        await fill(device, 0, 4096, b"a")
        await soon(device.flush())
        with pytest.raises(ConflictError, match="in use by another process"):
            await volumes.attach(store, ONE, tmp_path / "here")
        await device.writer.stop()
        device._journal.abandon()  # type: ignore[union-attr]
        elsewhere = await volumes.attach(store, ONE, tmp_path / "there")
        await elsewhere.close()
        assert not (tmp_path / "there").exists()
        with pytest.raises(ConflictError, match="in use elsewhere"):
            await volumes.attach(store, ONE, tmp_path / "here")
        again = await volumes.attach(store, ONE, tmp_path / "here", discard=True)
        assert await piece(again, 0, 4) == bytes(4)
        await again.close()

    asyncio.run(run())


def test_uploads_are_tried_again_until_the_store_is_back() -> None:
    class Moody(MemoryStore):
        down = False

        async def put(self, key: str, body: Any, *, create: bool = False, match: str = "") -> None:
            if self.down:
                self.down = False
                await super().put(key, body, create=create)  # done, but its answer is lost
                error: type[BreezeblockError] = UnavailableError
                raise error("no answer")
            await super().put(key, body, create=create)

    async def run() -> None:
        store = Moody()
        await volumes.create(store, ONE, MIB)
        device = await volumes.attach(store, ONE)
        store.down = True
        await fill(device, 0, MIB, b"a")
        await soon(device.flush())
        assert not device.writer.trouble
        await device.close()
        device = await volumes.attach(store, ONE)
        assert await content(device) == b"a" * MIB
        await device.close()

    asyncio.run(run())


def test_an_upload_that_ends_unheard_of_does_not_stall_the_volume() -> None:
    class Broken(MemoryStore):
        broken = False

        async def put(self, key: str, body: Any, *, create: bool = False, match: str = "") -> None:
            if self.broken:
                raise ValueError("a bug")
            await super().put(key, body, create=create)

    async def run() -> None:
        store = Broken()
        await volumes.create(store, ONE, MIB)
        device = await volumes.attach(store, ONE)
        store.broken = True
        await fill(device, 0, MIB, b"a")
        with pytest.raises(UnavailableError, match="a bug"):
            await soon(device.flush())
        with pytest.raises(UnavailableError, match="a bug"):
            await device.close()

    asyncio.run(run())


SOURCE, CLONE = "a" * 32, "b" * 32


@pytest.mark.parametrize(("slow", "trips"), [(False, 6), (True, 8)])
def test_a_clone_of_a_volume_as_it_is_takes_few_round_trips(
    monkeypatch: pytest.MonkeyPatch, *, slow: bool, trips: int
) -> None:
    """What took long is looked at once more."""
    if slow:
        monkeypatch.setattr(form, "STILL_S", 0.0)

    async def main() -> float:
        store = Flaky(MemoryStore(), "far")
        await volumes.create(store, SOURCE, 1 << 30)
        store.delay_s, began = 1.0, now()
        await volumes.clone_now(store, SOURCE, "hold", CLONE)
        took = now() - began
        assert not [key for key in store.inner.objects if "/new/" in key]
        return took

    assert run(main()) == pytest.approx(trips)


def test_a_hold_is_taken_again_if_the_root_was_replaced_meanwhile() -> None:
    async def main() -> None:
        store = Flaky(MemoryStore(), "far")
        await volumes.create(store, SOURCE, 1 << 30)
        device = await volumes.attach(store, SOURCE)
        looks = 0

        def replace(verb: str) -> None:
            nonlocal looks
            looks += verb == "page"
            if looks == 2:
                looks += 1
                root = device.writer.root
                newer = msgspec.structs.replace(root, number=root.number + 1)
                store.inner.objects[form.root_key(SOURCE, newer.epoch, newer.number)] = form.pack_root(newer)

        store.before = replace
        held = await volumes.take_hold(store, SOURCE, "hold")
        assert held.number == (await opening.newest(store, SOURCE)).number == device.writer.root.number + 1
        assert looks > 3

    run(main())
