"""The `rest` back end: volumes in object stores, each store a pool, in the layout *log* or *flat*.

What differs between layouts is in `rest_layouts`. In the layout log, a volume's snapshots and linked clones
are one small object each. In both, whatever takes longer (a full copy, an
image) is made under a mark (`rest_reports.draft_key`), and taking the mark away publishes it; a verb that
finds its own volume marked begins the copy anew. What nobody needs any more goes with the collection.

A volume that a process of this host serves is asked of that process, so that what it has not sent off yet
is not left out. A volume in use on another host is what has arrived of it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from breezeblock.attempt import Attempt
from breezeblock.backends import drafts, rest_data, rest_layouts
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
from breezeblock.backends.copying import copy_back, copy_data
from breezeblock.backends.rest_collecting import Collector
from breezeblock.backends.rest_config import RestConfig, RestPool, durability, find_pool, memory, read_only
from breezeblock.backends.rest_pools import Pools
from breezeblock.backends.rest_reports import key_of, name_of, placement_of
from breezeblock.backends.rest_served import asked
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
from breezeblock.objects.flat.pinned import unpacked
from breezeblock.objects.log import volumes
from breezeblock.objects.nbd.client import Place
from breezeblock.objects.stores.port import Store


class RestBackend(Unable):
    """Volumes in object stores. There is nothing to repair: each change is one object's, or one part's."""

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
        """Say what the ablest of its pools can do; `stats` says it of each."""
        return max(
            map(rest_layouts.capabilities, self._config.pools.values()),
            key=lambda able: (able.facts["layout"] == "log", able.snapshots),
        )

    def stats(self) -> list[Pool]:
        """Open every store, and ask for its room where it tells."""
        return self._pools.describe()

    def create(self, volume: Volume, attempt: Attempt) -> Placement:
        """Put the first root."""
        self.check_new(volume)

        async def work(store: Store) -> None:
            if not await layout.published(store, key_of(volume)):
                check_cancelled(attempt)
                await layout.create(store, key_of(volume), volume.virtual_bytes)

        layout = self._layout(volume)
        self._pools.run(volume.pool, work)
        return placement_of(volume)

    def delete(self, volume: Volume, attempt: Attempt) -> None:
        """Remove snapshots, then the volume, the mark of a maker last; clones keep what they share."""
        self._idle(volume)
        if not self._read_only(volume):
            self._pools.run(volume.pool, lambda store: self._layout(volume).remove(store, key_of(volume)))

    def extend(self, volume: Volume, virtual_bytes: int, attempt: Attempt) -> Placement:
        """Make it longer."""
        self._need(volume)
        rest_layouts.check_bytes(self._settings(volume), virtual_bytes)
        if not self._asked(volume, serving.Grow(virtual_bytes)):
            self._on(volume, lambda store: self._layout(volume).extend(store, key_of(volume), virtual_bytes))
        return placement_of(volume)

    def snapshot(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Snapped:
        """Put the volume's map as it is under the snapshot's name, or let the store take one."""
        self._need(volume, snapshots=True)
        check_cancelled(attempt)
        name = name_of(snapshot)
        if not self._asked(volume, serving.Snapshot(name)):
            self._on(volume, lambda store: self._layout(volume).snapshot(store, key_of(volume), name))
        return Snapped(volume=placement_of(volume), locator=name_of(snapshot))

    def delete_snapshot(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Placement:
        """Remove its one object; what only it held goes with the collection."""
        self._need(volume, snapshots=True)
        name = name_of(snapshot)
        self._on(volume, lambda store: self._layout(volume).delete_snapshot(store, key_of(volume), name))
        return placement_of(volume)

    def revert(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Placement:
        """Put a root that says what the snapshot says, or copy it back."""
        self._need(volume, snapshots=True)
        check_cancelled(attempt)
        self._idle(volume)
        if self._settings(volume).layout != "log":
            copy_back(self, volume, snapshot, attempt)
            return placement_of(volume)
        self._on(volume, lambda store: volumes.revert(store, key_of(volume), name_of(snapshot)))
        return placement_of(volume)

    def clone(self, source: Volume, volume: Volume, attempt: Attempt) -> Placement:
        """Put a root that names the source's map, or copy it in full."""
        return self._derive(source, None, volume, attempt)

    def create_from_snapshot(
        self, source: Volume, snapshot: Snapshot, volume: Volume, attempt: Attempt
    ) -> Placement:
        """Put a root that names the snapshot's map, or copy it in full."""
        self._need(source, snapshots=True)
        return self._derive(source, snapshot, volume, attempt)

    def import_image(self, volume: Volume, path: str, image_format: str, attempt: Attempt) -> Placement:
        """Write an image that our own code read onto a new volume."""
        self.check_new(volume)
        drafts.check(Path(path), image_format, volume)
        self.fill(volume, attempt, lambda data: rest_data.load(Path(path), image_format, data, attempt))
        return placement_of(volume)

    def export_image(
        self, volume: Volume, snapshot: Snapshot | None, path: str, image_format: str, attempt: Attempt
    ) -> None:
        """Read a volume into an image."""
        with self.open_data(volume, snapshot) as data:
            rest_data.save(data, Path(path), image_format, attempt)

    def examine(self, volume: Volume, reference: str) -> Adopted:
        """Look at a volume that was made elsewhere, or that was released."""
        return self._pools.run(
            volume.pool, lambda store: self._layout(volume).examine(store, volume, reference)
        )

    def adopt(self, volume: Volume, reference: str, attempt: Attempt) -> Adopted:
        """Let it have the volume's name; no data is touched."""
        if not self._read_only(volume):  # many may read what nobody writes
            self._idle(msgspec.structs.replace(volume, locator=adopting.find(reference)))
        hold = f"{reports.LINKING}{attempt.operation_id}"
        return self._pools.run(
            volume.pool, lambda store: self._layout(volume).adopt(store, volume, reference, hold)
        )

    def release(self, volume: Volume, attempt: Attempt) -> str:
        """Leave it as it is."""
        self._idle(volume)
        if self._read_only(volume):
            return unpacked(volume.locator).key
        self._on(volume, _nothing)
        return reports.reference(str(UUID(key_of(volume))))

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
            self._need(volume)
            self._idle(volume)
        elif not snapshot:
            self._asked(volume, serving.Flush())
        self._on(volume, _nothing)
        config = self._pools.made(volume.pool)
        name = name_of(snapshot) if snapshot else ""
        room = memory(self._config, volume.pool)
        return rest_data.opened(config, key_of(volume), name, writable=writable, memory=room)

    def connection_info(self, volume: Volume, connector: Mapping[str, Any]) -> Connection:
        """Say which socket a host's own process serves the volume on. Nothing in it is secret."""
        self._on(volume, _nothing)
        export, reading = self._export(volume), self._read_only(volume)
        data = {
            "volume_id": volume.id,
            "uri": str(Place(str(self._socket(volume)), export)),
            "export": export,
            "backend": self.name,
            "pool": volume.pool,
            "pool_uuid": self._pools.uuid(volume.pool),
            "durability": volume.options.get("durability", durability(self._settings(volume))),
            "discard": not reading,
            **({"object": volume.locator, "access_mode": "ro"} if reading else {}),
        }
        return Connection(driver_volume_type="nbd", data=data)

    def disconnect(self, volume: Volume, connector: Mapping[str, Any]) -> None:
        """Do nothing: what serves the volume is the host's own, and ends when it detaches."""

    def check(self, volume: Volume, snapshots: tuple[Snapshot, ...]) -> list[Finding]:
        """Compare the store with what the catalog believes."""
        return self._pools.run(
            volume.pool, lambda store: self._layout(volume).check(store, key_of(volume), volume, snapshots)
        )

    def inventory(self) -> Iterator[Found]:
        """List every pool that answers."""
        for pool, settings in self._config.pools.items():
            try:
                items = self._pools.items(pool)
            except BreezeblockError:
                continue  # `stats` says why it is down
            yield from rest_layouts.of(settings).inventory(pool, items)

    def sweep(self, live_operations: frozenset[str]) -> list[str]:
        """Remove volumes that were being made, and holds, of operations that are over."""
        swept = []
        for found in [one for one in self.inventory() if one.kind == "temporary"]:
            if not any(one in found.name for one in live_operations):
                layout = rest_layouts.of(self._config.pools[found.pool])
                self._pools.run(found.pool, partial(layout.forget, found))
                swept.append(found.name)
        return swept

    # --- parts of verbs -------------------------------------------------------------------------

    def _layout(self, volume: Volume) -> rest_layouts.Layout:
        return rest_layouts.of(self._settings(volume))

    def _settings(self, volume: Volume) -> RestPool:
        return find_pool(self.name, self._config, volume.pool)

    def _need(self, volume: Volume, *, snapshots: bool = False) -> None:
        rest_layouts.need(volume.pool, self._settings(volume), snapshots=snapshots)

    def _read_only(self, volume: Volume) -> bool:
        return read_only(self._settings(volume))

    def _export(self, volume: Volume) -> str:
        return UUID(volume.id).hex if self._read_only(volume) else key_of(volume)

    def _socket(self, volume: Volume) -> Path:
        return Path(self._config.run_dir, self._export(volume))

    def _asked(self, volume: Volume, request: serving.Request) -> bool:
        """Ask the process of this host that serves a volume; False if there is none that we may ask."""
        return asked(self._socket(volume), request)

    def _idle(self, volume: Volume) -> None:
        """Raise ConflictError if a process of this host serves the volume."""
        if self._asked(volume, serving.Status()):
            raise ConflictError(
                f"Volume {volume.id} is attached to this host.", remedy="Detach it: breezeblock detach."
            )

    def _on(self, volume: Volume, work: Callable[[Store], Any]) -> None:
        """Do something with a volume that is there. Raises NotFoundError."""

        async def look(store: Store) -> None:
            if not await self._layout(volume).published(store, key_of(volume)):
                raise NotFoundError(
                    f"Pool {volume.pool} has no volume {key_of(volume)}.", remedy="Delete the volume."
                )
            await work(store)

        self._pools.run(volume.pool, look)

    def _derive(
        self, source: Volume, snapshot: Snapshot | None, volume: Volume, attempt: Attempt
    ) -> Placement:
        self.check_new(volume)
        held = snapshot.virtual_bytes if snapshot else source.virtual_bytes
        if volume.virtual_bytes < held:
            raise InvalidInputError(
                f"Volume {volume.id} of {volume.virtual_bytes} bytes is smaller than its source "
                f"of {held} bytes."
            )
        name = name_of(snapshot) if snapshot else ""
        if not snapshot:
            self._asked(source, serving.Flush())
        settings = self._settings(volume)
        linked = volume.options.get("clone", settings.clone) == "linked" and settings.layout == "log"
        if linked and source.pool == volume.pool:
            self._link(source, name, volume, attempt)
        else:

            def copy(target: Data) -> None:
                with self.open_data(source, snapshot) as data:
                    copy_data(data, target, attempt)

            self.fill(volume, attempt, copy)
        return placement_of(volume)

    def _link(self, source: Volume, name: str, volume: Volume, attempt: Attempt) -> None:
        there, key, hold = key_of(source), key_of(volume), f"{reports.LINKING}{attempt.operation_id}"

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

    def fill(
        self,
        volume: Volume,
        attempt: Attempt,
        write: Callable[[Data], None],
        *,
        object_bytes: int = 0,
        opened: Callable[[], AbstractContextManager[Data]] | None = None,
    ) -> None:
        """Make a volume with content, which is there whole or not at all.

        Where its object is not its image: of that length, and made and opened so.
        """
        key, layout = key_of(volume), self._layout(volume)

        async def begin(store: Store) -> bool:
            if await layout.published(store, key):
                return False
            check_cancelled(attempt)
            await store.put(reports.draft_key(key, attempt.operation_id), b"")
            await layout.begin(store, key, object_bytes or volume.virtual_bytes)
            return True

        if self._pools.run(volume.pool, begin):
            config = self._pools.made(volume.pool)
            room = memory(self._config, volume.pool)
            plain = partial(rest_data.opened, config, key, writable=True, fresh=True, memory=room)
            with (opened or plain)() as data:
                write(data)
                check_cancelled(attempt)
            done = partial(reports.publish, volume=key, operation=attempt.operation_id)
            self._pools.run(volume.pool, done)

    def check_new(self, volume: Volume) -> None:
        """Raise InvalidInputError for a volume that cannot be made."""
        self._need(volume)
        options = rest_layouts.capabilities(self._settings(volume)).options
        for option, value in volume.options.items():
            if value not in options.get(option, ()):
                raise InvalidInputError(f"Pool {volume.pool} has no option {option} = {value!r}.")
        rest_layouts.check_bytes(self._settings(volume), volume.virtual_bytes)
        self._pools.store(volume.pool)


def open_rest(name: str, config: RestConfig, state_dir: Path) -> RestBackend:
    """Return the back end, not started."""
    return RestBackend(name, config, state_dir)


async def _nothing(_store: Store) -> None:
    """See that the volume is there, no more."""
