"""Volumes in a store that the catalog does not know: what taking one over would mean, and doing it."""

import re
from uuid import NAMESPACE_URL, UUID, uuid5

from breezeblock.backends.contract import Adopted, Placement, Snapshot, Volume
from breezeblock.backends.rest_reports import published, reference
from breezeblock.errors import ConflictError, InvalidInputError, NotFoundError
from breezeblock.objects.log import opening, volumes
from breezeblock.objects.stores.port import Store

_UUID = re.compile(r"(volume-)?([0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12})", re.ASCII)


def find(text: str) -> str:
    """Return the volume that a reference names. Raises NotFoundError."""
    found = _UUID.fullmatch(text)
    if not found:
        raise NotFoundError(
            f"{text[:80]!a} is no volume of an object store.",
            remedy="Write volume-UUID, as the inventory has it.",
        )
    return UUID(found[2]).hex


async def examine(store: Store, volume: Volume, text: str) -> Adopted:
    """Say what adopting would do. Raises NotFoundError, ConflictError, InvalidInputError, CorruptError."""
    there, own = find(text), UUID(volume.id).hex
    if not await published(store, there):
        raise NotFoundError(f"Pool {volume.pool} has no volume {there}.")
    root = await volumes.frozen(store, await opening.newest(store, there))
    check_length(volume, there, root.length)
    names = await volumes.snapshots(store, there)
    if there != own and names:
        raise ConflictError(
            f"Volume {there} has snapshots, which stay with its own name.",
            remedy=f"Manage it as {reference(str(UUID(there)))}, or delete them first.",
        )
    held = [(await volumes.held(store, there, name), name) for name in names]
    return Adopted(
        volume=Placement(locator=own, format="raw"),
        virtual_bytes=root.length,
        snapshots=tuple(
            Snapshot(id=snapshot_id(name), volume_id=volume.id, virtual_bytes=one.length, locator=name)
            for one, name in sorted(held, key=lambda pair: (pair[0].last, pair[1]))
        ),
        edits=() if there == own else (f"Let volume {there} be called {own} from now on.",),
    )


async def adopt(store: Store, volume: Volume, text: str, hold: str) -> Adopted:
    """Give a volume its new name: a root under it that shares all, and the old roots go."""
    there, own = find(text), UUID(volume.id).hex
    if there != own and await published(store, own):
        await volumes.delete(store, there)  # an attempt before this one came so far
        return await examine(store, volume, own)
    found = await examine(store, volume, text)
    if there != own:
        await volumes.clone_now(store, there, hold, own)
        await volumes.delete(store, there)
    return found


def check_length(volume: Volume, there: str, length: int) -> None:
    """Raise InvalidInputError if a volume has not as many bytes as were asked for."""
    if volume.virtual_bytes and volume.virtual_bytes != length:
        raise InvalidInputError(
            f"Volume {there} has {length} bytes, not {volume.virtual_bytes}.",
            remedy="Take it over as it is, then extend it.",
        )


def snapshot_id(name: str) -> str:
    """Return the id of a snapshot that somebody gave any name to."""
    try:
        return str(UUID(name))
    except ValueError:
        return str(uuid5(NAMESPACE_URL, f"breezeblock:snapshot:{name}"))
