"""Volumes and snapshots in the layout *log*: every verb can be killed anywhere and run again.

A snapshot and a clone are one small object each, whatever the volume's length.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from breezeblock.errors import ConflictError, InvalidInputError, NotFoundError, UnsupportedError
from breezeblock.objects.log import format as form
from breezeblock.objects.log import opening
from breezeblock.objects.log.device import LogDevice
from breezeblock.objects.log.journal import Journal, Record
from breezeblock.objects.log.reading import Reader
from breezeblock.objects.log.writer import Writer
from breezeblock.objects.stores.port import ExistsError, Store, everything, judged

_T = TypeVar("_T")
_SNAPSHOT = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,99}", re.ASCII)


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What an open volume may use, and how it uses it."""

    cache_bytes: int = 64 << 20
    leaves: int = 48
    """Parts of the map, of 2 MiB each."""
    dirty_segments: int = 16
    """Full segments of 4 MiB that may wait for the store before writers do."""
    age_s: float = 5.0
    """After so many seconds what was written goes to the store, however little."""
    ahead_bytes: int = 16 << 20
    """So much is fetched at most before it is asked for, where reads follow each other."""
    zstd_level: int = 0
    """Segments are compressed, from 1 to 19; 0: not at all."""


async def create(store: Store, volume: str, length: int) -> None:
    """Make a volume of zeros; done if it is there with that length. Raises ConflictError if with another."""
    check(volume, length)
    root = form.Root(
        volume=volume,
        epoch=0,
        number=0,
        length=length,
        sources=[volume],
        own=0,
        leaves={},
        tails=[],
        next=0,
        reason="create",
    )
    await _begin(store, root)


async def clone(store: Store, source: str, snapshot: str, volume: str, length: int = 0) -> None:
    """Make a volume that begins as a snapshot of another one, at least as long. One small put.

    Raises NotFoundError if there is no such snapshot, or it was deleted meanwhile: then delete the volume.
    """
    root = _derived(await held(store, source, snapshot), volume, length)
    await _in_sight(_begin(store, root), lambda: held(store, source, snapshot))


async def clone_now(store: Store, source: str, hold: str, volume: str, length: int = 0) -> None:
    """Make a volume that begins as what has arrived of another one by now, at least as long.

    The other one has a hold of that name meanwhile, which stays if this is killed.
    """
    root = _derived(await take_hold(store, source, hold), volume, length)
    await _in_sight(_begin(store, root), lambda: store.head(form.tentative_key(source, hold)))
    await end_hold(store, source, hold)


async def _in_sight(making: Coroutine[Any, Any, None], look: Callable[[], Awaitable[_T]]) -> _T:
    """Make a holder of what another one holds; return what a look at that one shows, or raise what it raises.

    If the other one is still there when the new one is, a collection has never found both of them missing.
    One that is asked for together with the put was there when that began, which is as good if it was quick.
    """
    began = time.clock_gettime(time.CLOCK_BOOTTIME)  # goes on while the host sleeps
    putting = asyncio.ensure_future(making)
    try:
        seen = await look()
    finally:
        await putting
    quick = time.clock_gettime(time.CLOCK_BOOTTIME) - began < form.STILL_S / 2
    return seen if quick else await look()


def _derived(begin: form.Root, volume: str, length: int) -> form.Root:
    check(volume, max(length, begin.length))
    if len(begin.sources) >= form.MAX_SOURCES:
        raise UnsupportedError(
            f"{volume} would have more than {form.MAX_SOURCES} ancestors.", remedy="Copy it instead."
        )
    return msgspec.structs.replace(
        begin,
        volume=volume,
        epoch=0,
        number=0,
        length=max(length, begin.length),
        sources=[*begin.sources, volume],
        own=len(begin.sources),
        next=0,
        token=bytes(16),
        reason=f"clone of {begin.volume}, {begin.reason}",
    )


async def _begin(store: Store, root: form.Root) -> None:
    try:
        await store.put(form.root_key(root.volume, 0, 0), form.pack_root(root), create=True)
    except ExistsError:
        key = form.root_key(root.volume, 0, 0)
        if await judged(store, key, partial(form.unpack_root, key=key)) != root:
            raise ConflictError(f"The store has another volume {root.volume}.") from None


