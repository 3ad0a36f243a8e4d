"""Pages of stored segments, through a cache of 64 KiB chunks.

Each page is checked against its CRC when it is first read, not when it comes: of a chunk that was fetched for
one page, the others may never be asked for. A read that goes on where an earlier one ended has what follows
fetched ahead, twice as much each time.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from breezeblock.errors import CorruptError, NotFoundError
from breezeblock.objects.log import format as form
from breezeblock.objects.log.format import CHUNK_PAGES, PAGE
from breezeblock.objects.log.pages import Place
from breezeblock.objects.log.sharing import Shared
from breezeblock.objects.stores.port import Store, judged

_AT_ONCE = 16
"""Chunks that one request fetches at most."""
_HEADS_SHARE, _HEAD_KEPT_BYTES = 4, 4096 + 256
"""Beside the cache, the heads of segments get a fourth of its bytes: for 15 GiB of pages with 64 MiB."""
_CHUNK_BYTES = CHUNK_PAGES * PAGE
_STREAMS = 16

_Key = tuple[str, int, int]
"""Volume, segment, chunk."""


class _Chunk:
    """A chunk in memory."""

    __slots__ = ("doubts", "first", "head", "view")

    def __init__(self, head: form.Segment, chunk: int, data: bytes) -> None:
        """Take what the store gave. Raises CorruptError for what can be no chunk."""
        self.head, self.first = head, chunk * CHUNK_PAGES
        self.view = memoryview(form.open_chunk(head, chunk, data))
        self.doubts = (1 << CHUNK_PAGES) - 1
        """A bit for each page that was not checked yet."""

    def sound(self, first: int, amount: int = 1) -> bool:
        """Tell whether pages are what was written."""
        for index in range(first, first + amount) if self.doubts else ():
            if self.doubts >> index & 1:
                data = bytes(self.view[index * PAGE : (index + 1) * PAGE])
                if not form.is_page(self.head, self.first + index, data):
                    return False
                self.doubts &= ~(1 << index)
        return True


class Reader:
    """Reads from one store; of several who want the same chunk, one fetches it."""

    def __init__(self, store: Store, cache_bytes: int) -> None:
        self._store = store
        self._chunks: OrderedDict[_Key, _Chunk] = OrderedDict()
        self._heads: OrderedDict[tuple[str, int], form.Segment] = OrderedDict()
        """Without their extents: only who opens a volume wants those."""
        self._heads_coming = Shared(self._head)
        self._room = max(2, cache_bytes // _CHUNK_BYTES)
        self._heads_room = max(64, cache_bytes // _HEADS_SHARE // _HEAD_KEPT_BYTES)
        self._coming: dict[_Key, asyncio.Future[_Chunk]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._packed = False
        """Whether segments were seen whose chunks lie where only the head says."""

    @property
    def cached_bytes(self) -> int:
        """What is in memory."""
        return len(self._chunks) * _CHUNK_BYTES

    @property
    def room_pages(self) -> int:
        """How many pages fit."""
        return self._room * CHUNK_PAGES

    def cached(self, volume: str, place: Place, count: int) -> list[memoryview] | None:
        """Return pages if all are in memory."""
        found = []
        for chunk, first, amount in _chunks(place.page, count):
            held = self._chunks.get((volume, place.segment, chunk))
            if held is None or not held.sound(first, amount):
                return None
            self._chunks.move_to_end((volume, place.segment, chunk))
            found.append(held.view[first * PAGE : (first + amount) * PAGE])
        return found

    def page(self, volume: str, segment: int, index: int) -> memoryview | None:
        """Return one page if it is in memory."""
        key = (volume, segment, index // CHUNK_PAGES)
        held = self._chunks.get(key)
        index %= CHUNK_PAGES
        if held is None or (held.doubts and not held.sound(index)):
            return None
        self._chunks.move_to_end(key)
        return held.view[index * PAGE : (index + 1) * PAGE]

    async def pages(self, volume: str, place: Place, count: int) -> list[memoryview]:
        """Return pages. Raises CorruptError for damage, or a segment that is gone."""
        wanted = _chunks(place.page, count)
        keys = [(volume, place.segment, chunk) for chunk, _, _ in wanted]
        found = []
        for key, held, (_, first, amount) in zip(keys, self._fetch(keys), wanted, strict=True):
            # One reader that gives up must not take the others' answer away.
            chunk = held if isinstance(held, _Chunk) else await asyncio.shield(held)
            if not chunk.sound(first, amount):
                chunk = await self._mended(key, first, amount)
            found.append(chunk.view[first * PAGE : (first + amount) * PAGE])
        return found

    async def one(self, volume: str, segment: int, index: int) -> memoryview:
        """Return one page. Raises as `pages`."""
        return (await self.pages(volume, Place(0, segment, index), 1))[0]

    def expect(self, volume: str, place: Place, count: int) -> None:
        """Begin to fetch what is not here."""
        self._fetch([(volume, place.segment, chunk) for chunk, _, _ in _chunks(place.page, count)])

    def _fetch(self, keys: list[_Key]) -> "list[_Chunk | asyncio.Future[_Chunk]]":
        """Return chunks of one segment, or their futures; see that those come that nobody asked for yet."""
        loop = asyncio.get_running_loop()
        found: list[_Chunk | asyncio.Future[_Chunk]] = []
        run: list[_Key] = []
        for key in keys:
            one = self._chunks.get(key) or self._coming.get(key)
            if one is None:
                one = self._coming[key] = loop.create_future()
                if run and (key[2] != run[-1][2] + 1 or len(run) == _AT_ONCE):
                    self._start(run)
                    run = []
                run.append(key)
            found.append(one)
        if run:
            self._start(run)
        return found

    def _start(self, run: list[_Key]) -> None:
        task = asyncio.ensure_future(self._bring(run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bring(self, run: list[_Key]) -> None:
        try:
            chunks = await self._got(run[0], len(run))
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            for key in run:
                future = self._coming.pop(key)
                future.set_exception(error)
                future.exception()  # perhaps nobody waits
            return
        for key, chunk in zip(run, chunks, strict=True):
            self._chunks[key] = chunk
            self._coming.pop(key).set_result(chunk)
        while len(self._chunks) > self._room:
            self._chunks.popitem(last=False)

    async def head(self, volume: str, number: int) -> form.Segment:
        """Return a segment's head with its extents. Raises NotFoundError, CorruptError."""
        head = await self._unpacked(volume, number, extents=True)
        self._keep(msgspec.structs.replace(head, extents=[]))
        return head

    async def _head(self, segment: tuple[str, int]) -> form.Segment:
        return self._keep(await self._unpacked(*segment, extents=False))

    async def _unpacked(self, volume: str, number: int, *, extents: bool) -> form.Segment:
        return await judged(
            self._store,
            form.segment_key(volume, number),
            lambda data: form.unpack(data, volume, number, extents=extents),
            length=form.HEAD_BYTES,
        )

    def _keep(self, head: form.Segment) -> form.Segment:
        self._heads[head.volume, head.number] = head
        if len(self._heads) > self._heads_room:
            self._heads.popitem(last=False)
        return head

    async def _got(self, start: _Key, count: int) -> list[_Chunk]:
        """Return chunks that follow each other in a segment."""
        volume, number, chunk = start
        name = form.segment_key(volume, number)
        head = self._heads.get((volume, number))
        try:
            if head is None and self._packed:
                head = await self._heads_coming.get((volume, number))
            if head is None:
                # Where the pages lie follows from their index, unless this segment is packed.
                came, data = await asyncio.gather(
                    self._heads_coming.get((volume, number)),
                    self._store.get(name, *_span((), chunk, count)),
                )
                head = came
                if head.chunks:
                    self._packed, data = True, b""
            else:
                data = await self._store.get(name, *_span(head.chunks, chunk, count))
            try:
                return _opened(head, chunk, count, data)
            except CorruptError:  # another side may have it sound; or it is packed
                found = head
            return await judged(
                self._store,
                name,
                lambda data: _opened(found, chunk, count, data),
                *_span(head.chunks, chunk, count),
            )
        except NotFoundError as error:
            raise form.damaged(name) from error

    async def _mended(self, key: _Key, first: int, amount: int) -> _Chunk:
        """Return a chunk anew of which pages were damaged: another side may have them sound."""
        volume, number, chunk = key
        name = form.segment_key(volume, number)

        def judge(data: bytes) -> _Chunk:
            found = _Chunk(head, chunk, data)
            if not found.sound(first, amount):
                begin = found.first + first
                raise form.damaged(f"A page from {begin} to {begin + amount - 1} of {name}")
            return found

        try:
            head = self._heads.get((volume, number)) or await self._heads_coming.get((volume, number))
            made = await judged(self._store, name, judge, *_span(head.chunks, chunk, 1))
        except NotFoundError as error:
            raise form.damaged(name) from error
        if key in self._chunks:
            self._chunks[key] = made
        return made


def _span(chunks: tuple[int, ...], chunk: int, count: int) -> tuple[int, int]:
    """Return where chunks begin in a segment's object, and their length in bytes."""
    if chunks:
        return form.HEAD_BYTES + sum(chunks[:chunk]), sum(chunks[chunk : chunk + count])
    return form.HEAD_BYTES + chunk * _CHUNK_BYTES, count * _CHUNK_BYTES


def _opened(head: form.Segment, chunk: int, count: int, data: bytes) -> list[_Chunk]:
    if count == 1:
        return [_Chunk(head, chunk, data)]
    found, at = [], 0
    for one in range(chunk, chunk + count):
        length = head.chunks[one] if one < len(head.chunks) else _CHUNK_BYTES
        found.append(_Chunk(head, one, data[at : at + length]))
        at += length
    return found


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
