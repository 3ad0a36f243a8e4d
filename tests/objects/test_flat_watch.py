"""Who holds a flat volume looks whether it is still so, whatever happens to a look."""

import asyncio

import pytest
from log_lab import soon
from mirrors_lab import run

from breezeblock.errors import UnavailableError
from breezeblock.objects.flat import lock, volumes
from breezeblock.objects.flat.watch import CHECK_S
from breezeblock.objects.stores.memory import MemoryStore

VOLUME = "c" * 32


class Moody(MemoryStore):
    """Fails as often as it is told, and at last as nobody foresaw."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[Exception] = []

    async def get(self, key: str, first: int = 0, length: int | None = None) -> bytes:
        if self.errors:
            raise self.errors.pop()
        return await super().get(key, first, length)


def test_a_look_that_fails_is_not_the_last_one() -> None:
    async def main() -> None:
        store = Moody()
        await volumes.create(store, VOLUME, 4096)
        device = await volumes.attach(store, VOLUME, "host-a")
        store.errors = [UnavailableError("down"), RuntimeError("a bug"), ValueError("another")]
        await asyncio.sleep(4 * CHECK_S)
        assert not store.errors
        await soon(device.write(0, memoryview(b"a")))
        await volumes.unlock(store, VOLUME)
        await asyncio.sleep(2 * CHECK_S)
        with pytest.raises(lock.TakenError, match="was removed"):
            device.flush()
        await device.close()

    run(main())
