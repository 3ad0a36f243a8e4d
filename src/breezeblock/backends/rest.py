"""The `rest` back end: volumes in object stores, in the layout *log*, each store a pool.

A volume's snapshots and linked clones are one small object each. Whatever takes longer (a full copy, an
image) is made under a mark (`rest_reports.draft_key`), and taking the mark away publishes it; a verb that
finds its own volume marked begins the copy anew. What nobody needs any more goes with the collection.

A volume that a process of this host serves is asked of that process, so that what it has not sent off yet
is not left out. A volume in use on another host is what has arrived of it.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from breezeblock.attempt import Attempt
from breezeblock.backends import drafts, rest_data
from breezeblock.backends import rest_adopting as adopting
from breezeblock.backends import rest_reports as reports
from breezeblock.backends.contract import (
    Adopted,
    Capabilities,
    Connection,
    Data,
    Finding,
    Found,
    Placement,
    Pool,
    Snapped,
    Snapshot,
    Volume,
)
from breezeblock.backends.copying import copy_data
from breezeblock.backends.rest_collecting import Collector
from breezeblock.backends.rest_config import RestConfig
from breezeblock.backends.rest_pools import Pools
from breezeblock.backends.unable import Unable
from breezeblock.errors import (
    BreezeblockError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    UnsupportedError,
)
from breezeblock.images.raw import check_cancelled
from breezeblock.objects import serving
from breezeblock.objects.log import volumes
from breezeblock.objects.log.format import PAGE
from breezeblock.objects.nbd.client import Place
from breezeblock.objects.serving.messages import lock_path
from breezeblock.objects.stores.port import Store, everything

MAX_BYTES = 1 << 50
OPTIONS = {"clone": ("linked", "full"), "durability": ("local", "store")}


class RestBackend(Unable):
    """Volumes in object stores. There is nothing to repair: objects are never changed in place."""

    def __init__(self, name: str, config: RestConfig, state_dir: Path) -> None:
        self.name = name
        self._config = config
        self._pools = Pools(name, config, state_dir)
        self._collector = Collector(name, self._pools)

    def start(self) -> None:
        """Begin to collect. Stores are opened by each verb, and a pool is made at its first use."""
        self._collector.start()

    def stop(self) -> None:
        """Collect no more. What serves volumes goes on."""
        self._collector.stop()

    def collect(self) -> None:
        """Look through every pool now."""
        for pool in self._config.pools:
            self._collector.collect(pool)

    def capabilities(self) -> Capabilities:
        """Say what it can do."""
        return Capabilities(
            storage_protocol="nbd",
            extend=True,
            snapshots=True,
            online_snapshots=True,
            revert="any",
            clone=True,
            create_from_snapshot=True,
            adopt=True,
            images=True,
            data=True,
            max_virtual_bytes=MAX_BYTES,
            options=OPTIONS,
        )

    def stats(self) -> list[Pool]:
        """Open every store, and ask for its room where it tells."""
        return self._pools.describe()

    def create(self, volume: Volume, attempt: Attempt) -> Placement:
        """Put the first root."""
        self._check(volume)

        async def work(store: Store) -> None:
            if not await reports.published(store, _key(volume)):
                check_cancelled(attempt)
                await volumes.create(store, _key(volume), volume.virtual_bytes)

        self._pools.run(volume.pool, work)
        return _placement(volume)

    def delete(self, volume: Volume, attempt: Attempt) -> None:
        """Remove snapshots, then roots, the mark of a maker last; clones keep what they share."""
        self._idle(volume)
        self._pools.run(volume.pool, lambda store: reports.remove(store, _key(volume)))

    def extend(self, volume: Volume, virtual_bytes: int, attempt: Attempt) -> Placement:
        """Say in a new segment that it is longer."""
        _check_bytes(virtual_bytes)
        if not self._asked(volume, serving.Grow(virtual_bytes)):
            self._on(volume, lambda store: volumes.extend(store, _key(volume), virtual_bytes))
        return _placement(volume)

    def snapshot(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Snapped:
        """Put the volume's map as it is under the snapshot's name."""
        check_cancelled(attempt)
        if not self._asked(volume, serving.Snapshot(_name(snapshot))):
            self._on(volume, lambda store: volumes.snapshot_detached(store, _key(volume), _name(snapshot)))
        return Snapped(volume=_placement(volume), locator=_name(snapshot))

    def delete_snapshot(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Placement:
        """Remove its one object; what only it held goes with the collection."""
        self._on(volume, lambda store: volumes.delete_snapshot(store, _key(volume), _name(snapshot)))
        return _placement(volume)

    def revert(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Placement:
        """Put a root that says what the snapshot says."""
        check_cancelled(attempt)
        self._idle(volume)
        self._on(volume, lambda store: volumes.revert(store, _key(volume), _name(snapshot)))
        return _placement(volume)

    def clone(self, source: Volume, volume: Volume, attempt: Attempt) -> Placement:
        """Put a root that names the source's map, or copy it in full."""
        return self._derive(source, None, volume, attempt)

    def create_from_snapshot(
        self, source: Volume, snapshot: Snapshot, volume: Volume, attempt: Attempt
    ) -> Placement:
        """Put a root that names the snapshot's map, or copy it in full."""
        return self._derive(source, snapshot, volume, attempt)

    def import_image(self, volume: Volume, path: str, image_format: str, attempt: Attempt) -> Placement:
        """Write an image that our own code read onto a new volume."""
        self._check(volume)
        drafts.check(Path(path), image_format, volume)
        self._fill(volume, attempt, lambda data: rest_data.load(Path(path), image_format, data, attempt))
        return _placement(volume)

    def export_image(
        self, volume: Volume, snapshot: Snapshot | None, path: str, image_format: str, attempt: Attempt
    ) -> None:
        """Read a volume into an image."""
        with self.open_data(volume, snapshot) as data:
            rest_data.save(data, Path(path), image_format, attempt)

    def examine(self, volume: Volume, reference: str) -> Adopted:
        """Look at a volume that was made elsewhere, or that was released."""
        return self._pools.run(volume.pool, lambda store: adopting.examine(store, volume, reference))

    def adopt(self, volume: Volume, reference: str, attempt: Attempt) -> Adopted:
        """Let it have the volume's name; no data is touched."""
        self._idle(msgspec.structs.replace(volume, locator=adopting.find(reference)))
        hold = f"{reports.LINKING}{attempt.operation_id}"
        return self._pools.run(volume.pool, lambda store: adopting.adopt(store, volume, reference, hold))

    def release(self, volume: Volume, attempt: Attempt) -> str:
        """Leave it as it is."""
        self._idle(volume)
        self._on(volume, _nothing)
        return reports.reference(str(UUID(_key(volume))))

    def flatten(self, volume: Volume, attempt: Attempt) -> Placement:
        """Refuse: a volume may be deleted whatever was cloned from it; clone it in full to part them."""
        raise UnsupportedError(f"Back end {self.name} shares objects, not fates: nothing is to be flattened.")

    def shorten(self, volume: Volume, attempt: Attempt) -> Placement:
        """Refuse: there are no layers."""
        raise UnsupportedError(f"Back end {self.name} has no layers, so nothing to shorten.")

    def open_data(
        self, volume: Volume, snapshot: Snapshot | None = None, *, writable: bool = False
    ) -> AbstractContextManager[Data]:
        """Open a device on the volume, or on the snapshot."""
        if snapshot and writable:
            raise InvalidInputError(f"Snapshot {snapshot.id} cannot be opened for writing.")
        if writable:
            self._idle(volume)
        elif not snapshot:
            self._asked(volume, serving.Flush())
        self._on(volume, _nothing)
        config = self._pools.made(volume.pool)
        return rest_data.opened(config, _key(volume), _name(snapshot) if snapshot else "", writable=writable)

    def connection_info(self, volume: Volume, connector: Mapping[str, Any]) -> Connection:
        """Say which socket a host's own process serves the volume on. Nothing in it is secret."""
        self._on(volume, _nothing)
        key = _key(volume)
        asked = self._config.pools[volume.pool].durability
        data = {
            "volume_id": volume.id,
            "uri": str(Place(str(self._socket(volume)), key)),
            "export": key,
            "backend": self.name,
            "pool": volume.pool,
            "pool_uuid": self._pools.uuid(volume.pool),
            "durability": volume.options.get("durability", asked),
            "discard": True,
        }
        return Connection(driver_volume_type="nbd", data=data)

    def disconnect(self, volume: Volume, connector: Mapping[str, Any]) -> None:
        """Do nothing: what serves the volume is the host's own, and ends when it detaches."""

    def check(self, volume: Volume, snapshots: tuple[Snapshot, ...]) -> list[Finding]:
        """Compare the store with what the catalog believes."""
        return self._pools.run(
            volume.pool, lambda store: reports.check(store, _key(volume), volume, snapshots)
        )

    def inventory(self) -> Iterator[Found]:
        """List every pool that answers."""
        for pool in self._config.pools:
            try:
                items = self._pools.run(pool, lambda store: everything(store, ""))
            except BreezeblockError:
                continue  # `stats` says why it is down
            yield from reports.inventory(pool, items)

    def sweep(self, live_operations: frozenset[str]) -> list[str]:
        """Remove volumes that were being made, and holds, of operations that are over."""
        swept = []
        for found in [one for one in self.inventory() if one.kind == "temporary"]:
            if not any(one in found.name for one in live_operations):
                self._pools.run(found.pool, partial(reports.forget, found=found))
                swept.append(found.name)
        return swept

    # --- parts of verbs -------------------------------------------------------------------------

    def _socket(self, volume: Volume) -> Path:
        return Path(self._config.run_dir, _key(volume))

    def _asked(self, volume: Volume, request: serving.Request) -> bool:
        """Ask the process of this host that serves a volume; False if there is none that we may ask."""
        socket = self._socket(volume)
        if not os.access(lock_path(socket), os.R_OK | os.W_OK):
            return False
        try:
            serving.call(socket, request)
        except NotFoundError:
            return False
        return True

    def _idle(self, volume: Volume) -> None:
        """Raise ConflictError if a process of this host serves the volume."""
        if self._asked(volume, serving.Status()):
            raise ConflictError(
                f"Volume {volume.id} is attached to this host.", remedy="Detach it: breezeblock detach."
            )

    def _on(self, volume: Volume, work: Callable[[Store], Any]) -> None:
        """Do something with a volume that is there. Raises NotFoundError."""

        async def look(store: Store) -> None:
            if not await reports.published(store, _key(volume)):
                raise NotFoundError(
                    f"Pool {volume.pool} has no volume {_key(volume)}.", remedy="Delete the volume."
                )
            await work(store)

        self._pools.run(volume.pool, look)

    def _derive(
        self, source: Volume, snapshot: Snapshot | None, volume: Volume, attempt: Attempt
    ) -> Placement:
        self._check(volume)
        held = snapshot.virtual_bytes if snapshot else source.virtual_bytes
        if volume.virtual_bytes < held:
            raise InvalidInputError(
                f"Volume {volume.id} of {volume.virtual_bytes} bytes is smaller than its source "
                f"of {held} bytes."
            )
        name = _name(snapshot) if snapshot else ""
        if not snapshot:
            self._asked(source, serving.Flush())
        how = volume.options.get("clone", self._config.pools[volume.pool].clone)
        if how == "linked" and source.pool == volume.pool:
            self._link(source, name, volume, attempt)
        else:

            def copy(target: Data) -> None:
                with self.open_data(source, snapshot) as data:
                    copy_data(data, target, attempt)

            self._fill(volume, attempt, copy)
        return _placement(volume)

    def _link(self, source: Volume, name: str, volume: Volume, attempt: Attempt) -> None:
        there, key, hold = _key(source), _key(volume), f"{reports.LINKING}{attempt.operation_id}"

        async def work(store: Store) -> None:
            if await reports.published(store, key):
                await volumes.end_hold(store, there, hold)
                return
            check_cancelled(attempt)
            if name:
                await volumes.clone(store, there, name, key, volume.virtual_bytes)
            else:
                await volumes.clone_now(store, there, hold, key, volume.virtual_bytes)

        self._pools.run(volume.pool, work)

    def _fill(self, volume: Volume, attempt: Attempt, write: Callable[[Data], None]) -> None:
        """Make a volume with content, which is there whole or not at all."""
        key = _key(volume)

        async def begin(store: Store) -> bool:
            if await reports.published(store, key):
                return False
            check_cancelled(attempt)
            await store.put(reports.draft_key(key, attempt.operation_id), b"")
            if not (await store.page(f"v/{key}/root/")).items:
                await volumes.create(store, key, volume.virtual_bytes)
            return True

        async def publish(store: Store) -> None:
            for mark in await everything(store, reports.draft_key(key)):
                await store.delete(mark.key)

        if self._pools.run(volume.pool, begin):
            with rest_data.opened(self._pools.made(volume.pool), key, writable=True) as data:
                write(data)
                check_cancelled(attempt)
            self._pools.run(volume.pool, publish)

    def _check(self, volume: Volume) -> None:
        """Raise InvalidInputError for a volume that cannot be made."""
        for option, value in volume.options.items():
            if value not in OPTIONS.get(option, ()):
                raise InvalidInputError(f"Back end {self.name} has no option {option} = {value!r}.")
        _check_bytes(volume.virtual_bytes)
        self._pools.store(volume.pool)


def open_rest(name: str, config: RestConfig, state_dir: Path) -> RestBackend:
    """Return the back end, not started."""
    return RestBackend(name, config, state_dir)


def _check_bytes(virtual_bytes: int) -> None:
    if virtual_bytes <= 0 or virtual_bytes % PAGE or virtual_bytes > MAX_BYTES:
        raise InvalidInputError(
            f"A volume of {virtual_bytes} bytes cannot be made; "
            f"allowed are multiples of {PAGE} up to {MAX_BYTES}."
        )


async def _nothing(_store: Store) -> None:
    """See that the volume is there, no more."""


def _key(volume: Volume) -> str:
    return volume.locator or UUID(volume.id).hex


def _name(snapshot: Snapshot) -> str:
    return snapshot.locator or snapshot.id


def _placement(volume: Volume) -> Placement:
    return Placement(locator=_key(volume), format="raw")
