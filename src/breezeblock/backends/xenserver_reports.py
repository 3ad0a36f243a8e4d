"""What a XenServer back end tells of its pools and disks: pools, findings, and the inventory's entries."""

from collections.abc import Mapping, Sequence
from typing import Literal

from breezeblock.backends.contract import Finding, Found, Pool
from breezeblock.backends.xenserver_tags import Disk
from breezeblock.xenapi import srkinds
from breezeblock.xenapi.records import Sr, Vdi
from breezeblock.xenapi.trees import Debt, Trees

DEEP = 20
"""A chain that deep is worth a warning: the limit is 30, and coalescing takes its time."""
SOON_S = 7 * 86400.0
"""A pool that will be full before is worth one as well."""
MANY_UNMERGED = 10


def of_pool(
    pool: str,
    sr: Sr,
    total: int | None,
    free: int | None,
    disks: Sequence[Vdi],
    trees: Trees,
    debt: Debt,
    full_in_s: float | None,
) -> Pool:
    """Return a pool that is up, with what its operator should know."""
    deepest = max((trees.depth(vdi) for vdi in disks if vdi.managed), default=0)
    findings = []

    def warn(problem: str, remedy: str) -> None:
        subject = f"pool {pool} (SR {sr.name_label})"
        findings.append(Finding(subject=subject, problem=problem, remedy=remedy, severity="warning"))

    if deepest >= DEEP:
        limit = srkinds.CHAIN_LIMIT
        warn(
            f"a disk stands on a chain of {deepest} (of {limit})", "Delete snapshots; see that it coalesces."
        )
    if debt.images >= MANY_UNMERGED or (free is not None and debt.reclaimable_bytes > free):
        size = f"{debt.reclaimable_bytes / 2**20:.1f} MiB"
        warn(
            f"{debt.images} images wait to be coalesced, which would give back up to {size}",
            "See SR.other_config for gc, coalesce and leaf-coalesce = false, and SMlog on the master.",
        )
    if full_in_s is not None and full_in_s < SOON_S:
        warn(f"it will be full in {full_in_s / 3600:.0f} hours if it goes on so", "Free space, or grow it.")
    return Pool(
        name=pool,
        total_bytes=total,
        free_bytes=free,
        deepest_chain=deepest,
        unmerged_images=debt.images,
        unmerged_bytes=debt.reclaimable_bytes,
        full_in_s=full_in_s,
        findings=tuple(findings),
    )


def deep(subject: str, trees: Trees, vdi: Vdi) -> list[Finding]:
    """Return a warning if the disk's chain is long."""
    depth = trees.depth(vdi)
    if depth < DEEP:
        return []
    state = f"{depth} deep (of {srkinds.CHAIN_LIMIT}), {trees.unmerged(vdi)} to be merged"
    remedy = "Delete snapshots, and see that the SR coalesces."
    return [Finding(subject=subject, problem=f"Its chain is {state}.", remedy=remedy, severity="warning")]


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
