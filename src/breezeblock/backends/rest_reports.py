"""What is known of volumes in a store by listing it: findings, and the inventory's entries."""

from collections import defaultdict
from collections.abc import Iterator
from uuid import UUID

from breezeblock.backends.contract import Finding, Found, Placement, Snapshot, Volume
from breezeblock.backends.rest_data import HOLDING
from breezeblock.errors import BreezeblockError, ConflictError, CorruptError, NotFoundError
from breezeblock.objects.log import format as form
from breezeblock.objects.log import opening, volumes
from breezeblock.objects.stores.port import Item, Store, everything

LINKING = "clone-"
"""How the names begin of holds that last until a linked clone is there."""
_HOLDS = (LINKING, HOLDING)
_DELETE = "Delete it."


def draft_key(volume: str, operation: str = "") -> str:
    """Return the key of the mark that says that an operation makes a volume: only that may use it.

    It lies apart: a collection takes what lies beside a volume's roots for something that holds.
    """
    return f"draft/{volume}/{operation}"


async def drafted(store: Store, volume: str) -> bool:
    """Tell whether an operation is making a volume."""
    return bool((await store.page(draft_key(volume))).items)


async def end_draft(store: Store, volume: str) -> None:
    """Take the mark of a maker away; none = done."""
    for mark in await everything(store, draft_key(volume)):
        await store.delete(mark.key)


async def publish(store: Store, volume: str, operation: str) -> None:
    """Let everybody see a volume that an operation made. Raises ConflictError if it was swept meanwhile."""
    try:
        await store.head(draft_key(volume, operation))
    except NotFoundError:
        raise ConflictError(
            f"Volume {volume} was removed while it was made.",
            remedy="Does another service use this pool? It takes work that it does not know for left over.",
        ) from None
    await end_draft(store, volume)


async def published(store: Store, volume: str) -> bool:
    """Tell whether a volume is there, and whole."""
    if not (await store.page(f"v/{volume}/root/")).items:
        return False
    return not await drafted(store, volume)


async def length(store: Store, volume: str) -> int:
    """Return how many bytes a volume has, as far as it has arrived. Raises NotFoundError."""
    return (await _now(store, volume)).length


async def begin(store: Store, volume: str, virtual_bytes: int) -> None:
    """Make a volume that an operation is to fill; done if an earlier attempt did."""
    if not (await store.page(f"v/{volume}/root/")).items:
        await volumes.create(store, volume, virtual_bytes)


async def check(store: Store, volume: str, asked: Volume, snapshots: tuple[Snapshot, ...]) -> list[Finding]:
    """Compare a volume with what the catalog believes; see that all that its map names is there."""
    if not await published(store, volume):
        return [gone(volume, asked)]
    held = set(await volumes.snapshots(store, volume))
    wanted = {one.locator or one.id: one for one in snapshots}
    findings = strays(wanted, held)
    there: dict[str, set[str]] = {}
    findings += await _examine(store, asked.id, await _root(store, volume, ""), asked.virtual_bytes, there)
    for name in sorted(wanted.keys() & held):
        root = await _root(store, volume, name)
        findings += await _examine(store, wanted[name].id, root, wanted[name].virtual_bytes, there)
    return findings


def gone(volume: str, asked: Volume) -> Finding:
    """Return the finding about a volume that is not there."""
    problem = f"The store has no volume {volume}."
    return Finding(subject=asked.id, problem=problem, remedy="Delete the volume.")


def strays(wanted: dict[str, Snapshot], held: set[str]) -> list[Finding]:
    """Return findings about snapshots that only the catalog has, by name, or only the store."""
    missing = [
        Finding(subject=wanted[name].id, problem="It is not in the store.", remedy=_DELETE)
        for name in sorted(wanted.keys() - held)
    ]
    unknown = [
        Finding(subject=name, problem="Not in the catalog.", remedy=_DELETE)
        for name in sorted(held - wanted.keys())
    ]
    return missing + unknown


def short(subject: str, there: int, wanted: int) -> list[Finding]:
    """Return a finding if a volume or snapshot has fewer bytes than it should."""
    if there >= wanted:
        return []
    return [Finding(subject=subject, problem=f"It has {there} bytes, not {wanted}.", remedy="Extend it.")]


async def _root(store: Store, volume: str, name: str) -> form.Root | BreezeblockError:
    try:
        return await (volumes.held(store, volume, name) if name else _now(store, volume))
    except (NotFoundError, CorruptError) as error:
        return error


