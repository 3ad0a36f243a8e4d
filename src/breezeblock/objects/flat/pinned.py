"""Objects that somebody else keeps and we only read: each is known by what it was when it was first seen.

A volume of half one image and half another is worse than none. So what an object was is pinned: whatever
reads it looks whether it is so still, at each answer that tells what it is from (`get_same`) too.
"""

from functools import partial

import msgspec

from breezeblock.errors import ConflictError, CorruptError, NotFoundError, UnavailableError, UnsupportedError
from breezeblock.objects.flat.image import ImageDevice, Source
from breezeblock.objects.stores.port import Item, Store, get_same, same


def packed(pin: Item) -> str:
    """Return what an object was as text, to be kept."""
    return msgspec.json.encode(pin).decode()


def unpacked(text: str) -> Item:
    """Return what was kept. Raises CorruptError."""
    try:
        return msgspec.json.decode(text, type=Item)
    except msgspec.DecodeError:
        raise CorruptError(f"{text[:80]!a} does not say which object is meant, and as of when.") from None


async def prove(store: Store, name: str) -> Item:
    """Return what an object is now, once it is sure that it can be read in parts and that changes would show.

    Raises NotFoundError, UnsupportedError with the finding.
    """
    found = await store.head(name)
    if not (found.tag or found.modified):
        raise UnsupportedError(
            f"{name}: the server tells neither a strong ETag nor Last-Modified: a change could not be seen.",
            remedy="Let the server tell one of them.",
        )
    if found.length:
        last = await get_same(store, found, found.length - 1, 1)  # UnsupportedError where ranges are ignored
        if len(last) != 1:
            raise UnavailableError(f"{name} ended before the {found.length} bytes that it should have.")
    return found


async def check(store: Store, pin: Item) -> None:
    """Raise ConflictError, which names it, if an object is not what it was, or is gone."""
    try:
        now = await store.head(pin.key)
    except NotFoundError:
        raise ConflictError(
            f"The object {pin.key} is gone.", remedy="Put it back as it was, or unmanage its volume."
        ) from None
    if not same(pin, now):
        raise ConflictError(
            f"The object {pin.key} was changed: it was {_described(pin)}, and is {_described(now)}.",
            remedy="Put it back as it was; or unmanage its volume, and manage the object anew.",
        )


async def attach(store: Store, pin: Item, *, cache_bytes: int = 64 << 20) -> ImageDevice:
    """Open an object for reading, if it is what it was. Raises ConflictError."""
    await check(store, pin)
    source = Source(pin.key, pin.length, partial(get_same, store, pin), partial(check, store, pin))
    return ImageDevice(source, cache_bytes=cache_bytes)


def _described(pin: Item) -> str:
    return f"{pin.length} bytes, {pin.tag or 'no tag'}, of {pin.modified or 'no date'}"
