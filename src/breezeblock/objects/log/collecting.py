"""Giving room back: what no volume and no snapshot names any more is removed from the store.

Roots and snapshots are *holders*. What a holder names, and what its leaves name, lives; so does what its
volume's writer has stored since, or is storing. Everything else is nobody's.

Nothing is removed by the first collection that finds it so. It notes what it found under the next number,
and a later one removes of that what is nobody's still. No clock is asked: whoever makes a holder from
another (a snapshot, a clone, an attached volume) looks, when the new one is there, whether the old one
still is, and does not report success otherwise. So at every moment one of the two is there; a listing, which
takes time, can miss both, but a second listing of all holders shows that something moved, and then nothing is
removed. To be fooled all the same, something would have to change hands in each of four listings. The second
comes a moment after the first (`format.STILL_S`): whoever was quicker than that has nothing to look at again.

A collection can be killed anywhere and run again, beside others and beside everything else.
"""

import asyncio
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import NamedTuple

import msgspec

from breezeblock.errors import ConflictError, CorruptError, NotFoundError
from breezeblock.objects.log import format as form
from breezeblock.objects.log.together import each
from breezeblock.objects.stores.port import ExistsError, Item, Store, everything, judged

AT_ONCE = 16
"""Requests under way."""
SPARSE = 0.25
"""Segments with less of their pages alive are worth rewriting."""
MAX_ASKED = 1 << 12
"""Lengths of segments that are asked for one by one, where listings do not tell them."""
MAX_REMOVED = 1 << 18
"""Objects that one collection removes: it holds their names in memory."""
MAX_NOTED = 1 << 19
"""Of each kind, that it notes for the next one: more than that removes, and less than a mark may have."""
_NAMES = {
    "seg": re.compile(r"[0-9a-f]{12}"),
    "leaf": re.compile(r"[0-9a-f]{16}"),
    "root": re.compile(r"[0-9a-f]{12}-[0-9a-f]{8}"),
}
"""As `format` writes them."""
_MARK = re.compile(r"gc/[0-9a-f]{12}")


class Found(msgspec.Struct):
    """What is nobody's in one volume."""

    segments: list[int] = []
    leaves: list[int] = []
    roots: list[str] = []

    def __len__(self) -> int:
        return len(self.segments) + len(self.leaves) + len(self.roots)


class Mark(msgspec.Struct):
    """What a collection found."""

    dead: dict[str, Found] = {}
    fences: dict[str, list[int]] = {}
    """Fences that an older writer may still come to, as it never said that it had ended."""


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """What a collection did."""

    number: int
    removed: int
    """Objects."""
    removed_bytes: int
    waiting: int
    """Objects that the next collection removes if they are nobody's still."""
    live_bytes: int
    """At least, where the store's listings tell no lengths."""
    sparse: dict[str, list[int]]
    """Of each volume, its segments with few pages alive that only it holds: for `compacting.compact`."""


class _Volume:
    """What the store has of one volume, as listed."""

    def __init__(self) -> None:
        self.segments: dict[int, int] = {}
        """Numbers, and bytes."""
        self.leaves: dict[int, int] = {}
        self.roots: list[Item] = []
        self.holders: list[str] = []
        """The newest root and all snapshots."""


class _Held(NamedTuple):
    """What holders name, by volume."""

    leaves: dict[str, set[int]]
    segments: dict[str, Counter[int]]
    """How many pages."""
    ranges: dict[str, list[range]]
    """Segments that are all kept, whatever is in them."""
    shared: dict[str, set[int]]
    """Segments that somebody else than their own volume, as it is now, names."""
    newest: dict[str, form.Root]


async def collect(store: Store) -> Collected:
    """Remove what was nobody's the last time and is now; note what is now.

    Raises CorruptError if a volume's map is not whole, for then nothing is known, and ConflictError if
    another collection was faster.
    """
    number, mark = await _last_mark(store)
    volumes = await _list(store)
    held = await _held(store, volumes)
    dead, fences = {}, {}
    for name, volume in volumes.items():
        known = set(mark.fences.get(name, ()))
        dead[name], fences[name] = await _dead(store, name, volume, held, known)
    due = {name: _both(found, mark.dead.get(name, Found())) for name, found in dead.items()}
    keys = [key for name, found in due.items() for key in _keys(name, found)][:MAX_REMOVED]
    lengths = _lengths(volumes)
    if keys:
        await asyncio.gather(_measure(store, lengths, keys), asyncio.sleep(form.STILL_S))
        keys = [] if await _moved(store, volumes) else keys
    await each((store.delete(key) for key in keys), AT_ONCE)
    noted = Mark(_some(dead, MAX_NOTED), {name: found for name, found in fences.items() if found})
    try:
        body = zlib.compress(msgspec.msgpack.encode(noted))
        await store.put(_mark_key(number + 1), body, create=True)
    except ExistsError:
        raise ConflictError(f"Another collection was number {number + 1}.") from None
    await store.delete(_mark_key(number))
    sparse = await _sparse(store, held, lengths)
    removed = sum(lengths[key] for key in keys)
    for name, found in dead.items():
        for key in _keys(name, found):
            del lengths[key]
    return Collected(
        number=number + 1,
        removed=len(keys),
        removed_bytes=removed,
        waiting=sum(map(len, dead.values())) - len(keys),
        live_bytes=sum(max(0, length) for length in lengths.values()),
        sparse=sparse,
    )


