"""Pools with `thin = true`: volumes in the layout flat, each a thin pool of LVM's, which has snapshots.

This stands before the back end and takes over what is asked of such pools; all else goes through. For each
verb the volume's object becomes a kernel device on this host for a moment, locked as the service's.

A snapshot's name is also an object in the store, put after it was taken and removed after it is gone, so
that looking at a store needs no kernel.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from breezeblock.attempt import Attempt
from breezeblock.backends import drafts, rest_data
from breezeblock.backends.contract import (
    Adopted,
    Backend,
    Connection,
    Data,
    Finding,
    Placement,
    Pool,
    Snapped,
    Snapshot,
    Volume,
)
from breezeblock.backends.copying import copy_data
from breezeblock.backends.proxy import Proxy
from breezeblock.backends.rest import RestBackend, open_rest
from breezeblock.backends.rest_config import RestConfig
from breezeblock.backends.rest_layouts import check_bytes
from breezeblock.backends.rest_pools import Pools
from breezeblock.backends.rest_reports import key_of, name_of, placement_of
from breezeblock.connect import lvm, thin
from breezeblock.connect.lent import Lent, forget, lent, sweep
from breezeblock.errors import InvalidInputError, NotFoundError, UnsupportedError
from breezeblock.images.raw import check_cancelled
from breezeblock.objects.stores.port import Store, checked, everything

DRIVER = "nbd-thin"
"""What a connection's type is: not `nbd`, for what NBD carries here is a pool and no volume."""


