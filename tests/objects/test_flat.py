"""Volumes that are one object, in memory: order, two hosts, verbs cut anywhere; images that are only read."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_lab import content, soon
from mirrors_lab import Lab, now, run

from breezeblock.errors import ConflictError, CorruptError, UnavailableError
from breezeblock.objects.flat import FlatDevice, lock, volumes
from breezeblock.objects.flat.image import CHUNK
from breezeblock.objects.flat.watch import CHECK_S
from breezeblock.objects.nbd.device import Data
from breezeblock.objects.stores.memory import MemoryStore
from breezeblock.objects.stores.port import Body, Item, Traits

_T = TypeVar("_T")
VOLUME = "c" * 32


class Lazy(MemoryStore):
    """Parts arrive in any order."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self.dice = dice

    async def put_range(self, key: str, offset: int, body: Body) -> None:
        await asyncio.sleep(self.dice.random())
        await super().put_range(key, offset, body)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 1 << 30),
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 24), st.booleans()), min_size=2, max_size=40),
)
def test_overlapping_writes_take_effect_in_their_order(
    seed: int, changes: list[tuple[int, int, bool]]
) -> None:
    async def main() -> None:
        store, model = Lazy(random.Random(seed)), bytearray(4096)
        await volumes.create(store, VOLUME, 4096)
        device = await volumes.attach(store, VOLUME, "host")
        answers = []
        for number, (at, length, zeros) in enumerate(changes):
            data = bytes(length) if zeros else bytes([number + 1]) * length
            model[at : at + length] = data
            answers.append(device.zero(at, length) if zeros else device.write(at, memoryview(data)))
        await asyncio.gather(*(soon(answer) for answer in answers))
        assert await content(device) == bytes(model)
        await device.close()

    run(main())


def test_a_host_that_was_killed_gets_its_volume_again_and_one_that_lost_it_stops() -> None:
    async def main() -> None:
        store = MemoryStore()
        await volumes.create(store, VOLUME, 4096)
        killed = await volumes.attach(store, VOLUME, "host-a")
        again = await volumes.attach(store, VOLUME, "host-a")
        await soon(again.write(0, memoryview(b"a")))
        begun = now()
        other = await volumes.attach(store, VOLUME, "host-b", steal=True)
        assert now() - begun >= 2 * CHECK_S
        for old in (killed, again):
            with pytest.raises(lock.TakenError, match="host-b has it"):
                old.write(0, memoryview(b"x"))
            await old.close()
        await soon(other.write(1, memoryview(b"b")))
        assert (await content(other))[:2] == b"ab"
        await volumes.unlock(store, VOLUME)
        await asyncio.sleep(2 * CHECK_S)
        with pytest.raises(lock.TakenError, match="was removed"):
            other.flush()
        await other.close()
        store.objects[f"lock/{VOLUME}"] = b"no lock of ours"
        with pytest.raises(ConflictError, match="unknown"):
            await volumes.attach(store, VOLUME, "host-a")

    run(main())


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


class CutError(Exception):
    pass


class Dying(MemoryStore):
    """Whoever calls it dies before or behind its nth call."""

    def __init__(self, at: int, *, behind: bool) -> None:
        super().__init__()
        self.left, self.behind = at, behind

    async def _do(self, work: Callable[[], Awaitable[_T]]) -> _T:
        self.left -= 1
        if not self.left and not self.behind:
            raise CutError
        result = await work()
        if not self.left:
            raise CutError
        return result

    async def get(self, key: str, first: int = 0, length: int | None = None) -> bytes:
        return await self._do(lambda: MemoryStore.get(self, key, first, length))

    async def put(self, key: str, body: Body, *, create: bool = False, match: str = "") -> None:
        await self._do(lambda: MemoryStore.put(self, key, body, create=create, match=match))

    async def put_range(self, key: str, offset: int, body: Body) -> None:
        await self._do(lambda: MemoryStore.put_range(self, key, offset, body))

    async def delete(self, key: str) -> None:
        await self._do(lambda: MemoryStore.delete(self, key))

    async def head(self, key: str) -> Item:
        return await self._do(lambda: MemoryStore.head(self, key))


