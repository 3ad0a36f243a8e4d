"""Opening a volume: its newest root, the segments that follow, and the claim to be its writer."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from functools import partial

import msgspec

from breezeblock.errors import ConflictError, CorruptError, NotFoundError
from breezeblock.objects.log import format as form
from breezeblock.objects.log.pages import PageMap, packed
from breezeblock.objects.log.reading import Reader
from breezeblock.objects.stores.port import ExistsError, Store, everything, judged

_AHEAD = 16


class Opened(msgspec.Struct):
    """What a volume is, as its objects say."""

    root: form.Root
    """The root that was read; tails and own segments were applied on top of it."""
    pages: PageMap
    length: int
    next: int
    """The first segment number that nobody has taken."""
    epoch: int
    """Of the segments that were seen last."""
    token: bytes
    """Of that epoch's fence."""
    last: int
    """The number of the last write that is in the store."""
    ended: bool = False
    """Nobody has the volume: its last writer said that it was the last, or there was none yet."""


async def newest(store: Store, volume: str) -> form.Root:
    """Return a volume's newest root. Raises NotFoundError, CorruptError."""
    for _ in range(10):
        key = await newest_key(store, volume)
        try:
            return await judged(store, key, partial(form.unpack_root, key=key))
        except NotFoundError:
            continue  # a newer one has come, and this one was collected
    raise CorruptError(f"The roots of {volume} are listed, and gone when they are read.")


async def newest_key(store: Store, volume: str) -> str:
    """Return where a volume's newest root is. No other root is ever stored there. Raises NotFoundError."""
    roots = await everything(store, f"v/{volume}/root/")
    if not roots:
        raise NotFoundError(f"The store has no volume {volume}.")
    return roots[-1].key


async def load(reader: Reader, root: form.Root, leaves_limit: int, *, live: bool) -> Opened:
    """Apply to a root all that follows it; with `live`, the volume's own segments too."""
    pages = PageMap(root.leaves, leaves_limit)
    opened = Opened(root, pages, root.length, root.next, root.epoch, root.token, root.last)
    opened.ended = root.ends or root.epoch == root.next == 0
    for source, first, end in root.tails:
        number = first
        async for segment in _following(reader, root.sources[source], first, end):
            _apply(opened, segment, source)
            number = segment.resume
        if number < end:
            raise form.damaged(form.segment_key(root.sources[source], number))
    opened.length, opened.epoch = root.length, root.epoch
    if live:
        async for segment in _following(reader, root.volume, root.next, 1 << 36):
            _apply(opened, segment, root.own)
            opened.next, opened.length = segment.resume, segment.length
            opened.epoch, opened.ended = segment.epoch, segment.ends
            if segment.fence:
                opened.token = segment.token
    return opened


def _apply(opened: Opened, segment: form.Segment, source: int) -> None:
    for extent in segment.extents:
        entry = packed(source, segment.number, extent.place) if extent.place >= 0 else 0
        opened.pages.set(extent.start, extent.amount, entry)
    opened.last = max(opened.last, segment.last)


async def _following(reader: Reader, volume: str, first: int, end: int) -> AsyncIterator[form.Segment]:
    """Give heads in order up to `end` or the first that is missing, several fetched at a time."""
    number, ahead = first, 1
    while number < end:
        numbers = range(number, min(end, number + ahead))
        heads = await asyncio.gather(*(_head(reader, volume, one) for one in numbers))
        for at, head in zip(numbers, heads, strict=True):
            if at < number:
                continue  # behind a fence: whatever lies there was written by the one fenced off
            if head is None:
                return
            yield head
            number = head.resume
        ahead = _AHEAD


async def _head(reader: Reader, volume: str, number: int) -> form.Segment | None:
    try:
        return await reader.head(volume, number)
    except NotFoundError:
        return None


async def claim(
    store: Store,
    reader: Reader,
    opened: Opened,
    token: bytes,
    *,
    dead: bool = False,
    brief: bool = False,
    at_rest: bool = False,
) -> None:
    """Become the volume's writer: take the first free number with a fence.

    Whoever else claims at the same time, exactly one of us gets each number; the other follows it.
    `dead`: the last writer's process is known to be gone; `brief`: we store nothing after the fence.
    Raises ConflictError if with `at_rest` somebody has the volume: then nobody is fenced off.
    """
    while True:
        if at_rest and not opened.ended:
            raise ConflictError(f"{opened.root.volume} is attached, or was not detached properly.")
        number = opened.next
        fence = form.Segment(
            volume=opened.root.volume,
            number=number,
            epoch=number,
            length=opened.length,
            last=opened.last,
            resume=number + form.WINDOW,
            pages=0,
            extents=[],
            sums=b"",
            token=token,
            ends=brief,
            follows=dead or opened.ended,
        )
        try:
            await store.put(form.segment_key(fence.volume, number), form.pack(fence), create=True)
        except ExistsError:
            seen = await reader.head(fence.volume, number)
        else:
            seen = fence
        _apply(opened, seen, opened.root.own)
        opened.next, opened.epoch = seen.resume, seen.epoch
        # Who was quicker may not know of the length that is to be claimed.
        opened.length = max(opened.length, seen.length)
        opened.ended, dead = seen.ends, dead and not seen.fence
        if seen.token == token:
            opened.token = token
            return


async def settle(store: Store, reader: Reader, opened: Opened, leaves_limit: int) -> Opened:
    """Publish a root of the epoch that was claimed, so that no older writer's can be the newest any more.

    What we found may rest on a root that the older writer replaced before it met our fence; a collection
    would then take away what only that one names. So it counts only if none came in between.
    """
    for number in range(1, 10):
        base = opened.root
        root = msgspec.structs.replace(
            base, epoch=opened.epoch, number=number, token=opened.token, ends=False, reason="attach"
        )
        await store.put(form.root_key(root.volume, root.epoch, root.number), form.pack_root(root))
        keys = [item.key for item in await everything(store, f"v/{root.volume}/root/")]
        between = [
            key
            for key in keys
            if form.root_key(base.volume, base.epoch, base.number)
            < key
            < form.root_key(root.volume, root.epoch, 0)
        ]
        if not between:
            opened.root = root
            return opened
        newer = await judged(store, between[-1], partial(form.unpack_root, key=between[-1]))
        again = await load(reader, newer, leaves_limit, live=True)
        if again.token != opened.token:
            raise ConflictError(f"{root.volume} is being attached elsewhere.")
        opened = again
    raise CorruptError(f"Roots of older writers of {opened.root.volume} keep coming.")


def new_token() -> bytes:
    """Return what nobody else has."""
    return secrets.token_bytes(16)
