"""Pages of stored segments, through a cache of 256 KiB chunks; each is checked against its CRC."""

import asyncio
from collections import OrderedDict
from functools import partial

from breezeblock.errors import NotFoundError
from breezeblock.objects.log import format as form
from breezeblock.objects.log.pages import Place
from breezeblock.objects.stores.port import Store, judged

CHUNK_PAGES = 64
_HEADS = 1024

_Chunk = tuple[str, int, int]


class Reader:
    """Reads from one store; of several who want the same chunk, one fetches it."""

    def __init__(self, store: Store, cache_bytes: int) -> None:
        self._store = store
        self._chunks: OrderedDict[_Chunk, bytes] = OrderedDict()
        self._heads: OrderedDict[tuple[str, int], form.Segment] = OrderedDict()
        self._room = max(2, cache_bytes // (CHUNK_PAGES * form.PAGE))
        self._coming: dict[object, asyncio.Task[object]] = {}

    @property
    def cached_bytes(self) -> int:
        """What is in memory."""
        return len(self._chunks) * CHUNK_PAGES * form.PAGE

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

    async def pages(self, volume: str, place: Place, count: int) -> list[memoryview]:
        """Return pages. Raises CorruptError for damage, or a segment that is gone."""
        wanted = _chunks(place.page, count)
        held = await asyncio.gather(*(self._chunk((volume, place.segment, one[0])) for one in wanted))
        return [
            memoryview(body)[first * form.PAGE : (first + amount) * form.PAGE]
            for body, (_, first, amount) in zip(held, wanted, strict=True)
        ]

    async def head(self, volume: str, number: int) -> form.Segment:
        """Return a segment's head. Raises NotFoundError, CorruptError."""
        held = self._heads.get((volume, number))
        if held is None:
            held = self._heads[volume, number] = await judged(
                self._store,
                form.segment_key(volume, number),
                lambda data: form.unpack(data, volume, number),
                length=form.HEAD_BYTES,
            )
            if len(self._heads) > _HEADS:
                self._heads.popitem(last=False)
        return held

    async def _chunk(self, key: _Chunk) -> bytes:
        held = self._chunks.get(key)
        if held is not None:
            return held
        task = self._coming.get(key)
        if task is None:
            task = self._coming[key] = asyncio.ensure_future(self._fetch(key))
            task.add_done_callback(lambda _: self._coming.pop(key, None))
        got = await asyncio.shield(task)  # one reader that gives up must not take the others' answer away
        assert isinstance(got, bytes)  # noqa: S101 - the table holds tasks of several kinds
        return got

    async def _fetch(self, key: _Chunk) -> bytes:
        volume, number, chunk = key
        name = form.segment_key(volume, number)
        begin = form.HEAD_BYTES + chunk * CHUNK_PAGES * form.PAGE
        length = CHUNK_PAGES * form.PAGE
        try:
            head, data = await asyncio.gather(self.head(volume, number), self._store.get(name, begin, length))
            if not _sound(head, chunk, data):
                data = await judged(self._store, name, partial(_proved, name, head, chunk), begin, length)
        except NotFoundError as error:
            raise form.damaged(name) from error
        self._chunks[key] = data
        while len(self._chunks) > self._room:
            self._chunks.popitem(last=False)
        return data


def _sound(head: form.Segment, chunk: int, data: bytes) -> bool:
    first = chunk * CHUNK_PAGES
    amount = min(CHUNK_PAGES, head.pages - first)
    view = memoryview(data)
    sums = b"".join(
        form.crc(bytes(view[page * form.PAGE : (page + 1) * form.PAGE])).to_bytes(4, "little")
        for page in range(amount)
    )
    told = head.sums[4 * first : 4 * (first + amount)]
    return amount > 0 and len(data) >= amount * form.PAGE and sums == told


def _proved(name: str, head: form.Segment, chunk: int, data: bytes) -> bytes:
    if not _sound(head, chunk, data):
        raise form.damaged(f"Pages from {chunk * CHUNK_PAGES} on of {name}")
    return data


def _chunks(index: int, count: int) -> list[tuple[int, int, int]]:
    found = []
    while count > 0:
        chunk, first = divmod(index, CHUNK_PAGES)
        amount = min(count, CHUNK_PAGES - first)
        found.append((chunk, first, amount))
        index, count = index + amount, count - amount
    return found