async def life(store: MemoryStore) -> None:
    """All that happens to a volume, each verb run again from its beginning where it was cut."""
    await again(lambda: volumes.create(store, VOLUME, 8192))
    device = await again(lambda: volumes.attach(store, VOLUME, "host"))
    await again(lambda: soon(device.write(100, memoryview(b"abc"))))
    await again(lambda: soon(device.zero(101, 1)))
    await again(lambda: device.grow(12288))
    await again(device.close)
    await again(lambda: volumes.unlock(store, VOLUME))
    await again(lambda: volumes.extend(store, VOLUME, 16384))
    device = await again(lambda: volumes.attach(store, VOLUME, "other"))
    assert await again(lambda: content(device)) == bytes(100) + b"a\0c" + bytes(16384 - 103)
    await again(device.close)
    await again(lambda: volumes.unlock(store, VOLUME))
    await again(lambda: volumes.delete(store, VOLUME))
    assert not store.objects


async def again(verb: Callable[[], Awaitable[_T]]) -> _T:
    try:
        return await verb()
    except CutError:
        return await verb()


@pytest.mark.parametrize("behind", [False, True])
def test_every_verb_can_be_cut_at_every_call_of_the_store(*, behind: bool) -> None:
    async def main() -> None:
        for at in range(1, 100):
            store = Dying(at, behind=behind)
            await life(store)
            if store.left > 0:
                assert at > 20, "it was cut at each call, and this time at none"
                return
        raise AssertionError("a life has fewer calls than that")

    run(main())


class Careless(MemoryStore):
    """As Apache: of two who create at one moment, both are told that they won."""

    traits = Traits(ranged_write=True)

    async def put(self, key: str, body: Body, *, create: bool = False, match: str = "") -> None:
        there = key in self.objects
        await asyncio.sleep(0.01)
        await super().put(key, body, create=create and there, match=match)


def test_where_creating_is_no_fence_one_of_two_still_gets_the_lock() -> None:
    async def main() -> None:
        store = Careless()
        await volumes.create(store, VOLUME, 4096)
        found = await asyncio.gather(
            *(volumes.attach(store, VOLUME, f"host-{number}") for number in range(4)), return_exceptions=True
        )
        assert len([one for one in found if isinstance(one, FlatDevice)]) == 1
        assert len([one for one in found if isinstance(one, lock.TakenError)]) == 3

    run(main())


def test_a_create_that_was_cut_off_goes_on_and_a_short_object_is_an_error() -> None:
    async def main() -> None:
        store = MemoryStore()
        await store.put(f"flat/{VOLUME}", b"")
        await volumes.create(store, VOLUME, 8192)
        device = await volumes.attach(store, VOLUME, "host")
        store.objects[f"flat/{VOLUME}"] = bytes(5000)
        with pytest.raises(CorruptError, match="ends at byte 5000 of 8192"):
            await soon(device.read(4096, 4096))
        await device.close()

    run(main())


def test_images_are_read_through_a_cache_and_must_not_change() -> None:
    async def main() -> None:
        lab = Lab(2)
        await lab.mirrors.open()
        body = random.Random(1).randbytes(6 * CHUNK + 777)
        lab.inner.objects["image"] = body
        image = await volumes.attach_image(lab.mirrors, "image")
        dice = random.Random(2)

        async def read(offset: int, length: int) -> bytes:
            found: Data | list[Data] = await soon(image.read(offset, length))
            return b"".join(found if isinstance(found, list) else [found])

        begun = now()
        for offset in range(0, len(body) - 4096, 4096):
            assert await read(offset, 4096) == body[offset : offset + 4096]
        assert sum(lab.counts("get")) == 7, "each chunk once"
        assert now() - begun < 0.04, "in sequence they come before they are asked for"
        for _ in range(100):
            offset = dice.randrange(len(body) - 1)
            length = dice.randrange(1, min(3 * CHUNK, len(body) - offset) + 1)
            assert await read(offset, length) == body[offset : offset + length]
        with pytest.raises(PermissionError):
            image.write(0, memoryview(b"x"))
        lab.inner.objects["image"] = body[::-1]
        await asyncio.sleep(2 * CHECK_S)
        with pytest.raises(ConflictError, match="was changed"):
            image.read(0, 1)
        await image.close()
        await lab.mirrors.close()

    run(main())
