"""What is refused before it is asked for, because XenServer would refuse it or data would be lost."""

from collections.abc import Sequence

from breezeblock.backends.xenserver_tags import Disk
from breezeblock.errors import ConflictError, NoSpaceError, UnavailableError, UnsupportedError
from breezeblock.xenapi import srkinds
from breezeblock.xenapi.mirror import View
from breezeblock.xenapi.records import Sr
from breezeblock.xenapi.trees import Trees


def allow(view: View, disk: Disk, operation: str) -> None:
    """Refuse, before it is asked for, what XenServer would refuse; say why.

    Raises ConflictError for a disk in use, UnsupportedError for an SR that cannot.
    """
    vdi = disk.vdi
    if operation in vdi.allowed_operations:
        return
    who = f"Disk {vdi.uuid} ({vdi.name_label})"
    if vdi.VBDs and "snapshot" in vdi.allowed_operations:
        raise ConflictError(
            f"{who} is attached to a VM: {operation} is not possible.",
            remedy="Copy a snapshot of it, or detach it."
            if operation == "copy"
            else "Detach it, or shut the VM down.",
        )
    if vdi.VBDs and operation in {"resize", "destroy"}:
        raise ConflictError(f"{who} is attached: {operation} is not possible.", remedy="Detach it first.")
    sr = view.srs[vdi.SR]
    if vdi.current_operations or not any(pbd.currently_attached for pbd in view.plugs(vdi.SR)):
        raise UnavailableError(f"{who}: SR {sr.name_label} is busy or not plugged, {operation} must wait.")
    raise UnsupportedError(f"{who}: SR {sr.name_label} of type {sr.type} does not allow {operation} now.")


def allow_snapshot(view: View, disk: Disk, kind: srkinds.SrKind) -> None:
    """Refuse a snapshot that cannot be: in use, chain at its limit, or no room for a thick copy."""
    allow(view, disk, "snapshot")
    sr = view.srs[disk.vdi.SR]
    if kind.chained and Trees(view).depth(disk.vdi) >= srkinds.CHAIN_LIMIT:
        raise ConflictError(
            f"Disk {disk.vdi.uuid} stands on a chain of {srkinds.CHAIN_LIMIT}, which is the limit.",
            remedy="Delete snapshots and let the SR coalesce; see `check` for the chain's depth.",
        )
    free = room(sr)
    if not kind.thin and free is not None and free < disk.vdi.virtual_size:
        raise NoSpaceError(
            f"The thick SR {sr.name_label} needs {disk.vdi.virtual_size} bytes for that; {free} are free."
        )


def room(sr: Sr) -> int | None:
    """Return an SR's free bytes; None while nobody knows."""
    if sr.physical_size < 0 or sr.physical_utilisation < 0:
        return None
    return max(0, sr.physical_size - sr.physical_utilisation)


def allow_delete(view: View, kind: srkinds.SrKind, disks: Sequence[Disk]) -> None:
    """Refuse to delete disks whose base copies could then not be merged, for want of space.

    The collector would stop, every later chain grow, and the space never come back. Raises NoSpaceError.
    """
    if not kind.chained or not disks:
        return
    sr = view.srs[disks[0].vdi.SR]
    free = room(sr)
    if free is None:
        return
    missing = Trees(view).missing_bytes([disk.vdi for disk in disks], free, thick=not kind.thin)
    if missing:
        raise NoSpaceError(
            f"SR {sr.name_label} has {free} bytes free; coalescing after this deletion needs {missing} more.",
            remedy="Free space by deleting whole volumes, or grow the SR; then delete this.",
        )
