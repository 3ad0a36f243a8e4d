"""What goes wrong beside the data: errors that nobody foresaw, a race for a number, a hint for too much."""

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest
from log_lab import PAGE, content, let_go, soon

from breezeblock.errors import ForbiddenError, UnavailableError
from breezeblock.objects.log import opening, volumes, writer
from breezeblock.objects.log.device import LogDevice
from breezeblock.objects.stores.memory import MemoryStore
from breezeblock.objects.stores.port import Body, Item

ONE, MIB = "1" * 32, 1 << 20
QUIET = volumes.Memory(age_s=3600)


class Broken(MemoryStore):
    """Has a bug wherever a key has one of these in it."""

    def __init__(self) -> None:
        super().__init__()
        self.gets: list[str] = []
        self.broken_puts = self.broken_gets = "nothing"
        self.down = False
        self.rooted, self.refused = asyncio.Event(), asyncio.Event()

    async def get(self, key: str, first: int = 0, length: int | None = None) -> bytes:
        await asyncio.sleep(0)
        self.gets.append(key)
        if self.broken_gets in key:
            raise RuntimeError("a bug")
        return await super().get(key, first, length)

    async def put(self, key: str, body: Body, *, create: bool = False, match: str = "") -> None:
        if self.broken_puts in key:
            self.refused.set()
            raise RuntimeError("a bug")
        if self.down:
            self.refused.set()
            raise UnavailableError("down")
        await super().put(key, body, create=create, match=match)
        if "/root/" in key:
            self.rooted.set()


async def filled(store: MemoryStore, length: int) -> None:
    await volumes.create(store, ONE, length)
    device = await volumes.attach(store, ONE, memory=QUIET)
    for at in range(0, length, MIB):
        await soon(device.write(at, memoryview(bytes([at >> 20 & 255 | 1]) * MIB)))
    await device.close()


def test_a_piece_whose_page_cannot_be_read_fails_and_those_behind_it_do_not() -> None:
    async def run() -> None:
        store = Broken()
        await filled(store, MIB)
        device = await volumes.attach(store, ONE, memory=QUIET)
        store.broken_gets = "/seg/"
        first, second = device.write(5, memoryview(b"xyz")), device.write(8 * PAGE, memoryview(b"q" * PAGE))
        with pytest.raises(RuntimeError, match="a bug"):
            await soon(first)
        await asyncio.wait_for(soon(second), 30)
        store.broken_gets = "nothing"
        await soon(device.write(9 * PAGE + 1, memoryview(b"abc")))
        assert (await content(device))[8 * PAGE :][: PAGE + 5] == b"q" * PAGE + b"\1abc\1"
        await device.close()

    asyncio.run(run())


def test_a_checkpoint_that_fails_as_nobody_foresaw_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "RETRY_MOST_S", 0.01)
    monkeypatch.setattr(writer, "CHECKPOINT_SEGMENTS", 1)

    async def run() -> None:
        store = Broken()
        await volumes.create(store, ONE, MIB)
        device = await volumes.attach(store, ONE, memory=QUIET)
        store.broken_puts = "/leaf/"
        await soon(device.write(0, memoryview(b"a" * PAGE)))
        device.writer.seal()
        async with asyncio.timeout(30):
            await store.refused.wait()
            store.broken_puts = "nothing"
            store.rooted.clear()
            await store.rooted.wait()
        await device.writer.checkpoint()  # it waits for the one under way
        assert device.writer.root.leaves
        await device.close()

    asyncio.run(run())


@pytest.mark.parametrize("arrived", [True, False])
def test_a_root_that_was_refused_counts_if_it_is_there_all_the_same(*, arrived: bool) -> None:
    """A first attempt's answer was lost, and then the credentials were refused."""

    class Refusing(MemoryStore):
        refusing = False

        async def put(self, key: str, body: Any, *, create: bool = False, match: str = "") -> None:
            if self.refusing and "/root/" in key:
                self.refusing = False
                if arrived:
                    await super().put(key, body)
                raise ForbiddenError("the credentials are refused")
            await super().put(key, body, create=create, match=match)

    async def run() -> None:
        store = Refusing()
        await volumes.create(store, ONE, MIB)
        device = await volumes.attach(store, ONE, memory=QUIET)
        await soon(device.write(0, memoryview(b"a" * PAGE)))
        store.refusing = True
        before = device.writer.root
        if arrived:
            await device.writer.checkpoint()
        else:
            with pytest.raises(ForbiddenError):
                await device.writer.checkpoint()
            assert device.writer.root is before
        newest = await opening.newest(store, ONE)
        assert newest == device.writer.root
        await device.close()
        device = await volumes.attach(store, ONE, memory=QUIET)
        assert (await content(device))[: PAGE + 1] == b"a" * PAGE + b"\0"
        await device.close()

    asyncio.run(run())


