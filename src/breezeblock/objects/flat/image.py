"""An object that is only read, such as an image on any HTTP server, as a block device."""

import asyncio
import errno
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from breezeblock.errors import ConflictError, UnavailableError
from breezeblock.objects.flat.watch import lost
from breezeblock.objects.nbd.device import DATA, Data, Extent, Soon

CHUNK = 256 << 10
_AHEAD = 4
"""Chunks that are fetched before they are asked for, once reads turn out to follow each other."""


class Source(NamedTuple):
    """What is read."""

    name: str
    length: int
    """Bytes."""
    fetch: Callable[[int, int], Awaitable[bytes]]
    """Return so many bytes from a place on."""
    check: Callable[[], Awaitable[None]]
    """Raise ConflictError if it was changed: half of one image and half of another is worse than none."""


class ImageDevice:
    """A cache of chunks; of several who want the same, one fetches it."""

    minimum_bytes = 1
    preferred_bytes = 4096
    read_only = True

    def __init__(self, source: Source, *, cache_bytes: int = 64 << 20) -> None:
        self._source = source
        self.length = source.length
        self._room = max(2 * _AHEAD, cache_bytes // CHUNK)
        self._held: OrderedDict[int, bytes] = OrderedDict()
        self._coming: dict[int, asyncio.Task[bytes]] = {}
        self._next = 0
        """The chunk that a reader in sequence would want next."""
        self.failed: ConflictError | None = None
        self._watch = asyncio.ensure_future(lost(source.check))
        self._watch.add_done_callback(self._ended)

    def read(self, offset: int, length: int) -> Soon[Data | list[Data]]:
        """Return bytes, now if they are in memory. Raises ConflictError if the object was changed."""
        if self.failed:
            raise self.failed
        numbers = range(offset // CHUNK, -(-(offset + length) // CHUNK))
        if numbers.start in {self._next, self._next - 1}:
            for number in range(numbers.stop, min(numbers.stop + _AHEAD, -(-self.length // CHUNK))):
                self._fetching(number)
        self._next = numbers.stop
        if all(number in self._held for number in numbers):
            return _cut([self._chunk(number) for number in numbers], offset % CHUNK, length)
        return self._later(numbers, offset, length)

    async def _later(self, numbers: range, offset: int, length: int) -> Data | list[Data]:
        waiting = [self._fetching(number) or self._chunk(number) for number in numbers]
        chunks = [one if isinstance(one, bytes) else await asyncio.shield(one) for one in waiting]
        return _cut(chunks, offset % CHUNK, length)

    def _chunk(self, number: int) -> bytes:
        self._held.move_to_end(number)
        return self._held[number]

    def _fetching(self, number: int) -> "asyncio.Task[bytes] | None":
        """Return the task that brings a chunk; None if it is here."""
        if number in self._held:
            return None
        if number not in self._coming:
            task = self._coming[number] = asyncio.ensure_future(self._fetch(number))
            task.add_done_callback(lambda done: self._done(number, done))
        return self._coming[number]

    def _done(self, number: int, task: "asyncio.Task[bytes]") -> None:
        del self._coming[number]
        if not task.cancelled() and not task.exception():
            self._held[number] = task.result()
            while len(self._held) > self._room:
                self._held.popitem(last=False)

    async def _fetch(self, number: int) -> bytes:
        first = number * CHUNK
        data = await self._source.fetch(first, CHUNK)
        if len(data) != min(CHUNK, self.length - first):
            await self._source.check()
            raise UnavailableError(f"{self._source.name}: bytes from {first} on are missing in the answer.")
        return data

    def write(self, offset: int, data: memoryview, *, fua: bool = False) -> Soon[None]:
        """Refuse."""
        raise OSError(errno.EPERM, "read-only")

    def trim(self, offset: int, length: int, *, fua: bool = False) -> Soon[None]:
        """Refuse."""
        raise OSError(errno.EPERM, "read-only")

    def zero(
        self, offset: int, length: int, *, fua: bool = False, may_trim: bool = True, fast: bool = False
    ) -> Soon[None]:
        """Refuse."""
        raise OSError(errno.EPERM, "read-only")

    def flush(self) -> None:
        """Nothing is ever written."""

    def cache(self, offset: int, length: int) -> None:
        """Fetch, without waiting for it."""
        for number in range(
            offset // CHUNK, min(-(-(offset + length) // CHUNK), offset // CHUNK + self._room)
        ):
            self._fetching(number)

    def extents(self, offset: int, length: int, limit: int) -> Soon[Sequence[Extent]]:
        """Say that all is data."""
        return [Extent(length, DATA)]

    async def verify(self) -> None:
        """Raise ConflictError if what was read so far may not be all of one image."""
        await self._source.check()

    async def close(self) -> None:
        """End what is on its way."""
        self._watch.cancel()
        tasks = list(self._coming.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, watch: "asyncio.Task[ConflictError]") -> None:
        if not watch.cancelled():
            self.failed = watch.result()


def _cut(chunks: list[bytes], skip: int, length: int) -> Data | list[Data]:
    views = [memoryview(chunk) for chunk in chunks]
    views[0] = views[0][skip:]
    spare = sum(map(len, views)) - length
    views[-1] = views[-1][: len(views[-1]) - spare]
    return views[0] if len(views) == 1 else list[Data](views)
