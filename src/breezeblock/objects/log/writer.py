"""A volume's one writer: gathers pages in segments, uploads them in order, stores the map now and then."""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from breezeblock.errors import BreezeblockError, ConflictError, NotFoundError, UnavailableError
from breezeblock.objects.log import format as form
from breezeblock.objects.log import leaves
from breezeblock.objects.log.gathering import Gathering
from breezeblock.objects.log.opening import Opened
from breezeblock.objects.log.pages import packed
from breezeblock.objects.stores.port import ExistsError, Store

_T = TypeVar("_T")
CHECKPOINT_SEGMENTS = 256
"""So many segments after a root the map is stored anew: what an opening must read again stays bounded."""
CHECKPOINT_EXTENTS, LEAF_EXTENTS = 1 << 15, 1 << 13
"""So many extents after it, too, unless too many leaves would have to be stored for them."""
LEFT_SEGMENTS = 96
"""So many numbers are left to the next opening: a volume that is attached time and again takes some."""
_MOST_WEIGHT = 2.0
RETRY_FIRST_S, RETRY_MOST_S = 0.1, 10.0


class FencedError(ConflictError):
    """Another writer has taken the volume over; nothing more can be written by this one."""


class Writer:
    """Takes pages now and stores them soon. Only what `arrived` covers is in the store."""

    def __init__(self, store: Store, opened: Opened, *, zstd_level: int = 0) -> None:
        self.store, self._zstd_level = store, zstd_level
        self.volume, self.own = opened.root.volume, opened.root.own
        self.root, self.pages, self.length = opened.root, opened.pages, opened.length
        self.epoch, self.token = opened.epoch, opened.token
        self.sequence = opened.last
        """The number of the last write that was taken."""
        self.stored = opened.last
        """The number of the last write that is in the store, with all before it."""
        self.arrived = opened.next
        """All segments below this number are in the store."""
        self._tail = opened.next
        self._open = Gathering(self._tail, opened.last)
        self._sent_length = opened.length
        self.waiting: dict[int, Gathering] = {self._tail: self._open}
        """Segments that have not arrived, the one being filled among them."""
        self._landed: dict[int, int] = {}
        self._uploads: dict[int, asyncio.Task[None]] = {}
        self._moved = asyncio.Event()
        self.failed: BreezeblockError | None = None
        self.uploaded_bytes = 0
        self.trouble = ""
        """Why the last upload did not succeed at once; empty when all is well."""
        self._roots = opened.root.number if opened.root.epoch == self.epoch else 0
        self._leaves = 0
        self._extents = 0
        """That have arrived since the root: an opening applies them."""
        self._pressed = False
        """More of the map has changed than may be kept: writers wait for the checkpoint."""
        self._checkpointing: asyncio.Task[None] | None = None
        self.fetcher = leaves.Fetcher(store, opened.root, opened.pages)
        self._lock = asyncio.Lock()
        self._publishing = asyncio.Lock()

    # --- taking ---------------------------------------------------------------------------------

    def write(self, first: int, data: memoryview) -> None:
        """Take whole pages. Raises FencedError."""
        self.check()
        self.sequence += 1
        count = len(data) // form.PAGE
        if count == 1 and self._again(first, data):
            return
        # Only a write of over 4 MiB can be torn by a crash, and then between pages.
        self._append(first, data, self.sequence - 1)

    def move(self, first: int, data: memoryview) -> None:
        """Take pages whose content is what it was: they get another place. Raises FencedError."""
        self.check()
        self._append(first, data, self.sequence)

    def _append(self, first: int, data: memoryview, torn: int) -> None:
        at, count = 0, len(data) // form.PAGE
        while at < count:
            segment = self._room(min(count - at, form.SEGMENT_PAGES))
            amount = min(count - at, form.SEGMENT_PAGES - segment.pages)
            segment.page(segment.pages, amount)[:] = data[at * form.PAGE : (at + amount) * form.PAGE]
            self.pages.set(first + at, amount, packed(self.own, segment.number, segment.pages))
            segment.add(form.Extent(first + at, amount, segment.pages))
            segment.pages += amount
            at += amount
            segment.last = self.sequence if at == count else torn

    def zero(self, first: int, count: int) -> None:
        """Let pages be zeros, whole leaves of them without looking."""
        self.check()
        self.sequence += 1
        segment = self._room(0)
        segment.add(form.Extent(first, count, -1))
        segment.last = self.sequence
        self.pages.set(first, count, 0)

    def grow(self, length: int) -> None:
        """Make the volume longer; the next segment says so."""
        self.check()
        self.length = max(self.length, length)

    def check(self) -> None:
        """Raise what ended this writer, if anything did."""
        if self.failed:
            raise self.failed

    def _again(self, first: int, data: memoryview) -> bool:
        """Write over a page that lies in the segment being filled: it arrives whole or not at all."""
        leaf = self.pages.leaves.get(first // form.LEAF_PAGES)
        entry = leaf.entry(first % form.LEAF_PAGES) if leaf else 0
        begin = packed(self.own, self._open.number, 0)
        if not begin <= entry < begin + self._open.pages:
            return False
        self._open.page(entry - begin)[:] = data
        self._open.last = self.sequence
        return True

    def _room(self, pages: int) -> Gathering:
        if len(self._open.extents) >= form.MAX_EXTENTS or self._open.pages + pages > form.SEGMENT_PAGES:
            self.seal()
        return self._open

    # --- storing --------------------------------------------------------------------------------

    @property
    def backlog(self) -> int:
        """How many full segments have not arrived."""
        return len(self.waiting) - 1

    def behind(self, segments: int) -> bool:
        """Whether so many segments are waiting, or so much of the map, that writers must."""
        return len(self.waiting) > segments or self._pressed

    @property
    def age_s(self) -> float:
        """For how long the oldest data has been waiting, in seconds."""
        segment = self.waiting[min(self.waiting)]
        return time.monotonic() - segment.born if segment.extents else 0.0

    def seal(self, *, empty: bool = False) -> int:
        """Send off what has been gathered; return the number below which all must arrive for it."""
        segment = self._open
        if segment.extents or self.length != self._sent_length or empty:
            segment.length = self._sent_length = self.length
            self._tail += 1
            self._open = Gathering(self._tail, segment.last)
            self.waiting[self._tail] = self._open
            self._uploads[segment.number] = asyncio.ensure_future(self._upload(segment))
        return self._tail

    async def barrier(self) -> None:
        """Return when everything taken so far is in the store. Raises FencedError."""
        await self.arrival(self.seal())

    async def end(self) -> None:
        """Store everything taken so far, and that nothing will follow. Raises FencedError."""
        if self._tail - self.root.next >= LEFT_SEGMENTS:
            await self.checkpoint("detach")
        self._open.ends = True
        await self.arrival(self.seal(empty=True))

    async def prove(self) -> None:
        """Return if nobody has taken the volume over until now. Raises FencedError."""
        await self.arrival(self.seal(empty=True))

    async def arrival(self, number: int) -> None:
        """Return when all segments below `number` have arrived. Raises FencedError."""
        while self.arrived < number:
            self.check()
            await self._moved.wait()
        self.check()

    async def room(self, segments: int) -> None:
        """Return when fewer full segments than this are waiting. Raises FencedError."""
        while self.behind(segments):
            self.check()
            await self._moved.wait()
        self.check()

    async def _upload(self, segment: Gathering) -> None:
        try:
            while segment.number >= self.arrived + form.WINDOW:
                self.check()
                await self._moved.wait()
            await self._put(segment)
            self._landed[segment.number] = segment.last
            while self.arrived in self._landed:
                self.stored = self._landed.pop(self.arrived)
                self._extents += len(self.waiting.pop(self.arrived).extents)
                self.arrived += 1
            self._weigh()
        except BreezeblockError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - an upload that ends unheard would stall the volume for ever
            self.fail(UnavailableError(f"Segment {segment.number} of {self.volume}: {error!r}."))
        finally:
            self._uploads.pop(segment.number, None)
            self._stir()

    async def _put(self, segment: Gathering) -> None:
        """Create the segment's object, for as long as it takes. Raises FencedError."""
        pages = segment.page(0, segment.pages)
        chunks: tuple[int, ...] = ()
        packed_pages = b""
        if self._zstd_level and segment.pages:
            chunks, packed_pages = await asyncio.to_thread(form.compressed, pages, self._zstd_level)
        head = form.pack(segment.head(self.volume, self.epoch, chunks))
        body = head + packed_pages if chunks else segment.body(head)
        key = form.segment_key(self.volume, segment.number)
        try:
            await self._patiently(lambda: self.store.put(key, body, create=True))
        except ExistsError:
            # An answer that was lost, or somebody else's fence.
            if await self._seen(key) != head:
                raise FencedError(
                    f"Volume {self.volume} was taken over by another writer.",
                    remedy="Detach it here. What was acknowledged as stored is in the store.",
                ) from None
        self.trouble = ""
        self.uploaded_bytes += len(body)

    async def _seen(self, key: str) -> bytes:
        try:
            return await self._patiently(lambda: self.store.get(key, 0, form.HEAD_BYTES))
        except NotFoundError:
            return b""

    async def _patiently(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        """Ask for as long as it takes. Raises what will not change, and what ended this writer."""
        pause = RETRY_FIRST_S
        while True:
            try:
                return await ask()
            except BreezeblockError as error:
                if error.permanent:
                    raise
                self.trouble = str(error)
            await asyncio.sleep(pause * random.random())  # noqa: S311 - only so that not all come at once
            self.check()
            pause = min(RETRY_MOST_S, pause * 2)

    def fail(self, error: BreezeblockError) -> None:
        """End this writer: whoever waits, and whoever writes from now on, gets the error."""
        self.failed = self.failed or error
        self._stir()

    def _stir(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    # --- the map --------------------------------------------------------------------------------

    async def checkpoint(self, reason: str = "checkpoint") -> form.Root:
        """Store the map as it is now, and a root that names it."""
        async with self._lock:
            await self.barrier()
            # Nothing waits between these: the leaves are of the moment at which the next segment begins.
            tail, last, length = self.seal(), self.sequence, self.length
            refs, frozen = dict(self.pages.refs), self.pages.freeze()
            try:
                stored = await leaves.store(self.store, self.root, frozen, refs, self._new_ref)
                await self.arrival(tail)
                refs = {number: ref for number, ref in refs.items() if number not in frozen} | stored
                self._roots += 1
                root = form.Root(
                    volume=self.volume,
                    epoch=self.epoch,
                    number=self._roots,
                    length=length,
                    sources=self.root.sources,
                    own=self.own,
                    leaves=refs,
                    tails=[],
                    next=tail,
                    last=last,
                    token=self.token,
                    reason=reason,
                )
                async with self._publishing:
                    await self._publish(root)
                    self.root, self._extents = root, 0
            except BaseException:
                self.pages.thaw(frozen)
                raise
            self.pages.settle(frozen, stored)
            self._stir()
            return root

    async def _publish(self, root: form.Root) -> None:
        """Store a root for certain: if its answer is lost, it may be the newest, and must be ours.

        Collections believe in the newest; whoever went on with the one before it would lose its leaves. So
        what was refused counts if it is there all the same, and if nobody can tell, this writer ends.
        """
        key, body = form.root_key(self.volume, root.epoch, root.number), form.pack_root(root)
        try:
            await self._patiently(lambda: self.store.put(key, body))
        except BreezeblockError as error:
            try:
                await self._patiently(lambda: self.store.head(key))
            except NotFoundError:
                raise error from None
            except BreezeblockError:
                self.fail(error)
                raise error from None
        self.trouble = ""

    def _new_ref(self) -> int:
        """Return a ref for a leaf: they go upwards, and the epoch makes them this writer's own."""
        self._leaves += 1
        # Added, so that they never meet those at the beginning: more than 2**24 of them are a week's work,
        # and the next epoch lies further away than a segment for each checkpoint.
        return (self.epoch << 24) + self._leaves

    def _weigh(self) -> None:
        """See that the map is stored when enough of it has changed."""
        weight = self.pages.weight
        self._pressed = weight >= _MOST_WEIGHT
        many = self.arrived - self.root.next >= CHECKPOINT_SEGMENTS
        many = many or self._extents >= max(CHECKPOINT_EXTENTS, LEAF_EXTENTS * self.pages.dirty)
        if (many or weight >= 1) and self._checkpointing is None and not self.failed:
            self._checkpointing = asyncio.ensure_future(self._checkpoint_soon())

    async def _checkpoint_soon(self) -> None:
        try:
            await self.checkpoint()
        except Exception as error:  # noqa: BLE001 - writers may wait for it: it must be tried again, whatever it was
            self.trouble = str(error) or repr(error)  # nothing is lost meanwhile
            await asyncio.sleep(RETRY_MOST_S)
        finally:
            self._checkpointing = None
        self._weigh()
        self._stir()

    async def hold(self, key: str, reason: str) -> None:
        """Store the volume as it is now as a root of its own, unless there is one under that key.

        At every moment what it names is also named by the newest root, until it is there itself: a
        collection cannot miss both. So no newer root may come meanwhile, ours or another writer's.
        """
        await self.barrier()
        async with self._publishing:
            own = (self.own, self.root.next, self.arrived)
            tails = [*self.root.tails, own] if self.arrived > self.root.next else list(self.root.tails)
            root = msgspec.structs.replace(
                self.root, tails=tails, length=self.length, last=self.stored, reason=reason
            )
            with contextlib.suppress(ExistsError):  # by an attempt that did not live to say so
                await self.store.put(key, form.pack_root(root), create=True)
            await self.prove()

    async def stop(self) -> None:
        """End all tasks; what has not arrived is given up."""
        tasks = [*self._uploads.values(), *([self._checkpointing] if self._checkpointing else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, self.fetcher.stop(), return_exceptions=True)
