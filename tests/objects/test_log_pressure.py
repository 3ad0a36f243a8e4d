"""A store that is full: whoever writes waits, however it is written, and goes on when there is room."""

import asyncio
from pathlib import Path

import pytest
from log_lab import PAGE, soon

from breezeblock.errors import NoSpaceError
from breezeblock.objects.log import format as form
from breezeblock.objects.log import volumes
from breezeblock.objects.stores.memory import MemoryStore
from breezeblock.objects.stores.port import Body

ONE = "1" * 32
SEGMENT = form.SEGMENT_PAGES * PAGE
MANY = 8


class Full(MemoryStore):
    """Takes no segments while it is full."""

    full = False

    async def put(self, key: str, body: Body, *, create: bool = False, match: str = "") -> None:
        if self.full and "/seg/" in key:
            raise NoSpaceError("The store is full.")
        await super().put(key, body, create=create, match=match)


@pytest.mark.parametrize("fua", [False, True])
def test_writers_wait_for_a_full_store(fua: bool, tmp_path: Path) -> None:
    async def run() -> None:
        store = Full()
        await volumes.create(store, ONE, MANY * SEGMENT)
        memory = volumes.Memory(dirty_segments=2, age_s=3600)
        device = await volumes.attach(store, ONE, tmp_path / "journal", memory)
        store.full = True
        data = memoryview(b"a" * SEGMENT)

        async def write() -> None:
            for number in range(MANY):
                await soon(device.write(number * SEGMENT, data, fua=fua))

        writing = asyncio.ensure_future(write())
        await asyncio.sleep(0.2)
        assert device.writer.backlog == 2
        assert not writing.done()
        store.full = False
        await writing
        await device.close()
        assert device.writer.stored == MANY

    asyncio.run(run())


def test_what_waits_is_as_old_as_the_first_of_it() -> None:
    async def run() -> None:
        store = MemoryStore()
        await volumes.create(store, ONE, SEGMENT)
        device = await volumes.attach(store, ONE, memory=volumes.Memory(age_s=3600))
        device.writer.waiting[min(device.writer.waiting)].born -= 1000  # nothing was written for so long
        await soon(device.write(0, memoryview(b"a" * PAGE)))
        assert device.writer.age_s < 1000
        await device.close()

    asyncio.run(run())
