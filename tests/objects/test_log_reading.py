"""Reading ahead, compressed segments, and what a stored chunk may not be."""

import asyncio
import itertools
import random

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from log_lab import PAGE, content, soon

from breezeblock.errors import CorruptError
from breezeblock.objects.log import format as form
from breezeblock.objects.log import volumes
from breezeblock.objects.log.device import LogDevice
from breezeblock.objects.log.reading import Ahead
from breezeblock.objects.stores.memory import MemoryStore

ONE = "1" * 32
MIB = 1 << 20


class Counting(MemoryStore):
    """Remembers which bytes of segments were fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.gets: list[tuple[str, int, int]] = []

    async def get(self, key: str, first: int = 0, length: int | None = None) -> bytes:
        await asyncio.sleep(0)
        body = await super().get(key, first, length)
        if "/seg/" in key and first:
            self.gets.append((key, first, len(body)))
        return body


async def filled(store: MemoryStore, data: bytes, **memory: int) -> None:
    await volumes.create(store, ONE, max(MIB, len(data)))
    device = await volumes.attach(store, ONE, memory=volumes.Memory(age_s=3600, **memory))
    for at in range(0, len(data), MIB):
        await soon(device.write(at, memoryview(data[at : at + MIB])))
    await device.close()


async def piece(device: LogDevice, offset: int, length: int) -> bytes:
    got = await soon(device.read(offset, length))
    return b"".join(got) if isinstance(got, list) else bytes(got)


def test_reads_in_a_row_find_what_follows_already_here() -> None:
    async def run() -> None:
        store, data = Counting(), random.Random(1).randbytes(24 * MIB)
        await filled(store, data)
        device = await volumes.attach(store, ONE, memory=volumes.Memory(age_s=3600))
        store.gets.clear()
        late = 0
        for at in range(0, len(data), 128 << 10):
            answer = device.read(at, 128 << 10)
            late += not isinstance(answer, bytes | bytearray | memoryview | list)
            assert await piece(device, at, 128 << 10) == data[at : at + (128 << 10)]
            await soon(answer)
            for _ in range(4):
                await asyncio.sleep(0)
        assert late <= 4
        assert sum(length for _, _, length in store.gets) == len(data)  # nothing twice
        assert len(store.gets) < 60
        store.gets.clear()
        dice = random.Random(2)
        other = await volumes.attach(store, ONE, memory=volumes.Memory(age_s=3600))
        for _ in range(50):
            at = dice.randrange(len(data) // PAGE) * PAGE
            assert await piece(other, at, PAGE) == data[at : at + PAGE]
        assert sum(length for _, _, length in store.gets) <= 50 * 64 << 10
        for one in (device, other):
            await one.writer.stop()

    asyncio.run(run())


def test_streams_beside_each_other_are_told_apart() -> None:
    wanted: list[tuple[int, int]] = []
    ahead = Ahead(256, lambda first, count: wanted.append((first, count)))
    for step in range(8):
        for begin in (0, 10_000, 20_000):
            ahead.read(begin + 4 * step, 4)
        ahead.read(50_000 + 100 * step, 4)  # no stream
    for begin in (0, 10_000, 20_000):
        mine = [one for one in wanted if begin <= one[0] < begin + 1000]
        assert mine
        for (first, count), (following, _) in itertools.pairwise(mine):
            assert following == first + count
    assert not [one for one in wanted if one[0] >= 50_000]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1 << 32), level=st.sampled_from([1, 3]))
def test_compressed_segments_give_back_what_was_written(seed: int, level: int) -> None:
    async def run() -> None:
        dice = random.Random(seed)
        parts = [
            dice.choice((dice.randbytes(PAGE), bytes(PAGE), dice.randbytes(8) * (PAGE // 8)))
            for _ in range(dice.randrange(1, 256))
        ]
        data, store = b"".join(parts), MemoryStore()
        await filled(store, data, zstd_level=level)
        for memory in (volumes.Memory(age_s=3600), volumes.Memory(age_s=3600, zstd_level=level)):
            device = await volumes.attach(store, ONE, memory=memory)
            for _ in range(4):
                at = dice.randrange(len(data))
                length = dice.randrange(1, len(data) - at + 1)
                assert await piece(device, at, length) == data[at : at + length]
            await soon(device.write(0, memoryview(data[:PAGE])))
            await device.close()
        device = await volumes.attach(store, ONE)
        assert (await content(device))[: len(data)] == data
        await device.close()

    asyncio.run(run())


def test_compression_makes_objects_small() -> None:
    async def run() -> None:
        store = MemoryStore()
        await filled(store, b"the same again " * (4 * MIB // 15) + bytes(4), zstd_level=3)
        assert max(len(body) for key, body in store.objects.items() if "/seg/" in key) < 100_000

    asyncio.run(run())


def test_a_compressed_chunk_that_is_damaged_or_a_bomb_is_found() -> None:
    async def run() -> None:
        store = MemoryStore()
        await filled(store, b"ab" * (MIB // 2), zstd_level=3)
        whole = dict(store.objects)
        key = max((one for one in whole if "/seg/" in one), key=lambda one: len(whole[one]))
        number = int(key.rpartition("/")[2], 16)
        head = form.unpack(whole[key], ONE, number)
        for at in (form.HEAD_BYTES, len(whole[key]) - 1):
            body = bytearray(whole[key])
            body[at] ^= 1
            store.objects = {**whole, key: bytes(body)}
            with pytest.raises(CorruptError):
                await content(await volumes.attach(store, ONE))

        bomb = zstandard.ZstdCompressor().compress(bytes(64 * MIB))
        with pytest.raises(CorruptError):
            form.open_chunk(head, 0, bomb)

    asyncio.run(run())
