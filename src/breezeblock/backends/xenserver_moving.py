"""A volume's disk moved to another SR while a VM uses it. The pool makes a disk of another uuid of it."""

from breezeblock.attempt import Attempt
from breezeblock.backends.xenserver_sizes import largest
from breezeblock.backends.xenserver_tags import SELF, Disk, disks, of_volume, snapshots_of
from breezeblock.backends.xenserver_work import Workshop
from breezeblock.errors import ConflictError, InvalidInputError, NotFoundError, UnsupportedError
from breezeblock.xenapi import tasks
from breezeblock.xenapi.mirror import View
from breezeblock.xenapi.records import Sr, Vdi
from breezeblock.xenapi.srkinds import SrKind


def move(shop: Workshop, volume_id: str, sr_ref: str, kind: SrKind, attempt: Attempt) -> Vdi:
    """Move the volume's disk to an SR, or mark the disk that it became there, by whomever; return that.

    May be run again after a kill: what it became has the marks of one that is gone, if XenServer took them
    along, as it does for copies. Raises NotFoundError, ConflictError, UnsupportedError, InvalidInputError.
    """
    view = shop.settle(lambda now: [disk for disk in disks(now) if disk.volume == volume_id])
    held = of_volume(view, volume_id)
    if not held:
        arrived = _arrived(view, volume_id, sr_ref)
        return _mark(shop, arrived.ref, arrived, attempt)
    disk = held[0]
    if sr_ref == disk.vdi.SR:
        return disk.vdi
    _allow(view, disk, view.srs[sr_ref], kind)
    for target in disk.making:  # or the new disk would inherit what says that it is unfinished work
        shop.clear(target)
        shop.unmark(target)
    size = disk.vdi.virtual_size
    made = tasks.run(
        shop.session,
        "VDI.pool_migrate",
        disk.ref,
        sr_ref,
        {},
        cancelled=attempt.cancelled,
        progress=lambda part: attempt.progress(int(part * size), size),
    )
    return _mark(shop, made, disk, attempt)


def _arrived(view: View, volume_id: str, sr_ref: str) -> Disk:
    """Return what the volume's disk became in an SR: it has the marks of one that is gone."""
    found = [
        disk
        for disk in disks(view)
        if disk.moved and disk.volume == volume_id and sr_ref == disk.vdi.SR and not disk.vdi.is_a_snapshot
    ]
    label = view.srs[sr_ref].name_label
    if not found:
        raise NotFoundError(f"Volume {volume_id} has no disk, and none in SR {label} may be what it became.")
    if len(found) > 1:
        listed = ", ".join(disk.vdi.uuid for disk in found)
        raise ConflictError(
            f"Volume {volume_id} has no disk, and in SR {label} several may be what it became: {listed}.",
            remedy=f"Set other_config:{SELF} of the right one to its own uuid.",
        )
    return found[0]


def _mark(shop: Workshop, ref: str, before: Disk, attempt: Attempt) -> Vdi:
    marks = {"volume": before.volume, "generation": str(before.generation)}
    shop.publish(ref, before.volume, attempt, label=before.vdi.name_label, **marks)
    return shop.record(ref)


def _allow(view: View, disk: Disk, sr: Sr, kind: SrKind) -> None:
    """Refuse what XenServer would refuse, and what would leave something behind."""
    who = f"Disk {disk.vdi.uuid} ({disk.vdi.name_label})"
    held = snapshots_of(view, disk.volume)
    if held:
        raise ConflictError(
            f"{who} has {len(held)} snapshots, which would stay in its SR.",
            remedy="Delete them, or make a full copy in the other pool (clone = full).",
        )
    if not disk.vdi.VBDs:
        raise ConflictError(
            f"{who} is in no VM, and XenServer moves only what a running VM uses.",
            remedy="Make a full copy in the other pool (clone = full).",
        )
    if disk.vdi.cbt_enabled:
        raise ConflictError(
            f"{who} has its changes tracked.", remedy="breezeblock xenserver track --off, then move it."
        )
    here = view.srs[disk.vdi.SR]
    if "VDI_MIRROR" not in view.features(here):
        raise UnsupportedError(
            f"{who}: SR {here.name_label} of type {here.type} cannot mirror a disk in use."
        )
    if not kind.zeroed:
        raise UnsupportedError(
            f"SR {sr.name_label} of type {kind.type} lends out LUNs with old data, which would show through."
        )
    if disk.vdi.virtual_size > largest(view, kind, sr):
        raise InvalidInputError(
            f"{who} has {disk.vdi.virtual_size} bytes, more than the {largest(view, kind, sr)} "
            f"of SR {sr.name_label}."
        )
