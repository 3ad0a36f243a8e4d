"""Reads of what is not in memory: what is fetched once for all, and what of it is checked, and when."""

import asyncio
import random

import pytest
from log_lab import PAGE, soon

from breezeblock.errors import CorruptError, UnavailableError
from breezeblock.objects.log import format as form
from breezeblock.objects.log import volumes
from breezeblock.objects.log.device import LogDevice
from breezeblock.objects.log.sharing import Shared
from breezeblock.objects.stores.memory import MemoryStore

ONE = "1" * 32
GIB, PAGES = 1 << 30, 64
MEMORY = volumes.Memory(age_s=3600)


class Watched(MemoryStore):
    """Remembers what was fetched; an answer takes a few turns of the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.gets: list[str] = []

    async def get(self, key: str, first: int = 0, length: int | None = None) -> bytes:
        self.gets.append(key)
        for _ in range(5):
            await asyncio.sleep(0)
        return await super().get(key, first, length)

    def count(self, part: str) -> int:
        return sum(f"/{part}/" in key for key in self.gets)


async def made(store: MemoryStore) -> bytes:
    """Make a volume with data in two leaves, stored with its map; return what lies in each."""
    await volumes.create(store, ONE, 2 * GIB)
    data = random.Random(1).randbytes(PAGES * PAGE)
    device = await volumes.attach(store, ONE, memory=MEMORY)
    for offset in (0, GIB):
        await soon(device.write(offset, memoryview(data)))
    await device.writer.checkpoint()
    await device.close()
    return data


async def page(device: LogDevice, number: int) -> bytes:
    return bytes(await soon(device.read(number * PAGE, PAGE)))


def test_readers_who_come_together_fetch_a_leaf_and_a_head_once() -> None:
    async def run() -> None:
        store = Watched()
        data = await made(store)
        device = await volumes.attach(store, ONE, memory=MEMORY)
        store.gets.clear()
        numbers = [0, GIB // PAGE] * 16
        found = await asyncio.gather(*(page(device, number + 3) for number in numbers))
        assert set(found) == {data[3 * PAGE : 4 * PAGE]}
        assert store.count("leaf") == 2
        assert store.count("seg") == 3  # one head, and a chunk for each place
        await device.close()

    asyncio.run(run())


def test_the_map_comes_before_anybody_reads() -> None:
    async def run() -> None:
        store = Watched()
        await made(store)
        device = await volumes.attach(store, ONE, memory=MEMORY)
        for _ in range(100):
            await asyncio.sleep(0)
        store.gets.clear()
        for number in (0, GIB // PAGE):
            await page(device, number)
        assert store.count("leaf") == 0
        await device.close()

    asyncio.run(run())


def test_a_damaged_page_is_refused_each_time_and_its_neighbours_are_read() -> None:
    async def run() -> None:
        store = Watched()
        data = await made(store)
        big = max(store.objects, key=lambda key: len(store.objects[key]))
        whole, damaged = store.objects[big], bytearray(store.objects[big])
        damaged[form.HEAD_BYTES + 5 * PAGE + 77] ^= 1
        store.objects[big] = bytes(damaged)
        device = await volumes.attach(store, ONE, memory=MEMORY)
        for number in (4, 6, 5, 5):
            if number == 5:
                with pytest.raises(CorruptError, match="is damaged"):
                    await page(device, number)
            else:
                assert await page(device, number) == data[number * PAGE : (number + 1) * PAGE]
        with pytest.raises(CorruptError):
            await soon(device.read(4 * PAGE, 3 * PAGE))
        with pytest.raises(CorruptError):  # what is not known cannot be kept around a smaller write
            await soon(device.write(5 * PAGE + 1, memoryview(b"x")))
        store.objects[big] = whole  # the store has found its copy
        assert await page(device, 5) == data[5 * PAGE : 6 * PAGE]
        await device.close()

    asyncio.run(run())


def test_what_is_shared_outlives_one_who_gives_up_and_fails_for_all() -> None:
    async def run() -> None:
        gate, calls = asyncio.Event(), []

        async def fetch(key: str) -> str:
            calls.append(key)
            await gate.wait()
            if key == "bad":
                raise UnavailableError("The store is away.")
            return key.upper()

        shared = Shared(fetch)
        asked = [asyncio.ensure_future(shared.get(key)) for key in ("good", "good", "good", "bad", "bad")]
        await asyncio.sleep(0)
        asked[0].cancel()
        await asyncio.sleep(0)
        gate.set()
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert found[1:3] == ["GOOD", "GOOD"]
        assert all(isinstance(one, UnavailableError) for one in found[3:])
        assert calls == ["good", "bad"]
        assert await shared.get("good") == "GOOD"
        assert calls == ["good", "bad", "good"]  # nothing is kept
        gate.clear()
        last = asyncio.ensure_future(shared.get("good"))
        await asyncio.sleep(0)
        await shared.stop()
        with pytest.raises(asyncio.CancelledError):
            await last

    asyncio.run(run())
