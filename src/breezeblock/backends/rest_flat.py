"""The layout flat for the back end: a volume is one object, and its name is its key.

Where the service itself writes, it holds the volume's lock under a name of its own. One that a killed verb
left behind is no obstacle to the next verb, for the engine lets one at a time work on a volume.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from uuid import UUID

from breezeblock.backends.contract import Adopted, Finding, Found, Placement, Snapshot, Volume
from breezeblock.backends.rest_adopting import check_length, find, snapshot_id
from breezeblock.backends.rest_data import SERVICE
from breezeblock.backends.rest_reports import drafted, end_draft, gone, reference, short, strays
from breezeblock.errors import NotFoundError, UnsupportedError
from breezeblock.objects.flat import lock, snapshots, volumes
from breezeblock.objects.stores.port import Item, Store

_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)


async def published(store: Store, volume: str) -> bool:
    """Tell whether a volume is there, and whole."""
    try:
        found = await length(store, volume)
    except NotFoundError:
        return False
    return bool(found) and not await drafted(store, volume)


async def length(store: Store, volume: str) -> int:
    """Return how many bytes a volume has; 0 if making it was cut off. Raises NotFoundError."""
    return (await store.head(snapshots.key(volume))).length


async def begin(store: Store, volume: str, virtual_bytes: int) -> None:
    """Make a volume anew that an operation is to fill: nothing of an earlier attempt shines through."""
    await _unlock(store, volume)
    await volumes.delete(store, volume)
    await volumes.create(store, volume, virtual_bytes)


async def extend(store: Store, volume: str, virtual_bytes: int) -> None:
    """Make a volume longer. Raises ConflictError while a host has it."""
    await _unlock(store, volume)
    await volumes.extend(store, volume, virtual_bytes)


async def remove(store: Store, volume: str) -> None:
    """Remove a volume's snapshots, then the volume, the mark of a maker last.

    Raises ConflictError while a host has it.
    """
    await _unlock(store, volume)
    await volumes.check_free(store, volume)
    for name in await snapshots.names(store, volume):
        await snapshots.delete(store, volume, name)
    await volumes.delete(store, volume)
    await end_draft(store, volume)


async def _unlock(store: Store, volume: str) -> None:
    found = await lock.read(store, volumes.lock_key(volume))
    if found and found.holder == SERVICE:
        await volumes.unlock(store, volume)


async def check(store: Store, volume: str, asked: Volume, known: tuple[Snapshot, ...]) -> list[Finding]:
    """Compare a volume with what the catalog believes. Content has no checksums to look at."""
    if not await published(store, volume):
        return [gone(volume, asked)]
    held = set(await snapshots.names(store, volume))
    findings = strays({one.locator or one.id: one for one in known}, held)
    return findings + short(asked.id, await length(store, volume), asked.virtual_bytes)


async def examine(store: Store, volume: Volume, text: str) -> Adopted:
    """Say what adopting means, for which nothing is to be done: a volume is taken as it is.

    Raises NotFoundError, InvalidInputError, ConflictError while a host has it, and UnsupportedError for
    another name: objects cannot be renamed, and adopting copies no data.
    """
    there, own = find(text), UUID(volume.id).hex
    if not await published(store, there):
        raise NotFoundError(f"Pool {volume.pool} has no volume {there}.")
    if there != own:
        raise UnsupportedError(
            f"Volume {there} would have to be copied to be called {own}.",
            remedy=f"Manage it as {reference(str(UUID(there)))}.",
        )
    await volumes.check_free(store, there)
    found = await length(store, there)
    check_length(volume, there, found)
    held = [(await snapshots.held(store, there, name), name) for name in await snapshots.names(store, there)]
    return Adopted(
        volume=Placement(locator=own, format="raw"),
        virtual_bytes=found,
        snapshots=tuple(
            Snapshot(id=snapshot_id(name), volume_id=volume.id, virtual_bytes=one.length, locator=name)
            for one, name in sorted(held, key=lambda pair: (pair[0].moment, pair[1]))
        ),
    )


def inventory(pool: str, items: list[Item]) -> Iterator[Found]:
    """Tell what objects are, a volume or snapshot at a time."""
    objects: dict[str, Item] = {}
    makers: dict[str, list[str]] = defaultdict(list)
    for item in items:
        match item.key.split("/"):
            case ["flat", volume] if _ID.fullmatch(volume):
                objects[volume] = item
            case ["draft", volume, operation] if _ID.fullmatch(volume):
                makers[volume].append(operation)
            case ["snap", volume, name] if _ID.fullmatch(volume):
                shown = f"{reference(str(UUID(volume)))}@{name}"
                yield Found(
                    pool=pool,
                    name=shown,
                    volume_id=str(UUID(volume)),
                    kind="snapshot",
                    snapshot_id=name,
                )
            case ["lock", volume] if _ID.fullmatch(volume):
                yield Found(pool=pool, name=item.key, volume_id=str(UUID(volume)), kind="metadata")
            case ["pool" | "scratch" | "name", *_]:
                pass
            case _:
                yield Found(pool=pool, name=item.key, volume_id=None, kind="foreign")
    for volume in objects.keys() | makers.keys():
        held = max(0, objects[volume].length) if volume in objects else 0
        yield Found(
            pool=pool,
            name=".".join([reference(str(UUID(volume))), *makers[volume]]),
            volume_id=str(UUID(volume)),
            kind="temporary" if makers[volume] else "volume",
            allocated_bytes=held,
        )


async def forget(found: Found, store: Store) -> None:
    """Remove a volume that was being made."""
    await remove(store, UUID(found.name.removeprefix("volume-").partition(".")[0]).hex)
