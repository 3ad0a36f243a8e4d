"""Pages of stored segments, through a cache of 64 KiB chunks; each is checked against its CRC.

A read that goes on where an earlier one ended has what follows fetched ahead, twice as much each time.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from breezeblock.errors import CorruptError, NotFoundError
from breezeblock.objects.log import format as form
from breezeblock.objects.log.format import CHUNK_PAGES
from breezeblock.objects.log.pages import Place
from breezeblock.objects.log.sharing import Shared
from breezeblock.objects.stores.port import Store, judged

_HEADS = 1024
_AT_ONCE = 16
"""Chunks that one request fetches at most."""

_STREAMS = 16

_Chunk = tuple[str, int, int]


class Reader:
    """Reads from one store; of several who want the same chunk, one fetches it."""

    def __init__(self, store: Store, cache_bytes: int) -> None:
        self._store = store
        self._chunks: OrderedDict[_Chunk, bytes] = OrderedDict()
        self._heads: OrderedDict[tuple[str, int], form.Segment] = OrderedDict()
        self._heads_coming = Shared(self._head)
        self._room = max(2, cache_bytes // (CHUNK_PAGES * form.PAGE))
        self._coming: dict[_Chunk, asyncio.Future[bytes]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._packed = False
        """Whether segments were seen whose chunks lie where only the head says."""

    @property
    def cached_bytes(self) -> int:
        """What is in memory."""
        return len(self._chunks) * CHUNK_PAGES * form.PAGE

    @property
    def room_pages(self) -> int:
        """How many pages fit."""
        return self._room * CHUNK_PAGES

    def cached(self, volume: str, place: Place, count: int) -> list[memoryview] | None:
        """Return pages if all are in memory."""
        found = []
        for chunk, first, amount in _chunks(place.page, count):
            held = self._chunks.get((volume, place.segment, chunk))
            if held is None:
                return None
            self._chunks.move_to_end((volume, place.segment, chunk))
            found.append(memoryview(held)[first * form.PAGE : (first + amount) * form.PAGE])
        return found

    def page(self, volume: str, segment: int, index: int) -> memoryview | None:
        """Return one page if it is in memory."""
        key = (volume, segment, index // CHUNK_PAGES)
        held = self._chunks.get(key)
        if held is None:
            return None
        self._chunks.move_to_end(key)
        begin = index % CHUNK_PAGES * form.PAGE
        return memoryview(held)[begin : begin + form.PAGE]

    async def pages(self, volume: str, place: Place, count: int) -> list[memoryview]:
        """Return pages. Raises CorruptError for damage, or a segment that is gone."""
        wanted = _chunks(place.page, count)
        keys = [(volume, place.segment, chunk) for chunk, _, _ in wanted]
        held = [self._chunks.get(key) for key in keys]
        coming = self._fetch(keys)
        found = []
        for key, body, (_, first, amount) in zip(keys, held, wanted, strict=True):
            if body is None:
                # One reader that gives up must not take the others' answer away.
                body = await asyncio.shield(coming[key])  # noqa: PLW2901
            found.append(memoryview(body)[first * form.PAGE : (first + amount) * form.PAGE])
        return found

    def expect(self, volume: str, place: Place, count: int) -> None:
        """Begin to fetch what is not here."""
        self._fetch([(volume, place.segment, chunk) for chunk, _, _ in _chunks(place.page, count)])

    def _fetch(self, keys: list[_Chunk]) -> dict[_Chunk, "asyncio.Future[bytes]"]:
        """See that chunks of one segment come; return those that are on their way."""
        loop = asyncio.get_running_loop()
        found: dict[_Chunk, asyncio.Future[bytes]] = {}
        run: list[_Chunk] = []
        for key in keys:
            if key in self._coming:
                found[key] = self._coming[key]
            elif key not in self._chunks:
                found[key] = self._coming[key] = loop.create_future()
                if run and (key[2] != run[-1][2] + 1 or len(run) == _AT_ONCE):
                    self._start(run)
                    run = []
                run.append(key)
        if run:
            self._start(run)
        return found

    def _start(self, run: list[_Chunk]) -> None:
        task = asyncio.ensure_future(self._bring(run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bring(self, run: list[_Chunk]) -> None:
        try:
            bodies = await self._got(run[0], len(run))
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            for key in run:
                future = self._coming.pop(key)
                future.set_exception(error)
                future.exception()  # perhaps nobody waits
            return
        for key, body in zip(run, bodies, strict=True):
            self._chunks[key] = body
            self._coming.pop(key).set_result(body)
        while len(self._chunks) > self._room:
            self._chunks.popitem(last=False)

    async def head(self, volume: str, number: int) -> form.Segment:
        """Return a segment's head. Raises NotFoundError, CorruptError."""
        return self._heads.get((volume, number)) or await self._heads_coming.get((volume, number))

    async def _head(self, segment: tuple[str, int]) -> form.Segment:
        head = self._heads[segment] = await judged(
            self._store,
            form.segment_key(*segment),
            lambda data: form.unpack(data, *segment),
            length=form.HEAD_BYTES,
        )
        if len(self._heads) > _HEADS:
            self._heads.popitem(last=False)
        return head

    async def _got(self, start: _Chunk, count: int) -> list[bytes]:
        """Return chunks that follow each other in a segment."""
        volume, number, chunk = start
        name, size = form.segment_key(volume, number), CHUNK_PAGES * form.PAGE
        first, length, data = form.HEAD_BYTES + chunk * size, count * size, b""
        try:
            held = self._heads.get((volume, number))
            if held is not None and not held.chunks:
                head, data = held, await self._store.get(name, first, length)
            elif self._packed:
                head = await self.head(volume, number)
            else:
                head, data = await asyncio.gather(
                    self.head(volume, number), self._store.get(name, first, length)
                )
            if head.chunks:
                self._packed, data = True, b""
                first = form.HEAD_BYTES + sum(head.chunks[:chunk])
                length = sum(head.chunks[chunk : chunk + count])
            opened = partial(_opened, head, chunk, count)
            if data:
                with contextlib.suppress(CorruptError):  # another side may have it sound
                    return opened(data)
            return await judged(self._store, name, opened, first, length)
        except NotFoundError as error:
            raise form.damaged(name) from error


