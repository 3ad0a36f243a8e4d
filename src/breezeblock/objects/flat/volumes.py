"""Volumes in the layout *flat*: every verb can be killed anywhere and run again."""

import contextlib

from breezeblock.errors import ConflictError, NotFoundError
from breezeblock.objects.flat import lock, pinned, snapshots
from breezeblock.objects.flat.device import FlatDevice, stretch
from breezeblock.objects.flat.image import ImageDevice
from breezeblock.objects.flat.lock import Lock
from breezeblock.objects.flat.snapshots import key
from breezeblock.objects.log.volumes import check
from breezeblock.objects.stores.port import ExistsError, Leases, Sized, Store, everything


async def create(store: Store, volume: str, length: int) -> None:
    """Make a volume of zeros; done if it is there with that length. Raises ConflictError if with another.

    An object without bytes is one that an earlier attempt did not come to make longer.
    """
    check(volume, length)
    with contextlib.suppress(ExistsError):
        if isinstance(store, Sized) and store.traits.fixed_length:
            await store.resize(key(volume), length, create=True)
        else:
            await store.put(key(volume), b"", create=True)
    there = (await store.head(key(volume))).length
    if there not in {0, length}:
        raise ConflictError(f"The store has a volume {volume} of {there} bytes.")
    await stretch(store, key(volume), length)


async def extend(store: Store, volume: str, length: int) -> None:
    """Make a volume that nobody has attached longer; done if it is long enough."""
    check(volume, length)
    await check_free(store, volume)
    await stretch(store, key(volume), length)


async def delete(store: Store, volume: str) -> None:
    """Remove a volume; absent counts as success. Raises ConflictError if it is attached, or has snapshots."""
    await check_free(store, volume)
    names = await snapshots.names(store, volume)
    if names:
        raise ConflictError(f"{volume} has snapshots: {', '.join(names[:5])}.", remedy="Delete them first.")
    await store.delete(key(volume))


async def volumes(store: Store) -> list[str]:
    """Return the volumes that the store has."""
    return [item.key.rpartition("/")[2] for item in await everything(store, "flat/")]


async def attach(store: Store, volume: str, holder: str, *, steal: bool = False) -> FlatDevice:
    """Open a volume for writing, as `holder`: the name of a host, which gets it again after a crash.

    Raises NotFoundError, ConflictError if another host has it. With `steal` its lock is broken: it stops
    within seconds if it lives, but what it sent before may still arrive.
    """
    await store.head(key(volume))  # what is not there is not locked
    held = Lock(store, lock_key(volume), holder, key(volume))
    await held.take(steal=steal)
    return FlatDevice(store, key(volume), (await store.head(key(volume))).length, held)


async def attach_image(store: Store, name: str, *, cache_bytes: int = 64 << 20) -> ImageDevice:
    """Open an object for reading; it must not change meanwhile. Raises NotFoundError."""
    return await pinned.attach(store, await store.head(name), cache_bytes=cache_bytes)


async def unlock(store: Store, volume: str) -> None:
    """Take away the lock of a host that is dead for certain."""
    if isinstance(store, Leases):
        with contextlib.suppress(NotFoundError):
            await store.acquire(key(volume), steal=True)
            await store.release(key(volume))
    await store.delete(lock_key(volume))


async def check_free(store: Store, volume: str) -> None:
    """Raise ConflictError if somebody has the volume."""
    found = await lock.read(store, lock_key(volume))
    if found:
        raise ConflictError(
            f"Volume {volume} is attached by {found.holder} since {found.since}.",
            remedy="Detach it there. If that host is dead for certain: attach with --steal, and detach.",
        )


def lock_key(volume: str) -> str:
    """Return where it is written who has a volume."""
    return f"lock/{volume}"
