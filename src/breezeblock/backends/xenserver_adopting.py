"""Disks that were there before: what taking one over would mean, taking it over, and letting it go."""

from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Adopted, Placement, Snapshot, Volume
from breezeblock.backends.xenserver_tags import Disk, disk_of, of_volume, snapshots_of
from breezeblock.backends.xenserver_work import Workshop
from breezeblock.errors import ConflictError, CorruptError, InvalidInputError, NotFoundError
from breezeblock.xenapi.mirror import View
from breezeblock.xenapi.records import Vdi
from breezeblock.xenapi.trees import Trees

_TYPES = {"user", "system"}


def reference(volume_id: str) -> str:
    """Return what a disk with our marks is called."""
    return f"volume-{volume_id}"


def examine(view: View, sr_ref: str, volume: Volume, name: str, placement: Placement) -> Adopted:
    """Say what adopting would do. Raises NotFoundError, ConflictError, InvalidInputError, CorruptError."""
    disk = find(view, sr_ref, volume, name)
    vdi = disk.vdi
    if volume.virtual_bytes and volume.virtual_bytes != vdi.virtual_size:
        raise InvalidInputError(
            f"Disk {vdi.uuid} has {vdi.virtual_size} bytes, not {volume.virtual_bytes}.",
            remedy="Take it over as it is, then extend it.",
        )
    ours = disk.published and disk.volume == volume.id
    edit = f"Mark disk {vdi.uuid} ({vdi.name_label}) as volume {volume.id} in its other_config."
    trees = Trees(view)
    held = sorted(
        snapshots_of(view, volume.id).values(),
        key=lambda one: (one.vdi.snapshot_time, trees.depth(one.vdi)),
    )
    return Adopted(
        volume=placement,
        virtual_bytes=vdi.virtual_size,
        snapshots=tuple(
            Snapshot(
                id=one.snapshot,
                volume_id=volume.id,
                virtual_bytes=one.vdi.virtual_size,
                locator=one.vdi.uuid,
            )
            for one in held
        ),
        edits=() if ours else (edit,),
    )


def find(view: View, sr_ref: str, volume: Volume, name: str) -> Disk:
    """Return the disk that may be taken over. Raises as `examine`."""
    if name == reference(volume.id):
        found = of_volume(view, volume.id)
        if not found or sr_ref != found[0].vdi.SR:
            raise NotFoundError(f"No disk is marked as {name} in pool {volume.pool}.")
        return found[0]
    ref, vdi = view.find(name) or ("", None)
    if vdi is None or sr_ref != vdi.SR or not vdi.managed:
        raise NotFoundError(f"There is no disk {name} in pool {volume.pool}.")
    disk = disk_of(view, ref)
    _refuse(disk, volume)
    return disk


def _refuse(disk: Disk, volume: Volume) -> None:
    vdi = disk.vdi
    who = f"Disk {vdi.uuid} ({vdi.name_label})"
    if disk.published and disk.volume != volume.id:
        raise ConflictError(
            f"{who} is {'a snapshot of ' * bool(disk.snapshot)}volume {disk.volume}.",
            remedy=f"Manage it as {reference(disk.volume)}.",
        )
    if disk.abandoned:
        raise ConflictError(f"{who} is unfinished work of ours.", remedy="The next start removes it.")
    if vdi.missing:
        raise CorruptError(f"{who} has no data.", remedy="Restore it first.")
    if vdi.VBDs or vdi.current_operations:
        raise ConflictError(f"{who} is connected to a VM, or at work.", remedy="Detach it first.")
    if vdi.is_a_snapshot or vdi.type not in _TYPES or vdi.sharable or vdi.read_only:
        what = "a snapshot" if vdi.is_a_snapshot else f"of type {vdi.type}"
        raise ConflictError(f"{who} is {what}, shared or read-only.", remedy="Manage a clone of it.")
    if vdi.virtual_size % 512:
        raise InvalidInputError(f"{who} has {vdi.virtual_size} bytes, no multiple of 512.")


def adopt(shop: Workshop, disk: Disk, volume: Volume, attempt: Attempt) -> Vdi:
    """Mark a disk as the volume; its name stays. Done already = nothing."""
    if not (disk.published and disk.volume == volume.id):
        shop.publish(disk.ref, volume.id, attempt, label=disk.vdi.name_label, volume=volume.id)
    return shop.record(disk.ref)


def release(shop: Workshop, volume: Volume) -> str:
    """Finish what is pending. The marks stay, so that the disk comes back with its snapshots."""
    shop.clear(volume.id)
    view, _disk = shop.ready(volume.id)
    shop.unmark(volume.id)
    for before in of_volume(view, volume.id)[1:]:
        shop.destroy(before)
    for snapshot in snapshots_of(view, volume.id):
        shop.clear(snapshot)
        shop.unmark(snapshot)
    return reference(volume.id)
