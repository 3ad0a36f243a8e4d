"""What a XenServer back end tells of its disks: findings, and the inventory's entries."""

from collections.abc import Mapping
from typing import Literal

from breezeblock.backends.contract import Finding, Found
from breezeblock.backends.xenserver_tags import Disk
from breezeblock.xenapi.records import Vdi


def examine(subject: str, vdi: Vdi, virtual_bytes: int) -> list[Finding]:
    """Return what is wrong with a disk that should have that many bytes."""
    if vdi.missing:
        return [Finding(subject=subject, problem=f"Disk {vdi.uuid} has no data.", remedy="Restore it.")]
    if vdi.virtual_size < virtual_bytes:
        text = f"Disk {vdi.uuid} has {vdi.virtual_size} bytes, not {virtual_bytes}."
        return [Finding(subject=subject, problem=text, remedy="Extend the volume.")]
    return []


def described(now: Mapping[str, Disk], pool: str, disk: Disk) -> Found:
    """Return a disk of a pool for the inventory; `now` holds the current disk of every volume."""
    kind: Literal["volume", "snapshot", "metadata", "temporary", "foreign"] = "foreign"
    volume: str | None = None
    if not disk.vdi.managed:
        kind = "metadata"
    elif disk.published:
        volume = disk.volume
        newest = disk.snapshot or now[disk.volume].ref == disk.ref
        kind = "snapshot" if disk.snapshot else "volume" if newest else "temporary"
    elif disk.abandoned:
        kind = "temporary"
        volume = disk.volume if disk.draft else None
    return Found(
        pool=pool,
        name=disk.vdi.uuid,
        volume_id=volume,
        kind=kind,
        snapshot_id=disk.snapshot or None if volume else None,
        allocated_bytes=disk.vdi.physical_utilisation,
    )
