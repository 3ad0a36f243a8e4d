"""Objects that somebody else keeps and we only read: each is known by what it was when it was first seen.

A volume of half one image and half another is worse than none. So what an object was is pinned, and
everything that reads it looks whether it is so still: before, every few seconds, and, for copies, after.
"""

from functools import partial

import msgspec

from breezeblock.errors import ConflictError, CorruptError, NotFoundError, UnavailableError, UnsupportedError
from breezeblock.objects.flat.image import ImageDevice, Source
from breezeblock.objects.stores.port import Item, Store


class Pin(msgspec.Struct, frozen=True, omit_defaults=True):
    """An object as it was."""

    name: str
    """Its key."""
    length: int
    """Bytes."""
    tag: str = ""
    """Its strong entity tag (RFC 9110, 8.8.3); empty: none was told."""
    modified: str = ""
    """Its Last-Modified, as the server wrote it; empty: none was told."""


def of(item: Item) -> Pin:
    """Return what an object is now."""
    return Pin(item.key, item.length, item.tag, item.modified)


def packed(pin: Pin) -> str:
    """Return a pin as text, to be kept."""
    return msgspec.json.encode(pin).decode()


def unpacked(text: str) -> Pin:
    """Return the pin that was kept. Raises CorruptError."""
    try:
        return msgspec.json.decode(text, type=Pin)
    except msgspec.DecodeError:
        raise CorruptError(f"{text[:80]!a} does not say which object is meant, and as of when.") from None


async def prove(store: Store, name: str) -> Pin:
    """Return what an object is now, once it is sure that it can be read in parts and that changes would show.

    Raises NotFoundError, UnsupportedError with the finding.
    """
    found = of(await store.head(name))
    if not (found.tag or found.modified):
        raise UnsupportedError(
            f"{name}: the server tells neither a strong ETag nor Last-Modified: a change could not be seen.",
            remedy="Let the server tell one of them.",
        )
    if found.length:
        last = await store.get(name, found.length - 1, 1)  # UnsupportedError where ranges are ignored
        if len(last) != 1:
            raise UnavailableError(f"{name} ended before the {found.length} bytes that it should have.")
    return found


async def check(store: Store, pin: Pin) -> None:
    """Raise ConflictError, which names it, if an object is not what it was, or is gone."""
    try:
        now = of(await store.head(pin.name))
    except NotFoundError:
        raise ConflictError(
            f"The object {pin.name} is gone.", remedy="Put it back as it was, or unmanage its volume."
        ) from None
    # A server that tells a strong tag only some time after a change (Apache) is not one that lies.
    tagged = pin.tag and now.tag
    told = tagged or (pin.modified and now.modified)
    same = pin.tag == now.tag if tagged else pin.modified == now.modified
    if pin.length != now.length or (told and not same):
        raise ConflictError(
            f"The object {pin.name} was changed: it was {_described(pin)}, and is {_described(now)}.",
            remedy="Put it back as it was; or unmanage its volume, and manage the object anew.",
        )


async def attach(store: Store, pin: Pin, *, cache_bytes: int = 64 << 20) -> ImageDevice:
    """Open an object for reading, if it is what it was. Raises ConflictError."""
    await check(store, pin)
    source = Source(pin.name, pin.length, partial(store.get, pin.name), partial(check, store, pin))
    return ImageDevice(source, cache_bytes=cache_bytes)


def _described(pin: Pin) -> str:
    return f"{pin.length} bytes, {pin.tag or 'no tag'}, of {pin.modified or 'no date'}"
