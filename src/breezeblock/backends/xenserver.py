"""The `xenserver` back end: volumes as VDIs on SRs of a XenServer or XCP-ng pool, each SR a pool.

A volume is found by the marks on its disk (`xenserver_tags`), never by a name or by what the catalog
remembers; publishing is one VDI.set_other_config. Every verb begins by removing what a killed attempt of
the same left, and then does the work anew: half-made disks are never adopted.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import msgspec
import structlog

from breezeblock.attempt import Attempt
from breezeblock.backends import drafts, xenserver_images
from breezeblock.backends import xenserver_adopting as adopting
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
from breezeblock.backends.unable import Unable
from breezeblock.backends.usage import Usage
from breezeblock.backends.xenserver_checking import Checks
from breezeblock.backends.xenserver_config import XenServerConfig, account
from breezeblock.backends.xenserver_pools import Pools
from breezeblock.backends.xenserver_preflight import allow, allow_delete, allow_snapshot
from breezeblock.backends.xenserver_reports import described
from breezeblock.backends.xenserver_sizes import check, check_growth, of_new, streamed
from breezeblock.backends.xenserver_tags import (
    Disk,
    current,
    disk_of,
    disks,
    leftovers,
    of_volume,
    snapshots_of,
    the_disk,
    the_snapshot,
)
from breezeblock.backends.xenserver_work import Workshop
from breezeblock.errors import (
    BreezeblockError,
    ForbiddenError,
    InvalidInputError,
    UnsupportedError,
)
from breezeblock.xenapi.mirror import View
from breezeblock.xenapi.records import Vdi
from breezeblock.xenapi.session import Session

_log = structlog.get_logger(__name__)


class XenServerBackend(Unable):
    """Volumes on SRs. It repairs none: XenServer mends its SRs itself."""

    def __init__(
        self, name: str, config: XenServerConfig, session: Session, usage: Usage, chains: Usage
    ) -> None:
        self.name = name
        self._config = config
        self._pools = Pools(name, config.pools, usage, chains)
        self._shop = Workshop(session)
        self._checks = Checks(self._shop.mirror.look)

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
        """Say what at least one pool can do; `stats` tells of each, and the others refuse it by name."""
        return self._pools.capabilities(*self._config.pools)

    def stats(self) -> list[Pool]:
        """Have each SR measure itself, then describe all of them from one look."""
        try:
            view = self._shop.mirror.look()
            for pool in self._config.pools:
                self._measure(view, pool)
            view = self._shop.mirror.look()
        except BreezeblockError as error:
            return [self._pools.down(pool, error.message) for pool in self._config.pools]
        return self._pools.describe(view)

    def create(self, volume: Volume, attempt: Attempt) -> Placement:
        """Create a disk, wipe it where the SR hands out used ones, publish it."""
        self._pools.check_asked(volume)
        view = self._shop.clear(volume.id)
        for disk in of_volume(view, volume.id)[:1]:
            return _placement(disk.vdi)
        ref, vdi = self._empty(view, volume, volume.virtual_bytes, attempt)
        self._shop.publish(ref, volume.id, attempt, volume=volume.id)
        return _placement(vdi)

    def delete(self, volume: Volume, attempt: Attempt) -> None:
        """Remove what is unfinished, then the snapshots, and the volume's own disk last."""
        view = self._shop.clear(volume.id)
        self._pools.must_show(view, volume)
        allow_delete(view, self._pools.kind(volume.pool), _all_of(view, volume.id))
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
        kind = self._pools.able(volume, "extends", "extend")
        check(volume, virtual_bytes)
        view, disk = self._shop.ready(volume.id)
        check_growth(kind, disk.vdi, virtual_bytes)
        if disk.vdi.virtual_size < virtual_bytes:
            online = "resize_online" in disk.vdi.allowed_operations and disk.vdi.VBDs
            if not online:
                allow(view, disk, "resize")
            self._shop.run("VDI.resize_online" if online else "VDI.resize", disk.ref, virtual_bytes)
        return _placement(disk.vdi)

    def snapshot(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Snapped:
        """Take a snapshot and publish it."""
        kind = self._pools.able(volume, "snapshots", "snapshot")
        view, disk = self._shop.ready(volume.id, clear=snapshot.id)
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
        kind = self._pools.able(volume, "snapshots", "snapshot")
        view, disk = self._shop.ready(volume.id, clear=snapshot.id)
        held = snapshots_of(view, volume.id).get(snapshot.id)
        allow_delete(view, kind, [held] if held else [])
        self._shop.unmark(snapshot.id)
        if held:
            for target in held.making:
                self._shop.clear(target)
            self._shop.destroy(held)
        return _placement(disk.vdi)

    def revert(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Placement:
        """Have the SR revert the disk where it can; else put a clone of the snapshot in its place."""
        self._pools.able(volume, "clones", "revert")
        view, disk = self._shop.ready(volume.id, clear=volume.id)
        if disk.operation != attempt.operation_id:
            old = the_snapshot(view, snapshot)
            if "revert_to" in disk.vdi.allowed_operations and not disk.vdi.VBDs:
                with suppress(UnsupportedError, ForbiddenError):  # it takes a larger role than the rest
                    return self._reverted(volume, disk, old)
            allow(view, disk, "destroy")
            marks = {"volume": volume.id, "generation": str(disk.generation + 1)}
            self._shop.derive("VDI.clone", old, volume.id, disk.vdi.virtual_size, attempt, **marks)
        self._shop.unmark(volume.id)
        view = self._shop.settle(lambda now: of_volume(now, volume.id))
        newest, *before = of_volume(view, volume.id)
        for one in before:
            self._shop.destroy(one)
        return _placement(newest.vdi)

    def _reverted(self, volume: Volume, disk: Disk, old: Disk) -> Placement:
        self._shop.run("VDI.revert", old.ref)
        now = self._shop.record(disk.ref)
        wanted = max(disk.vdi.virtual_size, volume.virtual_bytes)  # a killed attempt may have shrunk it
        if now.virtual_size < wanted:
            self._shop.run("VDI.resize", disk.ref, wanted)
        if now.other_config != disk.vdi.other_config:  # no host was at hand to see what it keeps
            self._shop.session.call("VDI.set_other_config", disk.ref, disk.vdi.other_config)
        return _placement(self._shop.record(disk.ref))

    def clone(self, source: Volume, volume: Volume, attempt: Attempt) -> Placement:
        """Clone the disk, or copy it in full, also to another SR, where that was asked for."""
        self._pools.check_asked(volume)
        return self._from(source, lambda view: the_disk(view, source.id), volume, attempt)

    def create_from_snapshot(
        self, source: Volume, snapshot: Snapshot, volume: Volume, attempt: Attempt
    ) -> Placement:
        """Clone the snapshot's disk, or copy it in full where that was asked for."""
        self._pools.able(source, "snapshots", "snapshot")
        self._pools.check_asked(volume)
        return self._from(source, lambda view: the_snapshot(view, snapshot), volume, attempt)

    def import_image(self, volume: Volume, path: str, image_format: str, attempt: Attempt) -> Placement:
        """Make a disk of an image that our own code read."""
        self._pools.check_asked(volume)
        view = self._shop.clear(volume.id)
        for disk in of_volume(view, volume.id)[:1]:
            return _placement(disk.vdi)
        drafts.check(Path(path), image_format, volume)
        ref, vdi = self._empty(view, volume, volume.virtual_bytes, attempt, used=True)
        wanted = streamed(view, vdi) if self._pools.kind(volume.pool).zeroed else "raw"
        xenserver_images.send(self._shop, ref, vdi, wanted, Path(path), image_format, attempt)
        self._shop.publish(ref, volume.id, attempt, volume=volume.id)
        return _placement(vdi)

    def export_image(
        self, volume: Volume, snapshot: Snapshot | None, path: str, image_format: str, attempt: Attempt
    ) -> None:
        """Stream the disk out, raw over NBD where the pool offers it."""
        view, disk = self._shop.ready(volume.id)
        if snapshot:
            disk = the_snapshot(view, snapshot)
        elif disk.vdi.VBDs:
            allow(view, disk, "destroy")  # a VM may be writing
        xenserver_images.receive(self._shop, view, disk, Path(path), image_format, attempt)

    def examine(self, volume: Volume, reference: str) -> Adopted:
        """Look at a disk that was made elsewhere, or that was released."""
        view = self._shop.mirror.look()
        sr_ref, _sr = self._pools.sr(view, volume.pool)
        disk = adopting.find(view, sr_ref, volume, reference)
        return adopting.examine(view, sr_ref, volume, reference, _placement(disk.vdi))

    def adopt(self, volume: Volume, reference: str, attempt: Attempt) -> Adopted:
        """Mark a disk as the volume; its name and content stay."""
        found = self.examine(volume, reference)
        view = self._shop.mirror.look()
        sr_ref, _sr = self._pools.sr(view, volume.pool)
        made = adopting.adopt(self._shop, adopting.find(view, sr_ref, volume, reference), volume, attempt)
        return msgspec.structs.replace(found, volume=_placement(made))

    def release(self, volume: Volume, attempt: Attempt) -> str:
        """Finish what was begun; the disk and its snapshots stay, with their marks."""
        return adopting.release(self._shop, volume)

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
        view, disk = self._shop.ready(volume.id, settle=False)
        sr = view.srs[disk.vdi.SR]
        data: dict[str, Any] = {
            "volume_id": volume.id,
            "sr_uuid": sr.uuid,
            "sr_type": sr.type,
            "vdi_uuid": disk.vdi.uuid,
        }
        if self._config.connection_type == "xensm":
            told = self._config.pools[volume.pool].device_config  # secrets never stand in there
            data = {**told, **data, "backend_id": self.name, "flavor_id": volume.pool}
            data |= {"name_label": sr.name_label, "introduce_sr_keys": [*told, "sr_type"]}
        else:
            pool = next(iter(view.pools.values()))
            data |= {"pool_uuid": pool.uuid, "format": _placement(disk.vdi).format}
        return Connection(driver_volume_type=self._config.connection_type, data=data)

    def disconnect(self, volume: Volume, connector: Mapping[str, Any]) -> None:
        """Do nothing: the VBD belongs to the VM, and nothing was granted."""

    def check(self, volume: Volume, snapshots: tuple[Snapshot, ...]) -> list[Finding]:
        """Compare the disks with what the catalog believes."""
        return self._checks.check(volume, snapshots, lambda view: self._pools.refs(view, volume.pool))

    def inventory(self) -> Iterator[Found]:
        """Yield every disk of our SRs: ours, base copies, and strangers'."""
        view = self._shop.mirror.look()
        srs, now = self._pools.all_refs(view), current(view)
        for ref, vdi in view.vdis.items():
            if vdi.SR in srs:
                yield described(now, srs[vdi.SR], disk_of(view, ref))

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
        size = max(volume.virtual_bytes, origin.vdi.virtual_size)
        how = volume.options.get("clone", self._pools.config[volume.pool].clone)
        if how == "full":
            allow(view, origin, "copy")
            ref, _vdi = self._empty(view, volume, size, attempt)  # a copy leaves out what is not held
            return _placement(self._shop.copy(origin, ref, volume.id, size, attempt))
        sr_ref, sr = self._pools.sr(view, volume.pool)
        kind = self._pools.kind(volume.pool)
        if sr_ref != origin.vdi.SR or not kind.clones or "VDI_CLONE" not in view.features(sr):
            raise UnsupportedError(
                f"SR {sr.name_label} of type {sr.type} cannot clone {origin.vdi.uuid} without copying it.",
                remedy="Ask for a full copy: clone = full in the volume type or the pool.",
            )
        allow_snapshot(view, origin, kind)
        check_growth(kind, origin.vdi, size)
        return _placement(self._shop.derive("VDI.clone", origin, volume.id, size, attempt, volume=volume.id))

    def _empty(
        self, view: View, volume: Volume, virtual_bytes: int, attempt: Attempt, *, used: bool = False
    ) -> tuple[str, Vdi]:
        """Make a disk that reads as zeros (`used`: or as anything: it is about to be written all over)."""
        sr_ref, sr = self._pools.sr(view, volume.pool)
        kind = self._pools.kind(volume.pool)
        config = of_new(view, kind, sr, volume, virtual_bytes)
        ref, vdi = self._shop.create(sr_ref, volume.id, virtual_bytes, attempt, config)
        if not kind.zeroed and not used:
            self._shop.wipe(ref, vdi, attempt)
        return ref, vdi

    def _measure(self, view: View, pool: str) -> None:
        try:
            ref, sr = self._pools.sr(view, pool)
            if "SR_UPDATE" in view.features(sr):
                self._shop.session.call("SR.update", ref)
        except BreezeblockError as error:
            _log.info("sr_not_measured", pool=pool, error=str(error))  # the description says why it is down


def open_xenserver(name: str, config: XenServerConfig, state_dir: Path) -> XenServerBackend:
    """Return the back end, not started. Raises ConfigError for a password file that cannot be read."""
    usage, chains = (Usage(state_dir / f"{name}.{what}.json") for what in ("usage", "chains"))
    return XenServerBackend(name, config, Session(account(name, config)), usage, chains)


def _all_of(view: View, volume_id: str) -> list[Disk]:
    return [*snapshots_of(view, volume_id).values(), *reversed(of_volume(view, volume_id))]


def _placement(vdi: Vdi) -> Placement:
    return Placement(locator=vdi.uuid, format=vdi.sm_config.get("image-format", "raw"))