# --- what there is -------------------------------------------------------------------------------


async def _list(store: Store) -> dict[str, _Volume]:
    found: defaultdict[str, _Volume] = defaultdict(_Volume)
    for item in await everything(store, "v/"):
        parts = item.key.split("/", 3)
        if len(parts) < 4 or not form.is_volume(parts[1]):
            continue  # a stranger's object: it holds nothing, and is not ours to remove
        _, name, part, rest = parts
        if part in _NAMES and not _NAMES[part].fullmatch(rest):
            continue
        volume = found[name]
        if part == "seg":
            volume.segments[int(rest, 16)] = item.length
        elif part == "leaf":
            volume.leaves[int(rest, 16)] = item.length
        elif part == "root":
            volume.roots.append(item)
        else:
            volume.holders.append(item.key)
    for volume in found.values():
        if volume.roots:
            volume.holders.append(volume.roots.pop().key)
    return dict(found)


async def _moved(store: Store, volumes: dict[str, _Volume]) -> bool:
    """Say whether any holder came or went since they were listed."""
    again = await _list(store)
    return {key for volume in again.values() for key in volume.holders} != {
        key for volume in volumes.values() for key in volume.holders
    }


def _lengths(volumes: dict[str, _Volume]) -> dict[str, int]:
    found = {item.key: item.length for volume in volumes.values() for item in volume.roots}
    for name, volume in volumes.items():
        found |= {form.segment_key(name, number): length for number, length in volume.segments.items()}
        found |= {form.leaf_key(name, ref): length for ref, length in volume.leaves.items()}
    return found


async def _measure(store: Store, lengths: dict[str, int], keys: Iterable[str]) -> None:
    """Ask for lengths that a listing did not tell; what has gone has none."""

    async def one(key: str) -> None:
        try:
            lengths[key] = (await store.head(key)).length
        except NotFoundError:
            lengths[key] = 0

    await each((one(key) for key in keys if lengths[key] < 0), AT_ONCE)


# --- what lives ----------------------------------------------------------------------------------


async def _held(store: Store, volumes: dict[str, _Volume]) -> _Held:
    held = _Held(defaultdict(set), defaultdict(Counter), defaultdict(list), defaultdict(set), {})
    leaves: dict[tuple[str, int], tuple[form.Root, set[str]]] = {}
    for name, volume in volumes.items():
        for key in volume.holders:
            try:
                root = await judged(store, key, partial(form.unpack_root, key=key))
            except NotFoundError:
                continue  # deleted meanwhile; whatever it named was not noted before
            now = "/root/" in key
            if now:
                held.newest[name] = root
                held.ranges[name].append(range(root.next, 1 << 36))
            for source, first, end in root.tails:
                held.ranges[root.sources[source]].append(range(first, end))
            for source, ref in root.leaves.values():
                owner = root.sources[source]
                held.leaves[owner].add(ref)
                leaves.setdefault((owner, ref), (root, set()))[1].add(name if now else "")
    async for root, users, counts in _counted(store, leaves):
        for (source, number), pages in counts.items():
            owner = root.sources[source]
            held.segments[owner][number] += pages
            if users != {owner}:
                held.shared[owner].add(number)
    return held


async def _counted(
    store: Store, leaves: dict[tuple[str, int], tuple[form.Root, set[str]]]
) -> AsyncIterator[tuple[form.Root, set[str], Counter[tuple[int, int]]]]:
    """Read leaves, some at a time; count the pages that each has in each segment."""
    every = list(leaves.items())
    for at in range(0, len(every), AT_ONCE):
        some = every[at : at + AT_ONCE]
        read = await asyncio.gather(*(_leaf(store, form.leaf_key(*name)) for name, _ in some))
        for (_, (root, users)), counts in zip(some, read, strict=True):
            yield root, users, counts


