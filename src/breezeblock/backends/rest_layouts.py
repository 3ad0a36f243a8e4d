"""The layouts of volumes in object stores, as the back end uses them: a table of functions each.

What only the layout log has (linked clones, native revert, collections) is not in the table.
"""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from breezeblock.backends import rest_adopting as adopting
from breezeblock.backends import rest_flat, rest_readonly
from breezeblock.backends import rest_reports as reports
from breezeblock.backends.contract import Adopted, Capabilities, Finding, Found, Snapshot, Volume
from breezeblock.backends.rest_config import RestPool, read_only
from breezeblock.connect.thin import EXTENT
from breezeblock.errors import InvalidInputError, UnsupportedError
from breezeblock.objects.flat import snapshots as flat_snapshots
from breezeblock.objects.flat import volumes as flat_volumes
from breezeblock.objects.log import volumes as log_volumes
from breezeblock.objects.log.format import PAGE
from breezeblock.objects.stores.port import Item, Store

_PAGE_BLOB_BYTES = 8 << 40
_THIN_BYTES = 16 << 40
"""So that there is room for a snapshot or two (`connect.thin.MOST_BYTES`)."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What is done to volumes of a layout. Volumes go by their keys; every function may be run again."""

    published: Callable[[Store, str], Awaitable[bool]]
    length: Callable[[Store, str], Awaitable[int]]
    """Bytes."""
    listed: Callable[[Store], Awaitable[list[str]]]
    create: Callable[[Store, str, int], Awaitable[None]]
    begin: Callable[[Store, str, int], Awaitable[None]]
    """Make a volume that is to be filled, under the mark of its maker."""
    extend: Callable[[Store, str, int], Awaitable[None]]
    remove: Callable[[Store, str], Awaitable[None]]
    snapshot: Callable[[Store, str, str], Awaitable[None]]
    delete_snapshot: Callable[[Store, str, str], Awaitable[None]]
    examine: Callable[[Store, Volume, str], Awaitable[Adopted]]
    adopt: Callable[[Store, Volume, str, str], Awaitable[Adopted]]
    """The last is a name for a hold meanwhile."""
    check: Callable[[Store, str, Volume, tuple[Snapshot, ...]], Awaitable[list[Finding]]]
    inventory: Callable[[str, list[Item]], Iterator[Found]]
    forget: Callable[[Found, Store], Awaitable[None]]


_LAYOUTS = {
    "log": Layout(
        published=reports.published,
        length=reports.length,
        listed=log_volumes.volumes,
        create=log_volumes.create,
        begin=reports.begin,
        extend=log_volumes.extend,
        remove=reports.remove,
        snapshot=log_volumes.snapshot_detached,
        delete_snapshot=log_volumes.delete_snapshot,
        examine=adopting.examine,
        adopt=adopting.adopt,
        check=reports.check,
        inventory=reports.inventory,
        forget=reports.forget,
    ),
    "flat": Layout(
        published=rest_flat.published,
        length=rest_flat.length,
        listed=flat_volumes.volumes,
        create=flat_volumes.create,
        begin=rest_flat.begin,
        extend=rest_flat.extend,
        remove=rest_flat.remove,
        snapshot=flat_snapshots.take,
        delete_snapshot=flat_snapshots.delete,
        examine=rest_flat.examine,
        adopt=lambda store, volume, text, _hold: rest_flat.examine(store, volume, text),
        check=rest_flat.check,
        inventory=rest_flat.inventory,
        forget=rest_flat.forget,
    ),
    "read-only": Layout(
        published=rest_readonly.published,
        length=rest_readonly.length,
        listed=rest_readonly.listed,
        create=rest_readonly.refuse,
        begin=rest_readonly.refuse,
        extend=rest_readonly.refuse,
        remove=rest_readonly.refuse,
        snapshot=rest_readonly.refuse,
        delete_snapshot=rest_readonly.refuse,
        examine=rest_readonly.examine,
        adopt=lambda store, volume, text, _hold: rest_readonly.examine(store, volume, text),
        check=rest_readonly.check,
        inventory=rest_readonly.inventory,
        forget=rest_readonly.refuse,
    ),
}


def of(pool: RestPool) -> Layout:
    """Return what a pool's volumes are made with."""
    return _LAYOUTS[pool.layout]


def need(pool: str, settings: RestPool, *, snapshots: bool = False) -> None:
    """Raise UnsupportedError if a pool cannot be written, or volumes of it have no snapshots."""
    if read_only(settings):
        raise rest_readonly.refused(f"Pool {pool}")
    if snapshots and not capabilities(settings).snapshots:
        raise UnsupportedError(f"Pool {pool} keeps volumes flat, and its store has no snapshots.")


def check_bytes(pool: RestPool, virtual_bytes: int) -> None:
    """Raise InvalidInputError if no volume of a pool can have so many bytes."""
    most, step = capabilities(pool).max_virtual_bytes, EXTENT if pool.thin else PAGE
    if virtual_bytes <= 0 or virtual_bytes % step or virtual_bytes > (most or 0):
        raise InvalidInputError(
            f"A volume of {virtual_bytes} bytes cannot be made; allowed are multiples of {step} up to {most}."
        )


def capabilities(pool: RestPool) -> Capabilities:
    """Say what volumes of a pool can do. A volume type may ask for the layout, as for any capability."""
    is_log, is_flat = pool.layout == "log", pool.layout == "flat"
    snapshots = is_log or (is_flat and (pool.store == "azure" or pool.thin))
    return Capabilities(
        storage_protocol="nbd",
        extend=not read_only(pool),
        read_only=read_only(pool),
        snapshots=snapshots,
        online_snapshots=snapshots and not pool.thin,
        revert="any" if snapshots else "none",
        clone=True,
        create_from_snapshot=snapshots,
        adopt=not pool.thin,
        images=True,
        data=True,
        max_virtual_bytes=_most_bytes(pool),
        options={
            "clone": ("linked", "full") if is_log else ("full",),
            "durability": ("local", "store") if is_log else ("store",),
        },
        facts={"layout": "thin" if pool.thin else pool.layout},
    )


def _most_bytes(pool: RestPool) -> int:
    if pool.thin:
        return _THIN_BYTES
    return _PAGE_BLOB_BYTES if pool.layout == "flat" and pool.store == "azure" else rest_readonly.MAX_BYTES
