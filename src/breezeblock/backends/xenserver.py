"""The `xenserver` back end: volumes as VDIs on SRs of a XenServer or XCP-ng pool, each SR a pool.

A volume is found by the marks on its disk (`xenserver_tags`), never by a name or by what the catalog
remembers; publishing is one VDI.set_other_config. Every verb begins by removing what a killed attempt of
the same left, and then does the work anew: half-made disks are never adopted.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import structlog

from breezeblock.attempt import Attempt
from breezeblock.backends.contract import (
    Adopted,
    Capabilities,
    Connection,
    Data,
    Finding,
    Found,
    Mend,
    Placement,
    Pool,
    Snapped,
    Snapshot,
    Volume,
)
from breezeblock.backends.xenserver_config import XenServerConfig, account
from breezeblock.backends.xenserver_pools import Pools
from breezeblock.backends.xenserver_reports import described, examine
from breezeblock.backends.xenserver_tags import (
    Disk,
    current,
    disks,
    leftovers,
    of_volume,
    snapshots_of,
)
from breezeblock.backends.xenserver_work import Workshop, allow, allow_snapshot, depth, unmerged
from breezeblock.errors import (
    BreezeblockError,
    InvalidInputError,
    NotFoundError,
    UnsupportedError,
)
from breezeblock.xenapi import srkinds
from breezeblock.xenapi.mirror import View
from breezeblock.xenapi.records import Vdi
from breezeblock.xenapi.session import Session

_log = structlog.get_logger(__name__)
DEEP = 20
"""A chain that deep is worth a warning: the limit is 30, and coalescing takes its time."""


class XenServerBackend:
    """Volumes on SRs."""

    def __init__(self, name: str, config: XenServerConfig, session: Session) -> None:
        self.name = name
        self._config = config
        self._pools = Pools(name, config.pools)
        self._shop = Workshop(session)

    def start(self) -> None:
        """Log in and read the objects once."""
        try:
            self._shop.mirror.look()
        except BreezeblockError as error:
            _log.warning("xenserver_unreachable", backend=self.name, error=str(error))

    def stop(self) -> None:
        """Log out."""
        self._shop.session.close()

    def capabilities(self) -> Capabilities:
        """Say what at least one pool can do; the others refuse it by name."""
        kinds = self._pools.kinds.values()
        snapshots = any(kind.snapshots for kind in kinds)
        return Capabilities(
            storage_protocol="xenserver",
            thin=any(kind.thin for kind in kinds),
            extend=any(kind.extends for kind in kinds),
            snapshots=snapshots,
            revert="any" if snapshots else "none",
            clone=any(
                kind.clones or self._config.pools[pool].clone == "full"
                for pool, kind in self._pools.kinds.items()
            ),
            create_from_snapshot=snapshots,
            max_virtual_bytes=max(kind.max_bytes for kind in kinds),
            options={"clone": ("linked", "full")},
        )

    def stats(self) -> list[Pool]:
        """Have each SR measure itself, then describe all of them from one look."""
        try:
            view = self._shop.mirror.look()
            for pool in self._config.pools:
                self._measure(view, pool)
            view = self._shop.mirror.look()
        except BreezeblockError as error:
            return [
                Pool(name=pool, total_bytes=None, free_bytes=None, up=False, reason=error.message)
                for pool in self._config.pools
            ]
        return [self._pools.describe(view, pool) for pool in self._config.pools]

    def create(self, volume: Volume, attempt: Attempt) -> Placement:
        """Create a disk, wipe it where the SR hands out used ones, publish it."""
        self._check_asked(volume)
        view = self._shop.clear(volume.id)
        for disk in of_volume(view, volume.id)[:1]:
            return _placement(disk.vdi)
        sr_ref, _sr = self._pools.sr(view, volume.pool)
        ref, vdi = self._shop.create(sr_ref, volume.id, volume.virtual_bytes, attempt)
        if not self._pools.kind(volume.pool).zeroed:
            self._shop.wipe(ref, vdi, attempt)
        self._shop.publish(ref, volume.id, attempt, volume=volume.id)
        return _placement(vdi)

    def delete(self, volume: Volume, attempt: Attempt) -> None:
        """Remove what is unfinished, then the snapshots, and the volume's own disk last."""
        view = self._shop.clear(volume.id)
        self._pools.must_show(view, volume)
        self._shop.unmark(volume.id)
        mine = [*snapshots_of(view, volume.id).values(), *of_volume(view, volume.id)]
        for target in {target for disk in mine for target in disk.making}:
            self._shop.clear(target)
        view = self._shop.settle(lambda now: _all_of(now, volume.id))
        for disk in reversed(of_volume(view, volume.id)):
            allow(view, disk, "destroy")
        for disk in _all_of(view, volume.id):
            self._shop.destroy(disk)

    def extend(self, volume: Volume, virtual_bytes: int, attempt: Attempt) -> Placement:
        """Resize the disk, while attached only where the SR can."""
        self._able(volume, "extends", "extend")
        self._pools.check_size(volume, virtual_bytes)
        view, disk = self._current(volume)
        if disk.vdi.virtual_size < virtual_bytes:
            online = "resize_online" in disk.vdi.allowed_operations and disk.vdi.VBDs
            if not online:
                allow(view, disk, "resize")
            self._shop.run("VDI.resize_online" if online else "VDI.resize", disk.ref, virtual_bytes)
        return _placement(disk.vdi)

    def snapshot(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Snapped:
        """Take a snapshot and publish it."""
        kind = self._able(volume, "snapshots", "snapshot")
        view, disk = self._current(volume, clear=snapshot.id)
        held = snapshots_of(view, volume.id).get(snapshot.id)
        if held:
            self._shop.unmark(snapshot.id)
            return Snapped(volume=_placement(disk.vdi), locator=held.vdi.uuid)
        allow_snapshot(view, disk, kind)
        marks = {"volume": volume.id, "snapshot": snapshot.id}
        made = self._shop.derive("VDI.snapshot", disk, snapshot.id, 0, attempt, **marks)
        return Snapped(volume=_placement(disk.vdi), locator=made.uuid)

    def delete_snapshot(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Placement:
        """Destroy the snapshot's disk; the SR merges its base copies when it finds the time."""
        self._able(volume, "snapshots", "snapshot")
        view, disk = self._current(volume, clear=snapshot.id)
        self._shop.unmark(snapshot.id)
        held = snapshots_of(view, volume.id).get(snapshot.id)
        if held:
            for target in held.making:
                self._shop.clear(target)
            self._shop.destroy(held)
        return _placement(disk.vdi)

    def revert(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Placement:
        """Clone the snapshot, publish the clone as the volume's next generation, remove the old disk."""
        self._able(volume, "clones", "revert")
        view, disk = self._current(volume, clear=volume.id)
        if disk.operation != attempt.operation_id:
            old = self._snapshot(view, snapshot)
            allow(view, disk, "destroy")
            marks = {"volume": volume.id, "generation": str(disk.generation + 1)}
            self._shop.derive("VDI.clone", old, volume.id, disk.vdi.virtual_size, attempt, **marks)
        self._shop.unmark(volume.id)
        view = self._shop.settle(lambda now: of_volume(now, volume.id))
        newest, *before = of_volume(view, volume.id)
        for one in before:
            self._shop.destroy(one)
        return _placement(newest.vdi)

    def clone(self, source: Volume, volume: Volume, attempt: Attempt) -> Placement:
        """Clone the disk, or copy it in full where that was asked for."""
        self._check_asked(volume)
        return self._from(source, lambda view: self._disk(view, source), volume, attempt)

    def create_from_snapshot(
        self, source: Volume, snapshot: Snapshot, volume: Volume, attempt: Attempt
    ) -> Placement:
        """Clone the snapshot's disk, or copy it in full where that was asked for."""
        self._able(source, "snapshots", "snapshot")
        self._check_asked(volume)
        return self._from(source, lambda view: self._snapshot(view, snapshot), volume, attempt)

    def import_image(self, volume: Volume, path: str, image_format: str, attempt: Attempt) -> Placement:
        """Refuse: `breezeblock xenserver import` streams an image into an SR."""
        raise UnsupportedError(f"Back end {self.name} takes images by 'breezeblock xenserver import' only.")

    def export_image(
        self, volume: Volume, snapshot: Snapshot | None, path: str, image_format: str, attempt: Attempt
    ) -> None:
        """Refuse: `breezeblock xenserver export` streams a disk out of an SR."""
        raise UnsupportedError(f"Back end {self.name} gives images by 'breezeblock xenserver export' only.")

    def examine(self, volume: Volume, reference: str) -> Adopted:
        """Refuse, as `adopt` does."""
        raise UnsupportedError(f"Back end {self.name} cannot adopt disks yet.")

    def adopt(self, volume: Volume, reference: str, attempt: Attempt) -> Adopted:
        """Refuse: disks that were made elsewhere are not taken over yet."""
        raise UnsupportedError(f"Back end {self.name} cannot adopt disks yet.")

    def release(self, volume: Volume, attempt: Attempt) -> str:
        """Refuse, as `adopt` does."""
        raise UnsupportedError(f"Back end {self.name} cannot release disks yet.")

    def flatten(self, volume: Volume, attempt: Attempt) -> Placement:
        """Refuse: a disk may be deleted whatever was cloned from it; clone it in full to part them."""
        raise UnsupportedError(f"Back end {self.name} leaves sharing to XenServer.")

    def shorten(self, volume: Volume, attempt: Attempt) -> Placement:
        """Refuse: the SR merges its base copies by itself."""
        raise UnsupportedError(f"Back end {self.name} leaves merging to XenServer.")

    def open_data(
        self, volume: Volume, snapshot: Snapshot | None = None, *, writable: bool = False
    ) -> AbstractContextManager[Data]:
        """Refuse: a XenServer streams whole disks, it does not open them."""
        raise UnsupportedError(f"Back end {self.name} streams disks; it cannot open them.")

    def connection_info(self, volume: Volume, connector: Mapping[str, Any]) -> Connection:
        """Name SR and VDI: the host plugs a VBD. Nothing in it is secret."""
        view, disk = self._current(volume, settle=False)
        sr = view.srs[disk.vdi.SR]
        data: dict[str, Any] = {
            "volume_id": volume.id,
            "sr_uuid": sr.uuid,
            "sr_type": sr.type,
            "vdi_uuid": disk.vdi.uuid,
        }
        if self._config.connection_type == "xensm":
            data |= {"backend_id": self.name, "name_label": sr.name_label, "introduce_sr_keys": []}
        else:
            pool = next(iter(view.pools.values()))
            data |= {"pool_uuid": pool.uuid, "format": _placement(disk.vdi).format}
        return Connection(driver_volume_type=self._config.connection_type, data=data)

    def disconnect(self, volume: Volume, connector: Mapping[str, Any]) -> None:
        """Do nothing: the VBD belongs to the VM, and nothing was granted."""

    def check(self, volume: Volume, snapshots: tuple[Snapshot, ...]) -> list[Finding]:
        """Compare the disks with what the catalog believes."""
        view = self._shop.mirror.look()
        try:
            disk = self._disk(view, volume)
        except NotFoundError as error:
            return [Finding(subject=volume.id, problem=error.message, remedy=error.remedy)]
        held = snapshots_of(view, volume.id)
        found = examine(volume.id, disk.vdi, volume.virtual_bytes)
        for item in snapshots:
            if item.id in held:
                found += examine(item.id, held[item.id].vdi, item.virtual_bytes)
            else:
                found.append(Finding(subject=item.id, problem="Its disk is missing.", remedy="Delete it."))
        unknown = held.keys() - {item.id for item in snapshots}
        found += [Finding(subject=one, problem="Not in the catalog.", remedy="Delete it.") for one in unknown]
        deep = depth(view, disk.vdi)
        if deep >= DEEP:
            state = f"{deep} deep (of {srkinds.CHAIN_LIMIT}), {unmerged(view, disk.vdi)} to be merged"
            remedy = "Delete snapshots, and see that the SR coalesces."
            found.append(
                Finding(
                    subject=volume.id, problem=f"Its chain is {state}.", remedy=remedy, severity="warning"
                )
            )
        return found

    def mends(self, volume: Volume, snapshots: tuple[Snapshot, ...]) -> list[Mend]:
        """Offer none: XenServer mends its SRs itself."""
        return []

    def mend(self, volume: Volume, snapshots: tuple[Snapshot, ...], mend: Mend, attempt: Attempt) -> None:
        """Do nothing, as nothing is offered."""

    def quarantine(self, found: Found) -> str:
        """Refuse: a disk of nobody's is the pool administrator's to judge."""
        raise UnsupportedError(f"Back end {self.name} moves no disks aside.")

    def inventory(self) -> Iterator[Found]:
        """Yield every disk of our SRs: ours, base copies, and strangers'."""
        view = self._shop.mirror.look()
        srs, now = self._pools.all_refs(view), current(view)
        for ref, vdi in view.vdis.items():
            if vdi.SR in srs:
                yield described(now, srs[vdi.SR], Disk(ref, vdi))

    def sweep(self, live_operations: frozenset[str]) -> list[str]:
        """Remove unpublished and former disks of operations that are over; drop stale marks."""
        view = self._shop.mirror.look()
        ours, now = self._pools.all_refs(view), current(view)
        swept = []
        for disk in [disk for disk in disks(view) if disk.vdi.SR in ours]:
            if disk.published:
                for target, operation in disk.making.items():
                    if operation not in live_operations and not leftovers(view, target):
                        self._shop.unmark(target)
                newest = now.get(disk.volume, disk)
                former = not disk.snapshot and disk.ref != newest.ref
                over = former and newest.operation not in live_operations
            else:
                over = bool(disk.abandoned) and not live_operations & set(disk.abandoned.values())
            if over:
                self._shop.destroy(disk)
                swept.append(disk.vdi.uuid)
        return swept

    def _from(self, source: Volume, find: Any, volume: Volume, attempt: Attempt) -> Placement:
        view = self._shop.clear(volume.id)
        for disk in of_volume(view, volume.id)[:1]:
            self._shop.unmark(volume.id)
            return _placement(disk.vdi)
        view = self._shop.settle(lambda now: [find(now)])
        origin: Disk = find(view)
        if volume.virtual_bytes < min(origin.vdi.virtual_size, source.virtual_bytes):
            raise InvalidInputError(
                f"Volume {volume.id} of {volume.virtual_bytes} bytes is smaller than its source "
                f"of {origin.vdi.virtual_size} bytes."
            )
        sr_ref, sr = self._pools.sr(view, volume.pool)
        kind = self._pools.kind(volume.pool)
        how = volume.options.get("clone", self._pools.config[volume.pool].clone)
        if how == "full":
            size = max(volume.virtual_bytes, origin.vdi.virtual_size)
            return _placement(self._shop.copy(origin, sr_ref, volume.id, size, attempt, wipe=not kind.zeroed))
        if sr_ref != origin.vdi.SR or not kind.clones or "VDI_CLONE" not in view.features(sr):
            raise UnsupportedError(
                f"SR {sr.name_label} of type {sr.type} cannot clone {origin.vdi.uuid} without copying it.",
                remedy="Ask for a full copy: clone = full in the volume type or the pool.",
            )
        allow_snapshot(view, origin, kind)
        size = max(volume.virtual_bytes, origin.vdi.virtual_size)
        return _placement(self._shop.derive("VDI.clone", origin, volume.id, size, attempt, volume=volume.id))

    def _current(self, volume: Volume, *, clear: str = "", settle: bool = True) -> tuple[View, Disk]:
        view = self._shop.clear(clear) if clear else self._shop.mirror.look()
        if settle and self._disk(view, volume).vdi.current_operations:
            view = self._shop.settle(lambda now: of_volume(now, volume.id))
        return view, self._disk(view, volume)

    def _disk(self, view: View, volume: Volume) -> Disk:
        found = of_volume(view, volume.id)
        if not found:
            moved = [disk.vdi.uuid for disk in disks(view) if disk.volume == volume.id]
            raise NotFoundError(
                f"Volume {volume.id} has no disk on back end {self.name}.",
                remedy=f"A copy or moved disk of it may be {', '.join(moved)}."
                if moved
                else "Delete the volume.",
            )
        return found[0]

    def _snapshot(self, view: View, snapshot: Snapshot) -> Disk:
        held = snapshots_of(view, snapshot.volume_id).get(snapshot.id)
        if held is None:
            raise NotFoundError(f"Volume {snapshot.volume_id} has no snapshot {snapshot.id}.")
        return held

    def _able(
        self, volume: Volume, what: Literal["snapshots", "clones", "extends"], verb: str
    ) -> srkinds.SrKind:
        kind = self._pools.kind(volume.pool)
        if not getattr(kind, what):
            raise UnsupportedError(
                f"Pool {volume.pool} is an SR of type {kind.type} ({kind.title}), which has no {verb}."
            )
        return kind

    def _check_asked(self, volume: Volume) -> None:
        allowed = self.capabilities().options
        for key, value in volume.options.items():
            if value not in allowed.get(key, ()):
                raise InvalidInputError(f"Back end {self.name} has no option {key} = {value!r}.")
        self._pools.check_size(volume, volume.virtual_bytes)

    def _measure(self, view: View, pool: str) -> None:
        try:
            ref, sr = self._pools.sr(view, pool)
            if "SR_UPDATE" in view.features(sr):
                self._shop.session.call("SR.update", ref)
        except BreezeblockError as error:
            _log.info("sr_not_measured", pool=pool, error=str(error))  # the description says why it is down


def open_xenserver(name: str, config: XenServerConfig, _state_dir: Path) -> XenServerBackend:
    """Return the back end, not started. Raises ConfigError for a password file that cannot be read."""
    return XenServerBackend(name, config, Session(account(name, config)))


def _all_of(view: View, volume_id: str) -> list[Disk]:
    return [*snapshots_of(view, volume_id).values(), *reversed(of_volume(view, volume_id))]


def _placement(vdi: Vdi) -> Placement:
    return Placement(locator=vdi.uuid, format=vdi.sm_config.get("image-format", "raw"))