async def _leaf(store: Store, key: str) -> Counter[tuple[int, int]]:
    try:
        entries = await judged(store, key, partial(form.unpack_leaf, key=key))
    except NotFoundError:
        raise CorruptError(
            f"{key} is named and not there. Nothing was removed.",
            remedy="Find the volume whose map is broken; delete it, or restore the object.",
        ) from None
    return await asyncio.to_thread(form.pages_by_segment, entries)


# --- what does not -------------------------------------------------------------------------------


async def _dead(
    store: Store, name: str, volume: _Volume, held: _Held, fences: set[int]
) -> tuple[Found, list[int]]:
    """Return what is nobody's in a volume, and its old fences."""
    used, ranges = held.segments[name], held.ranges[name]
    segments = [n for n in sorted(volume.segments) if n not in used and not any(n in one for one in ranges)]
    leaves = sorted(volume.leaves.keys() - held.leaves[name])
    newest = held.newest.get(name)
    if newest is None:
        if any("/root/" in key for key in volume.holders):
            return Found(), sorted(fences)  # it went, or was replaced, while we looked
        return Found(segments, leaves, [item.key for item in volume.roots]), []
    small = [n for n in segments if volume.segments[n] <= form.HEAD_BYTES and n not in fences]

    async def look(number: int) -> None:
        if await _stops(store, name, number):
            fences.add(number)

    await each((look(number) for number in small), AT_ONCE)
    # A writer stores leaves before the root that names them, and numbers them upwards.
    last = max(
        (ref for source, ref in newest.leaves.values() if source == newest.own), default=newest.epoch << 24
    )
    return (
        Found(
            [n for n in segments if n not in fences],
            [ref for ref in leaves if ref <= last],
            [item.key for item in volume.roots],
        ),
        sorted(fences & volume.segments.keys()),
    )


async def _stops(store: Store, volume: str, number: int) -> bool:
    """Tell whether a segment is a fence, and not known to stop nobody."""
    key = form.segment_key(volume, number)
    try:
        head = await judged(
            store, key, lambda data: form.unpack(data, volume, number), length=form.HEAD_BYTES
        )
    except NotFoundError:
        return False
    return head.fence and not head.follows


async def _sparse(store: Store, held: _Held, lengths: dict[str, int]) -> dict[str, list[int]]:
    def few(name: str, unknown: int) -> list[int]:
        found = []
        for number, pages in sorted(held.segments[name].items()):
            length = lengths.get(form.segment_key(name, number), 0)
            most = unknown if length < 0 else length - form.HEAD_BYTES
            if pages * form.PAGE >= SPARSE * most or number in held.shared[name]:
                continue
            if not any(number in one for one in held.ranges[name]):
                found.append(number)
        return found

    seen = {name: few(name, form.SEGMENT_PAGES * form.PAGE) for name in held.newest}
    keys = [form.segment_key(name, number) for name, numbers in seen.items() for number in numbers]
    await _measure(store, lengths, keys[:MAX_ASKED])
    return {name: numbers for name in held.newest if (numbers := few(name, 0))}


def _some(dead: dict[str, Found], most: int) -> dict[str, Found]:
    """Return so many of each kind, and of each volume that has any."""
    found = {}
    segments = leaves = roots = most
    for name, one in dead.items():
        found[name] = Found(one.segments[:segments], one.leaves[:leaves], one.roots[:roots])
        segments -= len(found[name].segments)
        leaves -= len(found[name].leaves)
        roots -= len(found[name].roots)
    return {name: one for name, one in found.items() if one}


def _both(found: Found, before: Found) -> Found:
    return Found(
        sorted(set(found.segments) & set(before.segments)),
        sorted(set(found.leaves) & set(before.leaves)),
        sorted(set(found.roots) & set(before.roots)),
    )


def _keys(name: str, found: Found) -> list[str]:
    return [
        *found.roots,
        *(form.leaf_key(name, ref) for ref in found.leaves),
        *(form.segment_key(name, number) for number in found.segments),
    ]


# --- marks ---------------------------------------------------------------------------------------


def _mark_key(number: int) -> str:
    return f"gc/{number:012x}"


async def _last_mark(store: Store) -> tuple[int, Mark]:
    """Return the newest mark and its number; 0 if there is none."""
    keys = [item.key for item in await everything(store, "gc/") if _MARK.fullmatch(item.key)]
    if not keys:
        return 0, Mark()
    key = keys[-1]
    unpacker = zlib.decompressobj()
    try:
        body = unpacker.decompress(await store.get(key), form.MAX_MARK_BYTES)
        return int(key.rpartition("/")[2], 16), msgspec.msgpack.decode(body, type=Mark)
    except NotFoundError:
        raise ConflictError("Another collection is running.") from None
    except (zlib.error, msgspec.DecodeError) as error:
        raise form.damaged(key) from error