class ThinRest(Proxy):
    """The back end, with thin pools. What a killed verb left in the kernel the next one takes away."""

    def __init__(self, inner: RestBackend, config: RestConfig, state_dir: Path) -> None:
        super().__init__(inner)
        self._rest = inner
        self._config = config
        self._pools = Pools(inner.name, config, state_dir)
        self._locks = state_dir / "thin"

    def start(self) -> None:
        """Take away what a killed service left in the kernel, and start."""
        sweep(self._locks)
        self._rest.start()

    def stats(self) -> list[Pool]:
        """Look at every pool; a thin one is down where this host cannot work on it."""
        lacks = " ".join(lvm.missing())
        return [
            msgspec.structs.replace(pool, up=False, reason=f"{lacks} {pool.reason}".strip())
            if lacks and self._config.pools[pool.name].thin
            else pool
            for pool in self._rest.stats()
        ]

    def create(self, volume: Volume, attempt: Attempt) -> Placement:
        """Make the object, and in it the pool and the volume."""
        if not self._is_thin(volume):
            return self._rest.create(volume, attempt)
        return self._make(volume, attempt, lambda _data: None)

    def clone(self, source: Volume, volume: Volume, attempt: Attempt) -> Placement:
        """Copy it, where either is thin."""
        if not self._is_thin(source) and not self._is_thin(volume):
            return self._rest.clone(source, volume, attempt)
        return self._copy(source, None, volume, attempt)

    def create_from_snapshot(
        self, source: Volume, snapshot: Snapshot, volume: Volume, attempt: Attempt
    ) -> Placement:
        """Copy it, where either is thin."""
        if not self._is_thin(source) and not self._is_thin(volume):
            return self._rest.create_from_snapshot(source, snapshot, volume, attempt)
        return self._copy(source, snapshot, volume, attempt)

    def import_image(self, volume: Volume, path: str, image_format: str, attempt: Attempt) -> Placement:
        """Write an image that our own code read onto a new volume."""
        if not self._is_thin(volume):
            return self._rest.import_image(volume, path, image_format, attempt)
        drafts.check(Path(path), image_format, volume)
        return self._make(
            volume, attempt, lambda data: rest_data.load(Path(path), image_format, data, attempt)
        )

    def export_image(
        self, volume: Volume, snapshot: Snapshot | None, path: str, image_format: str, attempt: Attempt
    ) -> None:
        """Read a volume into an image."""
        with self.open_data(volume, snapshot) as data:
            rest_data.save(data, Path(path), image_format, attempt)

    def delete(self, volume: Volume, attempt: Attempt) -> None:
        """Remove the object, and with it all that is in it; then the names of snapshots."""
        if self._is_thin(volume):
            forget(self._locks, key_of(volume))
        self._rest.delete(volume, attempt)
        if self._is_thin(volume):
            self._pools.run(volume.pool, partial(_forget_names, volume=key_of(volume)))

    def extend(self, volume: Volume, virtual_bytes: int, attempt: Attempt) -> Placement:
        """Make the object, the pool and the volume longer; long enough = done."""
        if not self._is_thin(volume):
            return self._rest.extend(volume, virtual_bytes, attempt)
        check_bytes(self._config.pools[volume.pool], virtual_bytes)
        with self._lent(volume) as there:
            held = thin.settled(there.path, key_of(volume))
            more = virtual_bytes - held.volumes[thin.VOLUME]
            if more > 0:
                _grow(there, volume, held, held.virtual_bytes + more)
                thin.lengthen(there.path, key_of(volume), virtual_bytes)
        return placement_of(volume)

    def snapshot(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Snapped:
        """Make room for everything to be written anew, then take it."""
        if not self._is_thin(volume):
            return self._rest.snapshot(volume, snapshot, attempt)
        name = name_of(snapshot)
        check_cancelled(attempt)
        with self._lent(volume) as there:
            held = thin.settled(there.path, key_of(volume))
            if thin.snapshot_name(name) not in held.volumes:
                _grow(there, volume, held, held.virtual_bytes + held.volumes[thin.VOLUME])
            thin.take(there.path, key_of(volume), held, name)
        self._pools.run(volume.pool, lambda store: store.put(_name_key(key_of(volume), name), b""))
        return Snapped(volume=placement_of(volume), locator=name)

    def delete_snapshot(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Placement:
        """Remove it; its room is the next one's."""
        if not self._is_thin(volume):
            return self._rest.delete_snapshot(volume, snapshot, attempt)
        name = name_of(snapshot)
        with self._lent(volume) as there:
            held = thin.settled(there.path, key_of(volume))
            thin.drop(there.path, key_of(volume), held, name)
        self._pools.run(volume.pool, lambda store: store.delete(_name_key(key_of(volume), name)))
        return placement_of(volume)

    def revert(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Placement:
        """Let a snapshot of the snapshot be the volume."""
        if not self._is_thin(volume):
            return self._rest.revert(volume, snapshot, attempt)
        check_cancelled(attempt)
        with self._lent(volume) as there:
            held = thin.settled(there.path, key_of(volume))
            thin.revert(there.path, key_of(volume), held, name_of(snapshot))
        return placement_of(volume)

    def open_data(
        self, volume: Volume, snapshot: Snapshot | None = None, *, writable: bool = False
    ) -> AbstractContextManager[Data]:
        """Open the device of the volume, or of the snapshot."""
        if not self._is_thin(volume):
            return self._rest.open_data(volume, snapshot, writable=writable)
        if snapshot and writable:
            raise InvalidInputError(f"Snapshot {snapshot.id} cannot be opened for writing.")
        return self._opened(volume, snapshot, writable=writable)

    def connection_info(self, volume: Volume, connector: Mapping[str, Any]) -> Connection:
        """Say where a host finds the pool. There is no address for QEMU: it would see the pool itself."""
        found = self._rest.connection_info(volume, connector)
        if not self._is_thin(volume):
            return found
        data = {key: value for key, value in found.data.items() if key != "uri"}
        return Connection(driver_volume_type=DRIVER, data={**data, "thin": True})

    def check(self, volume: Volume, snapshots: tuple[Snapshot, ...]) -> list[Finding]:
        """Compare the store with what the catalog believes. Only names are looked at, not the pool."""
        if not self._is_thin(volume):
            return self._rest.check(volume, snapshots)
        findings = self._rest.check(volume, ())
        held = set(self._pools.run(volume.pool, partial(_names, volume=key_of(volume))))
        wanted = {name_of(one): one.id for one in snapshots}
        lost = [(wanted[name], "It is not in the store.") for name in sorted(wanted.keys() - held)]
        strange = [(name, "Not in the catalog.") for name in sorted(held - wanted.keys())]
        findings += [
            Finding(subject=subject, problem=problem, remedy="Delete it.")
            for subject, problem in [*lost, *strange]
        ]
        return findings

    def examine(self, volume: Volume, reference: str) -> Adopted:
        """Refuse for thin pools."""
        self._no_manage(volume)
        return self._rest.examine(volume, reference)

    def adopt(self, volume: Volume, reference: str, attempt: Attempt) -> Adopted:
        """Refuse for thin pools."""
        self._no_manage(volume)
        return self._rest.adopt(volume, reference, attempt)

    def release(self, volume: Volume, attempt: Attempt) -> str:
        """Refuse for thin pools."""
        self._no_manage(volume)
        return self._rest.release(volume, attempt)

    # --- parts of verbs -------------------------------------------------------------------------

    def _is_thin(self, volume: Volume) -> bool:
        return volume.pool in self._config.pools and self._config.pools[volume.pool].thin

    def _no_manage(self, volume: Volume) -> None:
        if self._is_thin(volume):
            raise UnsupportedError(f"Volumes of the thin pool {volume.pool} are not handed over.")

    def _lent(self, volume: Volume) -> AbstractContextManager[Lent]:
        config = self._pools.made(volume.pool)
        return lent(config, key_of(volume), rest_data.SERVICE, self._locks)

    @contextmanager
    def _opened(
        self, volume: Volume, snapshot: Snapshot | None = None, *, writable: bool = False, fresh: bool = False
    ) -> Iterator[Data]:
        key = key_of(volume)
        name = thin.snapshot_name(name_of(snapshot)) if snapshot else thin.VOLUME
        with self._lent(volume) as there:
            if fresh:
                thin.make(there.path, key, volume.virtual_bytes)
            elif name not in thin.settled(there.path, key).volumes:
                raise NotFoundError(f"Volume {volume.id} has no snapshot {name}.")
            path = thin.activate(there.path, key, name)
            with rest_data.block(path, writable=writable or fresh) as data:
                yield rest_data.FreshData(data) if fresh else data
                data.flush()
            thin.deactivate(there.path, key)

    def _make(self, volume: Volume, attempt: Attempt, write: Callable[[Data], None]) -> Placement:
        self._rest.check_new(volume)
        self._rest.fill(
            volume,
            attempt,
            write,
            object_bytes=thin.room(volume.virtual_bytes).device,
            opened=partial(self._opened, volume, fresh=True),
        )
        return placement_of(volume)

    def _copy(self, source: Volume, snapshot: Snapshot | None, volume: Volume, attempt: Attempt) -> Placement:
        held = snapshot.virtual_bytes if snapshot else source.virtual_bytes
        if volume.virtual_bytes < held:
            raise InvalidInputError(
                f"Volume {volume.id} of {volume.virtual_bytes} bytes is smaller than its source "
                f"of {held} bytes."
            )

        def write(target: Data) -> None:
            with self.open_data(source, snapshot) as data:
                copy_data(data, target, attempt)

        if self._is_thin(volume):
            return self._make(volume, attempt, write)
        self._rest.check_new(volume)
        self._rest.fill(volume, attempt, write)
        return placement_of(volume)


def open_thin(name: str, config: RestConfig, state_dir: Path) -> Backend:
    """Return the back end, not started, with thin pools where there are such."""
    inner = open_rest(name, config, state_dir)
    return ThinRest(inner, config, state_dir) if any(pool.thin for pool in config.pools.values()) else inner


def _grow(there: Lent, volume: Volume, held: thin.Held, virtual_bytes: int) -> None:
    there.grow(thin.room(virtual_bytes).device)
    thin.grow(there.path, key_of(volume), held, virtual_bytes)


def _name_key(volume: str, name: str) -> str:
    return checked(f"snap/{volume}/{name}")


async def _names(store: Store, volume: str) -> list[str]:
    return [item.key.rpartition("/")[2] for item in await everything(store, f"snap/{volume}/")]


async def _forget_names(store: Store, volume: str) -> None:
    for name in await _names(store, volume):
        await store.delete(_name_key(volume, name))
