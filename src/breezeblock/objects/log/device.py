"""The volume as a block device: what the NBD server serves.

Pages are 4 KiB; smaller pieces are read, changed and written. A piece whose old page is not in memory
waits for it, and whatever comes after waits behind it: overlapping writes take effect in the order of
their calls. All fetches begin at once, so a row of them costs one round trip.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from breezeblock.errors import CorruptError
from breezeblock.objects.log.format import LEAF_PAGES, PAGE
from breezeblock.objects.log.journal import Journal, Record
from breezeblock.objects.log.pages import parts, unpacked
from breezeblock.objects.log.pieces import cut, edges, mapped, runs, trimmed
from breezeblock.objects.log.reading import Ahead, Reader
from breezeblock.objects.log.writer import Writer
from breezeblock.objects.nbd.device import DATA, HOLE, Data, Extent, Soon
from breezeblock.objects.stores.port import Store

_ZEROS = memoryview(bytes(1 << 20))
_ZERO_PAGE = _ZEROS[:PAGE]


class LogDevice:
    """One volume, open for writing.

    A flush waits for the journal on the local disk; without one, or if told so, for the store.
    """

    minimum_bytes = 1
    preferred_bytes = PAGE
    read_only = False

    def __init__(
        self,
        writer: Writer,
        reader: Reader,
        journal: Journal | None = None,
        *,
        dirty_segments: int = 16,
        ahead_bytes: int = 0,
        to_store: bool = False,
    ) -> None:
        self.writer, self.reader, self._journal = writer, reader, journal
        if journal:
            # A page that is written again and again fills the journal, and no segment.
            journal.rolled = self._rolled
        self._to_store = to_store
        # What is fetched ahead must not push itself out before it was read.
        self._ahead = Ahead(min(ahead_bytes // PAGE, reader.room_pages // 4), self._expect)
        self.dirty_segments = dirty_segments
        self._queue: deque[tuple[asyncio.Future[None], Callable[[], None], list[int]]] = deque()
        self._runner: asyncio.Task[None] | None = None
        self._ticker: asyncio.Task[None] | None = None

    @property
    def store(self) -> Store:
        """Where the volume lies."""
        return self.writer.store

    @property
    def length(self) -> int:
        """Bytes."""
        return self.writer.length

    @property
    def journal_bytes(self) -> int:
        """What the journal takes on the local disk."""
        return self._journal.length if self._journal else 0

    @property
    def cached_bytes(self) -> int:
        """What of the store is in memory."""
        return self.reader.cached_bytes

    def _rolled(self) -> None:
        self.writer.seal()

    # --- reading --------------------------------------------------------------------------------

    def read(self, offset: int, length: int) -> Soon[Data | list[Data]]:
        """Return bytes, now if they are in memory."""
        if length == PAGE and not offset % PAGE and (page := self._one_page(offset // PAGE)) is not None:
            return page
        first, end = offset // PAGE, -(-(offset + length) // PAGE)
        found = self._now(first, end - first)
        self._ahead.read(first, end - first)
        return self._later(offset, length) if found is None else cut(found, offset % PAGE, length)

    async def _later(self, offset: int, length: int) -> Data | list[Data]:
        first, end = offset // PAGE, -(-(offset + length) // PAGE)
        return cut(await self._fetched(first, end - first), offset % PAGE, length)

    def _one_page(self, page: int) -> Soon[Data | list[Data]] | None:
        """Read the one page that most requests are about, in half the time; None: its leaf has to come."""
        leaf = self.writer.pages.at(page // LEAF_PAGES)
        if leaf is None:
            return None
        self._ahead.read(page, 1)
        entry = leaf.entry(page % LEAF_PAGES)
        if not entry:
            return _ZERO_PAGE
        number, index = entry >> 16 & 0xFFFFFFFFF, (entry & 0xFFFF) - 1
        own = entry >> 52 == self.writer.own
        if own and (segment := self.writer.waiting.get(number)) is not None:
            return segment.page(index)
        source = self.writer.root.sources[entry >> 52]
        here = self.reader.page(source, number, index)
        return self.reader.one(source, number, index) if here is None else here

    def _now(self, first: int, count: int) -> list[memoryview] | None:
        found: list[memoryview] = []
        for number, start, amount in parts(first, count):
            leaf = self.writer.pages.at(number)
            if leaf is None:
                return None
            for entry, pages in runs(leaf, start, amount):
                views = self._held(entry, pages)
                if views is None:
                    return None
                found += views
        return found

    def _held(self, entry: int, count: int) -> list[memoryview] | None:
        if not entry:
            step = len(_ZEROS) // PAGE
            return [_ZEROS[: min(step, count - at) * PAGE] for at in range(0, count, step)]
        place = unpacked(entry)
        if place.source == self.writer.own:
            segment = self.writer.waiting.get(place.segment)
            if segment is not None:
                return [segment.page(place.page, count)]
        return self.reader.cached(self.writer.root.sources[place.source], place, count)

    async def _fetched(self, first: int, count: int) -> list[memoryview]:
        gathered: list[list[memoryview] | asyncio.Future[list[memoryview]]] = []
        for number, start, amount in parts(first, count):
            while (leaf := self.writer.pages.at(number)) is None:
                await self.writer.fetcher.bring(number)
            for entry, pages in runs(leaf, start, amount):
                views = self._held(entry, pages)
                if views is None:
                    place = unpacked(entry)
                    source = self.writer.root.sources[place.source]
                    coming = asyncio.ensure_future(self.reader.pages(source, place, pages))
                    coming.add_done_callback(_look)  # if another one fails first, nobody waits for this
                    gathered.append(coming)
                else:
                    gathered.append(views)
        found: list[memoryview] = []
        for one in gathered:
            found += one if isinstance(one, list) else await one
        return found

    def _expect(self, first: int, count: int) -> None:
        """Begin to fetch pages that will be asked for, as far as it is known where they lie."""
        count = min(count, -(-self.length // PAGE) - first)
        for number, start, amount in parts(first, max(0, count)):
            leaf = self.writer.pages.at(number)
            if leaf is None:
                return
            for entry, pages in runs(leaf, start, amount):
                place = unpacked(entry)
                if entry and not (place.source == self.writer.own and place.segment in self.writer.waiting):
                    self.reader.expect(self.writer.root.sources[place.source], place, pages)

    def cache(self, offset: int, length: int) -> Soon[None]:
        """Fetch what is not in memory, and not more than would push itself out."""
        first, end = offset // PAGE, -(-(offset + length) // PAGE)
        end = min(end, first + max(1, self.reader.room_pages // 4))
        return None if self._now(first, end - first) is not None else self._fetch_only(first, end - first)

    async def _fetch_only(self, first: int, count: int) -> None:
        await self._fetched(first, count)

    # --- changing -------------------------------------------------------------------------------

    def write(self, offset: int, data: memoryview, *, fua: bool = False) -> Soon[None]:
        """Take bytes; the answer waits while too much has not been stored."""
        pages = edges(offset, len(data)) if (offset | len(data)) % PAGE else []
        if self._queue or (pages and not self._edges_here(pages)):
            copy = memoryview(bytes(data))  # `data` is the caller's again before this has its turn
            return self._queued(partial(self._write_now, offset, copy), pages, fua=fua)
        self._write_now(offset, data)
        return self._answer(fua=fua)

    def _write_now(self, offset: int, data: memoryview) -> None:
        writer = self.writer
        writer.check()
        if self._journal:
            self._journal.write(writer.sequence + 1, offset, data)
        self.apply(offset, data)

    def apply(self, offset: int, data: memoryview) -> None:
        """Write what the journal already has; the pages at the edges are in memory."""
        before, after = offset % PAGE, -(offset + len(data)) % PAGE
        if before or after:
            first, end = offset // PAGE, -(-(offset + len(data)) // PAGE)
            whole = bytearray((end - first) * PAGE)
            if before:
                whole[:before] = self._page(first)[:before]
            if after:
                whole[len(whole) - after :] = self._page(end - 1)[PAGE - after :]
            whole[before : before + len(data)] = data
            offset, data = first * PAGE, memoryview(whole)
        self.writer.write(offset // PAGE, data)

    def _page(self, page: int) -> memoryview:
        found = self._now(page, 1)
        assert found is not None  # noqa: S101 - the callers saw to it
        return found[0]

    def trim(self, offset: int, length: int, *, fua: bool = False) -> Soon[None]:
        """Give bytes up: whole pages become holes, the rest stays as it is."""
        first, end = -(-offset // PAGE), (offset + length) // PAGE
        if end <= first:
            return self._answer(fua=fua)
        return self._zero_pages(first, end - first, fua=fua)

    def zero(
        self, offset: int, length: int, *, fua: bool = False, may_trim: bool = True, fast: bool = False
    ) -> Soon[None]:
        """Let bytes be zeros. A log never overwrites, so keeping their room would keep nothing."""
        del may_trim, fast
        first, end = -(-offset // PAGE), (offset + length) // PAGE
        if end <= first:
            return self.write(offset, _ZEROS[:length], fua=fua)
        answers = [self._zero_pages(first, end - first, fua=fua)]
        if head := first * PAGE - offset:
            answers.append(self.write(offset, _ZEROS[:head], fua=fua))
        if tail := offset + length - end * PAGE:
            answers.append(self.write(end * PAGE, _ZEROS[:tail], fua=fua))
        later = [one for one in answers if one is not None]
        return _all(later) if later else None

    def _zero_pages(self, first: int, count: int, *, fua: bool) -> Soon[None]:
        if self._queue:
            return self._queued(partial(self._zero_now, first, count), [], fua=fua)
        self._zero_now(first, count)
        return self._answer(fua=fua)

    def _zero_now(self, first: int, count: int) -> None:
        self.writer.check()
        if self._journal:
            self._journal.zero(self.writer.sequence + 1, first * PAGE, count * PAGE)
        self.writer.zero(first, count)

    def _answer(self, *, fua: bool) -> Soon[None]:
        if self.writer.behind(self.dirty_segments):
            return self._room(fua=fua)
        if fua:
            return self.flush()
        if self._journal and self._journal.behind:
            return self._journal.drained()
        return None

    async def _room(self, *, fua: bool) -> None:
        """Return when writers need not wait. Who only wants to be sure of each write must wait, too."""
        if fua and (durable := self.flush()) is not None:
            await durable
        await self.writer.room(self.dirty_segments)

    def flush(self) -> Soon[None]:
        """Make everything answered survive: in the journal, or in the store."""
        self.writer.check()
        if self._journal and not self._to_store:
            return self._journal.sync()
        return self.writer.barrier()

    # --- pieces whose page must be fetched first ------------------------------------------------

    def _edges_here(self, pages: list[int]) -> bool:
        return all(self._now(page, 1) is not None for page in pages)

    def _queued(self, change: Callable[[], None], pages: list[int], *, fua: bool) -> Soon[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((done, change, pages))
        fetching = [asyncio.ensure_future(self._fetch_only(page, 1)) for page in pages]
        for task in fetching:
            task.add_done_callback(_look)
        if self._runner is None:
            self._runner = asyncio.ensure_future(self._run())
        return self._turn(done, fua=fua)

    async def _turn(self, done: "asyncio.Future[None]", *, fua: bool) -> None:
        await done
        answer = self._answer(fua=fua)
        if answer is not None:
            await answer

    async def _run(self) -> None:
        while self._queue:
            done, change, pages = self._queue[0]
            try:
                while not self._edges_here(pages):
                    for page in pages:
                        await self._fetched(page, 1)
                change()
            except Exception as error:  # noqa: BLE001 - what comes behind must not wait for ever
                _settle(done, error)
            else:
                _settle(done, None)
            self._queue.popleft()
        self._runner = None

    # --- the rest -------------------------------------------------------------------------------

    async def replay(self, records: list[Record]) -> None:
        """Do again what the journal has and the store has not, in the order it was served."""
        for sequence, offset, length, data in records:
            if sequence <= self.writer.sequence:
                continue
            if sequence != self.writer.sequence + 1:
                raise CorruptError(
                    f"The journal begins with write {sequence}; the store has {self.writer.sequence}.",
                    remedy="`detach --discard` gives up what the journal has.",
                )
            if data is None:
                self.writer.zero(offset // PAGE, length // PAGE)
                continue
            cut_pages = edges(offset, length)
            while not self._edges_here(cut_pages):
                for page in cut_pages:
                    await self._fetched(page, 1)
            self.apply(offset, memoryview(data))
            await self.writer.room(self.dirty_segments)

    def keep_young(self, age_s: float) -> None:
        """From now on send off what is older than this, however little it is."""
        self._ticker = asyncio.ensure_future(self._tick(age_s))

    async def _tick(self, age_s: float) -> None:
        while not self.writer.failed:
            await asyncio.sleep(age_s / 4)
            if self.writer.age_s > age_s:
                self.writer.seal()

    def grow(self, length: int) -> Soon[None]:
        """Become longer; done when the store knows it."""
        self.writer.grow(length)
        return self.writer.barrier()

    def extents(self, offset: int, length: int, limit: int) -> Soon[Sequence[Extent]]:
        """Tell what is a hole; a leaf that is not in memory is said to be data."""
        first, count = offset // PAGE, -(-(offset + length) // PAGE) - offset // PAGE
        runs = mapped(self.writer.pages, first, count, limit)
        return trimmed([Extent(pages * PAGE, DATA if data else HOLE) for data, pages in runs], offset)

    async def close(self) -> None:
        """Put everything into the store; nothing stays on this host."""
        if self._ticker:
            self._ticker.cancel()
        if self._runner:
            await self._runner
        try:
            if not self.read_only:
                await self.writer.end()
        finally:
            await self.writer.stop()
            if self._journal:
                await self._journal.close(self.writer.stored)


async def _all(answers: list[Awaitable[None]]) -> None:
    await asyncio.gather(*answers)


def _settle(done: "asyncio.Future[None]", error: Exception | None) -> None:
    if done.done():
        return  # whoever asked has gone
    if error:
        done.set_exception(error)
    else:
        done.set_result(None)


def _look(task: "asyncio.Future[Any]") -> None:
    if not task.cancelled():
        task.exception()  # whoever needs it meets it again