async def attach(
    store: Store,
    volume: str,
    journal: Path | None = None,
    memory: Memory | None = None,
    *,
    discard: bool = False,
    resume: bool = False,
    at_rest: bool = False,
    durability: Literal["local", "store"] = "local",
) -> LogDevice:
    """Open a volume for writing; whoever had it before is fenced off.

    Raises ConflictError if the journal holds writes and another host had the volume since, unless
    `discard` gives them up; with `resume` also if it holds none, so that nobody else is fenced off; with
    `at_rest` if anybody has it.
    """
    memory = memory or Memory()
    reader = Reader(store, memory.cache_bytes)
    root = await opening.newest(store, volume)
    opened = await opening.load(reader, root, memory.leaves, live=True)
    token = opening.new_token()
    local = Journal(journal, volume, token) if journal else None
    try:
        records = await _kept(local, opened.token, volume, discard=discard, resume=resume) if local else []
        # The journal is locked by us: who wrote it lives no more.
        dead = local is not None and opened.token in local.tokens
        await opening.claim(store, reader, opened, token, dead=dead, at_rest=at_rest)
        opened = await opening.settle(store, reader, opened, memory.leaves)
        writer = Writer(store, opened, zstd_level=memory.zstd_level)
        device = LogDevice(
            writer,
            reader,
            local,
            dirty_segments=memory.dirty_segments,
            ahead_bytes=memory.ahead_bytes,
            to_store=durability == "store",
        )
        if local:
            local.stored = lambda: writer.stored
        try:
            await device.replay(records)
        except BaseException:
            await writer.stop()
            raise
    except BaseException:
        if local:
            local.abandon()
        raise
    device.keep_young(memory.age_s)
    writer.fetcher.warm()
    return device


async def _kept(journal: Journal, token: bytes, volume: str, *, discard: bool, resume: bool) -> list[Record]:
    """Open the journal; return what it holds if nobody had the volume since."""
    kept = await asyncio.to_thread(journal.open)
    if token in kept.tokens:
        return kept.records
    if (kept.records or resume) and not discard:
        raise ConflictError(
            f"The journal holds {len(kept.records)} writes to {volume}, which was in use elsewhere since.",
            remedy="Look which of the two is right; to give up what is here: detach --discard.",
        )
    await asyncio.to_thread(journal.forget)
    return []


async def snapshot(device: LogDevice, name: str) -> None:
    """Hold an attached volume as it is now; what was written before is in it. One small put."""
    _check_name(name)
    await device.writer.hold(form.snapshot_key(device.writer.volume, name), f"snapshot {name}")


async def snapshot_detached(store: Store, volume: str, name: str) -> None:
    """Hold a volume that nobody has attached. Nothing is claimed: what arrived by now is what is held."""
    _check_name(name)
    if name in await snapshots(store, volume):
        return
    root = msgspec.structs.replace(await take_hold(store, volume, name), reason=f"snapshot {name}")
    with contextlib.suppress(ExistsError):
        await store.put(form.snapshot_key(volume, name), form.pack_root(root), create=True)
    await end_hold(store, volume, name)


async def take_hold(store: Store, volume: str, name: str) -> form.Root:
    """Keep what has arrived of a volume by now from collections, and return it as a root of its own."""
    while True:
        root = await opening.newest(store, volume)
        now = await frozen(store, root, name)
        putting = store.put(form.tentative_key(volume, name), form.pack_root(now))
        # From now on a collection keeps what it names; until now, if the root is still the newest.
        newest = await _in_sight(putting, lambda: opening.newest_key(store, volume))
        if newest == form.root_key(root.volume, root.epoch, root.number):
            return now


async def end_hold(store: Store, volume: str, name: str) -> None:
    """End a hold; none = done."""
    await store.delete(form.tentative_key(volume, name))


async def frozen(store: Store, root: form.Root, reason: str = "") -> form.Root:
    """Return a volume's newest root with what has arrived since. Nothing is claimed."""
    opened = await opening.load(Reader(store, 1 << 20), root, 4096, live=True)
    tails = list(root.tails)
    if opened.next > root.next:
        tails.append((root.own, root.next, opened.next))
    return msgspec.structs.replace(
        root, tails=tails, length=opened.length, last=opened.last, reason=reason or root.reason
    )


