"""Promises about snapshots: take, delete in any order, revert."""

from contextlib import suppress
from dataclasses import replace
from itertools import permutations

import msgspec

from breezeblock.errors import BreezeblockError, CancelledOperationError
from breezeblock.testing.case import case, raises
from breezeblock.testing.lab import Lab, attempt


@case("snapshots")
def _delete_takes_the_snapshots_along(lab: Lab) -> None:
    disk = lab.create()
    lab.snapshots(disk, 2)
    lab.delete(disk)


@case("extend", "snapshots")
def _extend_with_snapshots_keeps_them(lab: Lab) -> None:
    disk = lab.create()
    lab.snapshots(disk, 1)
    lab.extend(disk, 2)
    lab.write(disk, 2 * lab.unit - 4096)
    lab.snapshots(disk, 1)
    lab.extend(disk, 3)
    lab.verify()
    lab.delete_snapshot(disk, disk.at(0))
    lab.verify()


@case("snapshots")
def _snapshot_fixes_the_content(lab: Lab) -> None:
    disk = lab.create()
    for _ in range(3):
        lab.snapshots(disk, 1)
        lab.verify()


@case("snapshots")
def _snapshot_again_is_the_same_snapshot(lab: Lab) -> None:
    disk = lab.create()
    before = disk.volume
    snapshot = lab.snapshot(disk)
    asked = msgspec.structs.replace(snapshot, locator="")
    again = lab.backend.snapshot(before, asked, attempt())
    assert again.locator == snapshot.locator
    assert (again.volume.locator, again.volume.format) == (disk.volume.locator, disk.volume.format)
    lab.verify()


@case("snapshots")
def _any_snapshot_can_be_deleted_in_any_order(lab: Lab) -> None:
    for order in permutations(range(3)):
        disk = lab.create()
        lab.snapshots(disk, 3)
        for snapshot in [disk.at(index) for index in order]:
            lab.delete_snapshot(disk, snapshot)
            lab.verify(disk)
            lab.write(disk, 16384)
        lab.delete(disk)


@case("snapshots")
def _delete_snapshot_of_the_absent_succeeds(lab: Lab) -> None:
    disk = lab.create()
    lab.snapshots(disk, 2)
    snapshot = disk.at(0)
    lab.delete_snapshot(disk, snapshot)
    disk.placed(lab.backend.delete_snapshot(disk.volume, snapshot, attempt()))
    disk.placed(lab.backend.delete_snapshot(disk.volume, lab.new_snapshot(disk), attempt()))
    lab.verify()


@case("revert", "snapshots")
def _revert_brings_the_newest_back(lab: Lab) -> None:
    disk = lab.create()
    lab.snapshots(disk, 2)
    lab.revert(disk, disk.at(-1))
    lab.verify()
    lab.write(disk, 4096)
    lab.verify()
    lab.snapshots(disk, 1)
    lab.verify()


@case("revert", "snapshots")
def _revert_to_an_older_one(lab: Lab) -> None:
    disk = lab.create()
    lab.snapshots(disk, 3)
    if lab.able.revert == "any":
        for index in (0, 1, 0):
            lab.revert(disk, disk.at(index))
            lab.verify()
            lab.write(disk, 4096)
            lab.verify()
    else:
        oldest = disk.at(0)
        raises(
            BreezeblockError,
            lambda: lab.backend.revert(disk.volume, oldest, attempt()),
            "revert to any but the newest snapshot",
        )
        lab.verify()


@case("revert", "snapshots", "extend")
def _revert_keeps_the_size(lab: Lab) -> None:
    disk = lab.create()
    lab.snapshots(disk, 1)
    lab.extend(disk, 2)
    lab.write(disk, 2 * lab.unit - 4096)
    lab.revert(disk, disk.at(0))
    lab.verify()


@case("snapshots")
def _cancelled_snapshot_leaves_nothing(lab: Lab) -> None:
    disk, snapshot = lab.create(), lab.new_snapshot(lab.create())
    snapshot = msgspec.structs.replace(snapshot, volume_id=disk.volume.id)
    now = replace(attempt(), cancelled=lambda: True)
    with suppress(CancelledOperationError):
        lab.backend.snapshot(disk.volume, snapshot, now)
    disk.placed(lab.backend.delete_snapshot(disk.volume, snapshot, attempt(now.operation_id)))
    lab.verify()
