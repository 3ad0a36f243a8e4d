"""A thin volume and its snapshots on one device: for volumes whose store has no snapshots.

The device is a volume group with a thin pool in it. The volume and each snapshot are thin logical volumes
with names of their own, so that every verb sees how far a killed one came. LVM's metadata and the pool's are
transactional each, and LVM repeats what it had told the pool when the two differ.

The pool is never overcommitted: there is room for the volume and each snapshot to differ in every byte. So a
pool cannot run full under its guest; it is the object in the store that becomes longer with each snapshot.
"""

from pathlib import Path
from typing import NamedTuple

from breezeblock.connect import lvm
from breezeblock.errors import CorruptError, InvalidInputError, NotFoundError

EXTENT = 1 << 20
"""Lengths of volumes are multiples of this, so that guests see exactly what was asked for."""
CHUNK = 256 << 10
"""What is shared, or not: of a write to less after a snapshot the rest is copied."""
MOST_BYTES = 48 << 40
"""Of a volume and its snapshots; the metadata of a pool has at most 15.8 GiB (lvmthin(7))."""
_HEAD = 8 << 20
"""More than what the physical volume's label and metadata take, and the last extent's rest."""
_LEAST_METADATA = 8 << 20
_METADATA_PER_CHUNK = 64
"""Bytes: a mapping takes 16, in leaves that are half full at worst, and as much again while it changes."""
_POOL = "pool"
VOLUME = "volume"
_SNAPSHOT, _REVERTED = "s_", "r_"


class Room(NamedTuple):
    """What a pool for so many bytes takes, in bytes."""

    data: int
    metadata: int
    device: int
    """All in all."""


class Held(NamedTuple):
    """What is on a device, in bytes."""

    volumes: dict[str, int]
    """Thin volumes by name."""
    data: int
    metadata: int

    @property
    def virtual_bytes(self) -> int:
        """What all of them could come to."""
        return sum(self.volumes.values())