def _opened(head: form.Segment, chunk: int, count: int, data: bytes) -> list[bytes]:
    bodies, at = [], 0
    for one in range(chunk, chunk + count):
        length = head.chunks[one] if one < len(head.chunks) else CHUNK_PAGES * form.PAGE
        bodies.append(form.open_chunk(head, one, data[at : at + length]))
        at += length
    return bodies


def _chunks(index: int, count: int) -> list[tuple[int, int, int]]:
    found = []
    while count > 0:
        chunk, first = divmod(index, CHUNK_PAGES)
        amount = min(count, CHUNK_PAGES - first)
        found.append((chunk, first, amount))
        index, count = index + amount, count - amount
    return found


class Ahead:
    """Notices reads that follow each other, and says what to fetch before it is asked for."""

    def __init__(self, most_pages: int, fetch: Callable[[int, int], None]) -> None:
        self._most, self._fetch = most_pages, fetch
        self._streams: OrderedDict[int, tuple[int, int]] = OrderedDict()
        """Where a read would go on; what has been fetched up to there, and how much is next."""

    def read(self, first: int, count: int) -> None:
        """Take notice of a read of pages."""
        end = first + count
        stream = self._streams.pop(first, None)
        if stream is None:
            self._streams.setdefault(end, (end, 0))  # one that was read before goes on as it did
            if len(self._streams) > _STREAMS:
                self._streams.popitem(last=False)
            return
        fetched, window = stream
        if fetched - end < window // 2 or not window:
            window = min(self._most, max(CHUNK_PAGES, 2 * count, 2 * window))
            begin = max(fetched, end)
            if begin < end + window:
                self._fetch(begin, end + window - begin)
                fetched = end + window
        self._streams[end] = (fetched, window)
