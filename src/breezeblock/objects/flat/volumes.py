"""Volumes in the layout *flat*: every verb can be killed anywhere and run again."""

import contextlib

from breezeblock.errors import ConflictError
from breezeblock.objects.flat import lock
from breezeblock.objects.flat.device import FlatDevice, stretch
from breezeblock.objects.flat.image import ImageDevice
from breezeblock.objects.flat.lock import Lock
from breezeblock.objects.log.volumes import check
from breezeblock.objects.stores.port import ExistsError, Sized, Store, everything


async def create(store: Store, volume: str, length: int) -> None:
    """Make a volume of zeros; done if it is there with that length. Raises ConflictError if with another.

    An object without bytes is one that an earlier attempt did not come to make longer.
    """
    check(volume, length)
    with contextlib.suppress(ExistsError):
        if isinstance(store, Sized) and store.traits.fixed_length:
            await store.resize(_key(volume), length, create=True)
        else:
            await store.put(_key(volume), b"", create=True)
    there = (await store.head(_key(volume))).length
    if there not in {0, length}:
        raise ConflictError(f"The store has a volume {volume} of {there} bytes.")
    await stretch(store, _key(volume), length)


async def extend(store: Store, volume: str, length: int) -> None:
    """Make a volume that nobody has attached longer; done if it is long enough."""
    check(volume, length)
    await _free(store, volume)
    await stretch(store, _key(volume), length)


async def delete(store: Store, volume: str) -> None:
    """Remove a volume; absent counts as success. Raises ConflictError if somebody has it attached."""
    await _free(store, volume)
    await store.delete(_key(volume))


async def volumes(store: Store) -> list[str]:
    """Return the volumes that the store has."""
    return [item.key.rpartition("/")[2] for item in await everything(store, "flat/")]


async def attach(store: Store, volume: str, holder: str, *, steal: bool = False) -> FlatDevice:
    """Open a volume for writing, as `holder`: the name of a host, which gets it again after a crash.

    Raises NotFoundError, ConflictError if another host has it. With `steal` its lock is broken: it stops
    within seconds if it lives, but what it sent before may still arrive.
    """
    length = (await store.head(_key(volume))).length
    held = Lock(store, _lock(volume), holder)
    await held.take(steal=steal)
    return FlatDevice(store, _key(volume), length, held)


async def attach_image(store: Store, key: str, *, cache_bytes: int = 64 << 20) -> ImageDevice:
    """Open an object for reading; it must not change meanwhile. Raises NotFoundError."""
    return ImageDevice(store, await store.head(key), cache_bytes=cache_bytes)


async def unlock(store: Store, volume: str) -> None:
    """Take away the lock of a host that is dead for certain."""
    await store.delete(_lock(volume))


async def _free(store: Store, volume: str) -> None:
    found = await lock.read(store, _lock(volume))
    if found:
        raise ConflictError(
            f"Volume {volume} is attached by {found.holder} since {found.since}.", remedy="Detach it first."
        )


def _key(volume: str) -> str:
    return f"flat/{volume}"


def _lock(volume: str) -> str:
    return f"lock/{volume}"
