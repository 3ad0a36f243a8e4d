"""What a XenServer back end tells of its pools and disks: pools, findings, and the inventory's entries."""

from collections.abc import Mapping
from typing import Literal

from breezeblock.backends.contract import Finding, Found, Health
from breezeblock.backends.xenserver_tags import Disk
from breezeblock.xenapi import srkinds

DEEP = 20
"""A chain that deep is worth a warning: the limit is 30, and coalescing takes its time."""
SOON_S = 7 * 86400.0
"""A pool that will be full before is worth one as well."""
MANY_UNMERGED = 10


def warnings(subject: str, health: Health, free: int | None) -> tuple[Finding, ...]:
    """Return what a pool's operator should know while there is time."""
    findings = []
    limit = srkinds.CHAIN_LIMIT

    def warn(problem: str, remedy: str) -> None:
        findings.append(Finding(subject=subject, problem=problem, remedy=remedy, severity="warning"))

    def soon(seconds: float | None) -> str:
        return (
            "" if seconds is None or seconds >= SOON_S else f"in {seconds / 3600:.0f} hours if it goes on so"
        )

    if (health.deepest_chain or 0) >= DEEP:
        text = f"a disk stands on a chain of {health.deepest_chain} (of {limit})"
        warn(text, "Delete snapshots; see that it coalesces.")
    if soon(health.chain_full_in_s):
        text = f"its deepest chain will be at the limit of {limit} {soon(health.chain_full_in_s)}"
        warn(text, "Take fewer snapshots or delete some; see that it coalesces.")
    if health.unmerged_images >= MANY_UNMERGED or (free is not None and health.unmerged_bytes > free):
        size = f"{health.unmerged_bytes / 2**20:.1f} MiB"
        warn(
            f"{health.unmerged_images} images wait to be coalesced, which would give back up to {size}",
            "See SR.other_config for gc, coalesce and leaf-coalesce = false, and SMlog on the master.",
        )
    if soon(health.full_in_s):
        warn(f"it will be full {soon(health.full_in_s)}", "Free space, or grow it.")
    return tuple(findings)


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