def test_a_writer_ends_if_nobody_can_tell_whether_its_root_is_the_newest() -> None:
    class Silent(Broken):
        silent = False

        async def put(self, key: str, body: Any, *, create: bool = False, match: str = "") -> None:
            await super().put(key, body, create=create, match=match)
            if self.silent and "/root/" in key:
                raise ForbiddenError("the credentials are refused")

        async def head(self, key: str) -> Item:
            raise ForbiddenError("the credentials are refused")

    async def run() -> None:
        store = Silent()
        await volumes.create(store, ONE, MIB)
        device = await volumes.attach(store, ONE, memory=QUIET)
        await soon(device.write(0, memoryview(b"a" * PAGE)))
        await device.writer.barrier()
        store.silent = True
        for _ in range(2):
            with pytest.raises(ForbiddenError):
                await device.writer.checkpoint()
        with pytest.raises(ForbiddenError):
            device.write(0, memoryview(b"b" * PAGE))
        await let_go(device)

    asyncio.run(run())


def test_a_hint_that_all_will_be_read_fetches_what_fits() -> None:
    async def run() -> None:
        store = Broken()
        await filled(store, 16 * MIB)
        device = await volumes.attach(store, ONE, memory=volumes.Memory(age_s=3600, cache_bytes=2 * MIB))
        store.gets.clear()
        await soon(device.cache(0, device.length))
        assert 0 < device.cached_bytes <= MIB
        assert 0 < len(store.gets) < 16
        store.gets.clear()
        await soon(device.read(0, 64 * PAGE))
        assert not store.gets
        await device.close()

    asyncio.run(run())


def test_a_volume_grows_though_somebody_takes_the_number_of_its_claim() -> None:
    class Racing(MemoryStore):
        other: LogDevice | None = None

        async def put(self, key: str, body: Any, *, create: bool = False, match: str = "") -> None:
            if "/seg/" in key and self.other:
                other, self.other = self.other, None
                await soon(other.write(0, memoryview(b"a" * PAGE)))
                await other.writer.barrier()
            await super().put(key, body, create=create, match=match)

    async def run() -> None:
        store = Racing()
        await volumes.create(store, ONE, MIB)
        store.other = dying = await volumes.attach(store, ONE, memory=QUIET)
        await volumes.extend(store, ONE, 2 * MIB)
        await let_go(dying)
        device = await volumes.attach(store, ONE, memory=QUIET)
        assert device.length == 2 * MIB
        assert (await content(device))[: PAGE + 1] == b"a" * PAGE + b"\0"
        await device.close()

    asyncio.run(run())


def test_an_attachment_that_is_given_up_leaves_nothing_at_work(tmp_path: Path) -> None:
    async def run() -> None:
        store = Broken()
        await volumes.create(store, ONE, 16 * MIB)
        device = await volumes.attach(store, ONE, tmp_path / "journal", QUIET)
        store.down = True
        for number in range(3):
            await soon(device.write(4 * number * MIB, memoryview(b"a" * 4 * MIB)))
        await let_go(device)
        store.down = False
        before = asyncio.all_tasks()
        memory = volumes.Memory(age_s=3600, dirty_segments=1)
        store.rooted.clear()
        store.refused.clear()
        attaching = asyncio.ensure_future(volumes.attach(store, ONE, tmp_path / "journal", memory))
        async with asyncio.timeout(30):
            await store.rooted.wait()
            store.down = True
            await store.refused.wait()
        attaching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attaching
        assert asyncio.all_tasks() == before
        store.down = False
        again = await volumes.attach(store, ONE, tmp_path / "journal", QUIET)
        assert (await content(again))[: 12 * MIB] == b"a" * 12 * MIB
        await again.close()

    asyncio.run(run())


def test_the_age_of_data_does_not_count_how_long_nothing_was_written() -> None:
    async def run() -> None:
        store = MemoryStore()
        await volumes.create(store, ONE, MIB)
        device = await volumes.attach(store, ONE, memory=QUIET)
        await asyncio.sleep(0.05)
        begun = asyncio.get_running_loop().time()
        await soon(device.write(0, memoryview(b"a" * PAGE)))
        assert device.writer.age_s <= asyncio.get_running_loop().time() - begun
        await device.close()

    asyncio.run(run())


def test_reads_that_fail_together_are_all_heard() -> None:
    async def run() -> list[dict[str, Any]]:
        heard: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, about: heard.append(about))
        store = Broken()
        await filled(store, 12 * MIB)
        device = await volumes.attach(store, ONE, memory=QUIET)
        store.broken_gets = "/seg/"
        with pytest.raises(RuntimeError, match="a bug"):
            await soon(device.read(0, 12 * MIB))
        for _ in range(20):
            await asyncio.sleep(0)
        gc.collect()
        await let_go(device)
        return heard

    assert not asyncio.run(run())