async def view(store: Store, root: form.Root, memory: Memory | None = None) -> LogDevice:
    """Open a snapshot, or what is held, for reading. Nobody is fenced off."""
    memory = memory or Memory()
    reader = Reader(store, memory.cache_bytes)
    opened = await opening.load(reader, root, memory.leaves, live=False)
    device = LogDevice(Writer(store, opened), reader, ahead_bytes=memory.ahead_bytes)
    device.read_only = True
    return device


async def snapshots(store: Store, volume: str) -> list[str]:
    """Return the names of a volume's snapshots."""
    return [item.key.rpartition("/")[2] for item in await everything(store, f"v/{volume}/snap/")]


async def delete_snapshot(store: Store, volume: str, name: str) -> None:
    """Forget a snapshot; what only it held goes with the next collection."""
    _check_name(name)
    await store.delete(form.tentative_key(volume, name))
    await store.delete(form.snapshot_key(volume, name))


async def revert(store: Store, volume: str, name: str) -> None:
    """Let a volume that nobody has attached read as its snapshot; it keeps its length.

    Whoever had it is fenced off.
    """
    old = await held(store, volume, name)
    reader = Reader(store, 1 << 20)
    opened = await opening.load(reader, await opening.newest(store, volume), 4096, live=True)
    await opening.claim(store, reader, opened, opening.new_token(), brief=True)
    root = msgspec.structs.replace(
        old,
        epoch=opened.epoch,
        number=1,
        length=max(opened.length, old.length),
        next=opened.next,
        ends=True,
        reason=f"revert to {name}",
        last=opened.last,
        token=opened.token,
    )
    await store.put(form.root_key(volume, root.epoch, root.number), form.pack_root(root))
    await held(store, volume, name)


async def extend(store: Store, volume: str, length: int) -> None:
    """Make a volume that nobody has attached longer; done if it is long enough."""
    check(volume, length)
    reader = Reader(store, 1 << 20)
    opened = await opening.load(reader, await opening.newest(store, volume), 4096, live=True)
    if length > opened.length:
        opened.length = length
        await opening.claim(store, reader, opened, opening.new_token(), brief=True)


async def check_at_rest(store: Store, volume: str) -> None:
    """Raise ConflictError if a host has the volume, or was lost with it; a volume that is gone is at rest."""
    try:
        root = await opening.newest(store, volume)
    except NotFoundError:
        return
    opened = await opening.load(Reader(store, 1 << 20), root, 4096, live=True)
    if not opened.ended:
        raise ConflictError(
            f"Volume {volume} is attached elsewhere, or its host was lost with it.",
            remedy="Detach it there. If that host is lost for certain: attach it here, and detach.",
        )


async def delete(store: Store, volume: str) -> None:
    """Remove a volume; clones keep what they share. Raises ConflictError if it has snapshots."""
    names = await snapshots(store, volume)
    if names:
        raise ConflictError(f"{volume} has snapshots: {', '.join(names[:5])}.", remedy="Delete them first.")
    # Roots name what a collection keeps. Without them the rest is nobody's and goes with the next one.
    # The newest goes last: whatever is left after a crash is the volume, or nothing.
    for part in ("new", "root"):
        for item in await everything(store, f"v/{volume}/{part}/"):
            await store.delete(item.key)


async def volumes(store: Store) -> list[str]:
    """Return the volumes that the store has."""
    return sorted(
        {
            key.split("/")[1]
            for key in [item.key for item in await everything(store, "v/")]
            if "/root/" in key and form.is_volume(key.split("/")[1])
        }
    )


async def held(store: Store, volume: str, name: str) -> form.Root:
    """Return a snapshot. Raises NotFoundError, CorruptError."""
    _check_name(name)
    key = form.snapshot_key(volume, name)
    try:
        return await judged(store, key, lambda data: form.unpack_root(data, key))
    except NotFoundError:
        raise NotFoundError(f"{volume} has no snapshot {name}.") from None


def check(volume: str, length: int) -> None:
    """Raise InvalidInputError for what is no name, or no length in bytes, of a volume."""
    if not form.is_volume(volume):
        raise InvalidInputError(f"{volume!r} is no volume: 32 hexadecimal digits.")
    if length <= 0 or length % form.PAGE or length > 1 << 50:
        raise InvalidInputError(f"{length} bytes: a length is a multiple of 4,096, up to 1 PiB.")


def _check_name(name: str) -> None:
    if not _SNAPSHOT.fullmatch(name):
        raise InvalidInputError(f"{name!r} is no snapshot: letters, digits and '-', up to 100.")