async def _now(store: Store, volume: str) -> form.Root:
    return await volumes.frozen(store, await opening.newest(store, volume))


async def _examine(
    store: Store,
    subject: str,
    root: form.Root | BreezeblockError,
    virtual_bytes: int,
    there: dict[str, set[str]],
) -> list[Finding]:
    """Look at one root: its length, and whether its leaves and tails are there."""
    if isinstance(root, BreezeblockError):
        return [Finding(subject=subject, problem=root.message, remedy=root.remedy or _DELETE)]
    for source in root.sources:
        if source not in there:
            listed = [await everything(store, f"v/{source}/{part}/") for part in ("seg", "leaf")]
            there[source] = {item.key for items in listed for item in items}
    names = root.sources
    needed = [(names[source], form.leaf_key(names[source], ref)) for source, ref in root.leaves.values()]
    needed += [
        (names[source], form.segment_key(names[source], first))
        for source, first, end in root.tails
        if first < end
    ]
    missing = [key for source, key in needed if key not in there[source]]
    findings = []
    if missing:
        problem = f"{len(missing)} objects of it are gone, such as {missing[0]}."
        remedy = "Ask the store for an earlier version of them; else revert, or delete it."
        findings.append(Finding(subject=subject, problem=problem, remedy=remedy))
    return findings + short(subject, root.length, virtual_bytes)


def reference(volume_id: str) -> str:
    """Return what a volume is called in the inventory."""
    return f"volume-{volume_id}"


def inventory(pool: str, items: list[Item]) -> Iterator[Found]:
    """Tell what objects are, a volume or snapshot at a time."""
    found: dict[str, list[Item]] = defaultdict(list)
    makers: dict[str, list[str]] = defaultdict(list)
    for item in items:
        parts = item.key.split("/")
        if parts[0] == "v" and len(parts) > 3 and form.is_volume(parts[1]):
            found[parts[1]].append(item)
        elif parts[0] == "draft" and len(parts) == 3 and form.is_volume(parts[1]):
            makers[parts[1]].append(parts[2])
        elif parts[0] not in {"pool", "scratch", "gc", "name"}:
            yield Found(pool=pool, name=item.key, volume_id=None, kind="foreign")
    for name in found.keys() | makers.keys():
        yield from _volume(pool, name, found[name], makers[name])


def _volume(pool: str, name: str, items: list[Item], makers: list[str]) -> Iterator[Found]:
    parts = {item.key.split("/")[2] for item in items}
    volume_id = str(UUID(name))
    shown = ".".join([reference(volume_id), *makers])
    held = sum(max(0, item.length) for item in items)
    if makers:
        yield Found(pool=pool, name=shown, volume_id=volume_id, kind="temporary", allocated_bytes=held)
    elif "root" in parts:
        yield Found(pool=pool, name=shown, volume_id=volume_id, kind="volume", allocated_bytes=held)
    else:  # deleted: what is left is shared, or goes with the next collections, and needs nobody's care
        yield Found(pool=pool, name=shown, volume_id=None, kind="kept", allocated_bytes=held)
    for item in items:
        part, _, rest = item.key.split("/", 2)[2].partition("/")
        if part == "snap" or (part == "new" and rest.startswith(_HOLDS)):
            yield Found(
                pool=pool,
                name=f"{reference(volume_id)}@{rest}",
                volume_id=volume_id,
                kind="snapshot" if part == "snap" else "temporary",
                snapshot_id=rest if part == "snap" else None,
                allocated_bytes=max(0, item.length),
            )


async def forget(found: Found, store: Store) -> None:
    """Remove temporary work: a volume that was being made, or a hold."""
    name, _, hold = found.name.partition("@")
    volume = UUID(name.removeprefix("volume-").partition(".")[0]).hex
    await (volumes.end_hold(store, volume, hold) if hold else remove(store, volume))


async def remove(store: Store, volume: str) -> None:
    """Remove a volume's snapshots, then its roots, the mark of a maker last; clones keep what they share."""
    for snapshot in await volumes.snapshots(store, volume):
        await volumes.delete_snapshot(store, volume, snapshot)
    await volumes.delete(store, volume)
    await end_draft(store, volume)


def key_of(volume: Volume) -> str:
    """Return what a volume is called in its store."""
    return volume.locator or UUID(volume.id).hex


def name_of(snapshot: Snapshot) -> str:
    """Return what a snapshot is called there."""
    return snapshot.locator or snapshot.id


def placement_of(volume: Volume) -> Placement:
    """Return what must be remembered of a volume."""
    return Placement(locator=key_of(volume), format="raw")
