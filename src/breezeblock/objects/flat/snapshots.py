"""Snapshots of flat volumes, where the store takes them itself: constant time, whatever the length.

A small object gives each of them its name. It is written after the snapshot was taken: one that was cut off
in between is taken anew, and what is left over of it goes with the volume.
"""

from functools import partial

import msgspec

from breezeblock.errors import CorruptError, NotFoundError, UnsupportedError
from breezeblock.objects.flat.image import ImageDevice, Source
from breezeblock.objects.stores.port import ExistsError, Snapshots, Store, checked, everything


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot."""

    moment: str
    """The store's name for it."""
    length: int
    """Bytes."""


def key(volume: str) -> str:
    """Return where a volume is."""
    return f"flat/{volume}"


async def take(store: Store, volume: str, name: str) -> None:
    """Hold a volume as it is now, attached or not; done if there is one of this name."""
    able, record = _able(store), _record(volume, name)
    length = (await store.head(key(volume))).length
    try:
        await store.head(record)
    except NotFoundError:
        taken = Taken(moment=await able.snapshot(key(volume)), length=length)
        try:
            await store.put(record, msgspec.json.encode(taken), create=True)
        except ExistsError:
            # Somebody else was quicker; or we were, and the answer was lost on a connection that had died.
            if await held(store, volume, name) != taken:
                await able.delete_snapshot(key(volume), taken.moment)


async def names(store: Store, volume: str) -> list[str]:
    """Return the names of a volume's snapshots."""
    if not isinstance(store, Snapshots):
        return []
    return [item.key.rpartition("/")[2] for item in await everything(store, f"snap/{volume}/")]


async def delete(store: Store, volume: str, name: str) -> None:
    """Remove one; absent counts as success."""
    able = _able(store)
    try:
        taken = await held(store, volume, name)
    except NotFoundError:
        return
    await able.delete_snapshot(key(volume), taken.moment)
    await store.delete(_record(volume, name))


async def attach(store: Store, volume: str, name: str, *, cache_bytes: int = 64 << 20) -> ImageDevice:
    """Open one for reading. Raises NotFoundError."""
    able, taken = _able(store), await held(store, volume, name)
    fetch = partial(able.get_snapshot, key(volume), taken.moment)
    return ImageDevice(Source(f"{volume} {name}", taken.length, fetch, _never), cache_bytes=cache_bytes)


async def _never() -> None:
    """Do nothing: a snapshot does not change."""


async def held(store: Store, volume: str, name: str) -> Taken:
    """Return what is known of a snapshot. Raises NotFoundError, CorruptError."""
    try:
        return msgspec.json.decode(await store.get(_record(volume, name)), type=Taken)
    except msgspec.DecodeError as error:
        raise CorruptError(f"The record of the snapshot {name} of {volume} cannot be read.") from error


def _record(volume: str, name: str) -> str:
    return checked(f"snap/{volume}/{name}")


def _able(store: Store) -> Snapshots:
    if isinstance(store, Snapshots):
        return store
    raise UnsupportedError("This store takes no snapshots.", remedy="Use a pool in the layout log.")
