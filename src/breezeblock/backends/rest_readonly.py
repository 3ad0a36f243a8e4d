"""Pools that are only read: each object is a raw image that somebody else keeps, on any HTTP server.

A volume is an object and what it was when it was managed (its locator): one that was changed
since is an error that names it, never other content. Nothing is ever written or removed there.
"""

from collections.abc import Iterator
from typing import Any

from breezeblock.backends.contract import Adopted, Finding, Found, Placement, Snapshot, Volume
from breezeblock.backends.rest_adopting import check_length
from breezeblock.errors import ConflictError, InvalidInputError, NotFoundError, UnsupportedError
from breezeblock.images import inspection
from breezeblock.objects.flat import pinned
from breezeblock.objects.stores.port import Item, Store, everything, is_key

SECTOR = 512
MAX_BYTES = 1 << 50


async def refuse(*_asked: Any) -> None:
    """Stand for whatever would write. Raises UnsupportedError."""
    raise refused("It")


def refused(pool: str) -> UnsupportedError:
    """Return the error of who would write into a pool."""
    return UnsupportedError(
        f"{pool} is read-only: its volumes are objects that are there already.",
        remedy="Manage one of them, or clone its volume into another pool.",
    )


async def published(store: Store, volume: str) -> bool:
    """Tell that a volume is what it was. Raises ConflictError if not."""
    await pinned.check(store, pinned.unpacked(volume))
    return True


async def length(_store: Store, volume: str) -> int:
    """Return how many bytes a volume has."""
    return pinned.unpacked(volume).length


async def listed(store: Store) -> list[str]:
    """Return the objects there are. Raises UnsupportedError where the server does not list."""
    return [item.key for item in await everything(store, "")]


async def examine(store: Store, volume: Volume, text: str) -> Adopted:
    """Say what a volume of an object would be.

    Raises NotFoundError, InvalidInputError for what is no raw image, UnsupportedError for a server that
    ignores ranges, or tells nothing by which a change could be seen.
    """
    if not is_key(text):
        raise NotFoundError(
            f"{text[:80]!a} is no name of an object.", remedy="Write it as the inventory has it."
        )
    pin = await pinned.prove(store, text)
    if not pin.length or pin.length % SECTOR or pin.length > MAX_BYTES:
        raise InvalidInputError(
            f"The object {text} has {pin.length} bytes; a device has a multiple of {SECTOR}, "
            f"up to {MAX_BYTES}.",
            remedy="Pad it with zeros, on its server.",
        )
    if volume.format != "raw":
        await _look_raw(store, pin)
    check_length(volume, text, pin.length)
    return Adopted(volume=Placement(locator=pinned.packed(pin), format="raw"), virtual_bytes=pin.length)


async def _look_raw(store: Store, pin: Item) -> None:
    """Raise InvalidInputError for what begins, or ends, like an image of another format.

    Its bytes would be the device's all the same: no format is ever read here.
    """
    head = await store.get(pin.key, 0, SECTOR)
    seems = inspection.seems(head, await store.get(pin.key, pin.length - SECTOR, SECTOR))
    if seems:
        raise InvalidInputError(
            f"The object {pin.key} begins like {seems}; a volume has the bytes of its object as they are.",
            remedy="Convert it to raw, on its server. If the disk has these bytes, say the format: raw.",
        )


async def check(store: Store, volume: str, asked: Volume, _known: tuple[Snapshot, ...]) -> list[Finding]:
    """Look whether the object is what it was."""
    try:
        await pinned.check(store, pinned.unpacked(volume))
    except ConflictError as error:
        return [Finding(subject=asked.id, problem=error.message, remedy=error.remedy)]
    return []


def inventory(pool: str, items: list[Item]) -> Iterator[Found]:
    """Tell what objects there are. They are nobody's: one may be managed by several, as it never changes."""
    for item in items:
        held = max(0, item.length)
        yield Found(pool=pool, name=item.key, volume_id=None, kind="offered", allocated_bytes=held)


async def items(store: Store, images: list[str]) -> list[Item]:
    """Return the objects that may be managed: those of the configuration, or all that the server lists."""
    if not images:
        return await everything(store, "")
    return [Item(name, -1) for name in images]


async def look(pool: str, store: Store, images: list[str]) -> list[Finding]:
    """Prove a pool by its first object, without reading it. Raises UnsupportedError with the finding."""
    findings = []
    for name in images or [item.key for item in (await store.page("")).items[:1]]:
        try:
            await pinned.prove(store, name)
            break
        except NotFoundError:
            problem = "The configuration names it, and it is not there."
            remedy = "Take it out of the pool's images, or put it back."
            subject = f"pool {pool}, object {name}"
            findings.append(Finding(subject=subject, problem=problem, remedy=remedy, severity="warning"))
    return findings