def room(virtual_bytes: int) -> Room:
    """Say what a volume and its snapshots take, given the sum of their lengths. Raises InvalidInputError."""
    if virtual_bytes > MOST_BYTES:
        raise InvalidInputError(
            f"A volume with its snapshots may have {MOST_BYTES} bytes; this would be {virtual_bytes}.",
            remedy="Delete snapshots.",
        )
    data = _extents(virtual_bytes)
    metadata = _LEAST_METADATA + _extents(data // CHUNK * _METADATA_PER_CHUNK)
    return Room(data, metadata, _HEAD + 2 * metadata + data)  # LVM keeps as much spare, for repairs


def _extents(length: int) -> int:
    return -(-length // EXTENT) * EXTENT


def group(volume: str) -> str:
    """Return the name of a volume's volume group."""
    return f"breezeblock_{volume}"


def snapshot_name(name: str) -> str:
    """Return what a snapshot is called there; LVM keeps `snapshot…` to itself."""
    return f"{_SNAPSHOT}{name}"


def node(volume: str, name: str = VOLUME) -> Path:
    """Return where an active one is. device-mapper doubles hyphens (lvm(8))."""
    return Path("/dev/mapper", f"{group(volume)}-{name.replace('-', '--')}")


def make(device: str, volume: str, virtual_bytes: int) -> None:
    """Make the group and the volume on a device that is blank: what a killed attempt made is gone with it."""
    named, needed = group(volume), room(virtual_bytes)
    lvm.run(
        device,
        "vgcreate",
        *("--yes", "--setautoactivation", "n"),
        *("--physicalextentsize", f"{EXTENT}b", "--metadatasize", "3m", "--dataalignment", f"{EXTENT}b"),
        *(named, device),
    )
    lvm.run(
        device,
        "lvcreate",
        *("--yes", "--type", "thin-pool", "--name", _POOL, "--size", f"{needed.data}b"),
        *("--poolmetadatasize", f"{needed.metadata}b", "--chunksize", f"{CHUNK}b", "--zero", "y"),
        named,
    )
    lvm.run(
        device,
        "lvcreate",
        *("--yes", "--type", "thin", "--virtualsize", f"{virtual_bytes}b", "--name", VOLUME),
        *("--thinpool", _POOL, named),
    )


def look(device: str, volume: str) -> Held:
    """Return what is there. Raises CorruptError if it is not the volume's."""
    found = lvm.rows(device, "lvs", "vg_name", "lv_name", "lv_size", "pool_lv", "lv_metadata_size")
    strange = {row["vg_name"] for row in found} - {group(volume)}
    by_name = {row["lv_name"]: row for row in found}
    if strange or _POOL not in by_name:
        there = f"the volume group {min(strange)}" if strange else "no thin pool"
        raise CorruptError(
            f"Volume {volume} should hold a thin pool of its own; there is {there}.",
            remedy="Look who changed its object in the store.",
        )
    pool = by_name[_POOL]
    thin = {name: int(row["lv_size"]) for name, row in by_name.items() if row["pool_lv"] == _POOL}
    return Held(thin, int(pool["lv_size"]), int(pool["lv_metadata_size"]))


def settled(device: str, volume: str) -> Held:
    """Finish, or undo, a revert that was cut off, and return what is there then."""
    held = look(device, volume)
    reverted = [name for name in held.volumes if name.startswith(_REVERTED)]
    for name in reverted:
        if VOLUME in held.volumes:
            _remove(device, volume, name)
        else:
            lvm.run(device, "lvrename", group(volume), name, VOLUME)
    return look(device, volume) if reverted else held


def grow(device: str, volume: str, held: Held, virtual_bytes: int) -> None:
    """Give the pool room for so many bytes; the device is as long as `room` says. It never shrinks."""
    needed, pool = room(virtual_bytes), f"{group(volume)}/{_POOL}"
    if held.data >= needed.data and held.metadata >= needed.metadata:
        return
    lvm.run(device, "pvresize", device)
    if held.metadata < needed.metadata:
        more = needed.metadata - held.metadata
        lvm.run(device, "lvextend", "--yes", "--poolmetadatasize", f"+{more}b", pool)
    if held.data < needed.data:
        lvm.run(device, "lvextend", "--yes", "--size", f"{needed.data}b", pool)


def lengthen(device: str, volume: str, virtual_bytes: int, name: str = VOLUME) -> None:
    """Make a volume longer, for which there is room."""
    lvm.run(device, "lvextend", "--yes", "--size", f"{virtual_bytes}b", f"{group(volume)}/{name}")


def take(device: str, volume: str, held: Held, name: str) -> None:
    """Take a snapshot, for which there is room; there already = done."""
    if snapshot_name(name) not in held.volumes:
        _derive(device, volume, VOLUME, snapshot_name(name), "r")


def drop(device: str, volume: str, held: Held, name: str) -> None:
    """Remove a snapshot; absent = done."""
    if snapshot_name(name) in held.volumes:
        _remove(device, volume, snapshot_name(name))


def revert(device: str, volume: str, held: Held, name: str) -> None:
    """Let the volume read as its snapshot, and as zeros beyond it: a snapshot of that takes its place."""
    source, fresh = snapshot_name(name), f"{_REVERTED}{name}"
    if source not in held.volumes:
        raise NotFoundError(f"Volume {volume} has no snapshot {name}.")
    _derive(device, volume, source, fresh, "rw")
    if held.volumes[source] < held.volumes[VOLUME]:
        lengthen(device, volume, held.volumes[VOLUME], fresh)
    _remove(device, volume, VOLUME)
    lvm.run(device, "lvrename", group(volume), fresh, VOLUME)


def _derive(device: str, volume: str, source: str, name: str, permission: str) -> None:
    words = ("--yes", "--type", "thin", "--permission", permission, "--activate", "n", "--name", name)
    # What is to be the volume is activated as one; snapshots only when they are read.
    skipped = ("--setactivationskip", "y" if permission == "r" else "n")
    lvm.run(device, "lvcreate", *words, *skipped, f"{group(volume)}/{source}")


def _remove(device: str, volume: str, name: str) -> None:
    lvm.run(device, "lvremove", "--yes", f"{group(volume)}/{name}")


def activate(device: str, volume: str, name: str = VOLUME) -> str:
    """Make the volume, or a snapshot, a device, and return its path; there already = done."""
    lvm.run(device, "lvchange", "--activate", "y", "--ignoreactivationskip", f"{group(volume)}/{name}")
    return str(node(volume, name))


def deactivate(device: str, volume: str) -> None:
    """Take all of its devices away. Raises ConflictError while one is mounted."""
    lvm.run(device, "vgchange", "--activate", "n", group(volume))


def tear_down(device: str, volume: str) -> None:
    """Take away whatever is on a device, used or not: for one whose server died. What is under way fails."""
    lvm.remove_stack(Path(device).name)
    links = Path("/dev", group(volume))  # LVM's own, which would be in the way of a group of that name
    if links.is_dir():
        for link in links.iterdir():
            link.unlink()
        links.rmdir()
