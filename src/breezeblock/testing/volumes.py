"""Promises about volumes: create, delete, extend, and volumes made from others."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec

from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Backend, Volume
from breezeblock.errors import BreezeblockError, CancelledOperationError, InvalidInputError
from breezeblock.testing.case import case, raises
from breezeblock.testing.lab import Disk, Lab, attempt


def _derive(lab: Lab, source: Disk, units: int) -> Disk:
    disk = lab.new(units)
    lab.derived(disk, bytes(source.content), lab.backend.clone(source.volume, disk.volume, attempt()))
    return disk


def _derive_from_snapshot(lab: Lab, source: Disk, index: int, units: int) -> Disk:
    disk = lab.new(units)
    snapshot, content = list(source.snapshots.values())[index]
    made = lab.backend.create_from_snapshot(source.volume, snapshot, disk.volume, attempt())
    lab.derived(disk, content, made)
    return disk


@case()
def _create_reads_as_zeros(lab: Lab) -> None:
    lab.create(written=False)
    lab.create(2, written=False)
    lab.verify()


@case()
def _create_keeps_what_is_written(lab: Lab) -> None:
    disk = lab.create()
    lab.reopen()
    lab.write(disk, 8192, 12288)
    lab.verify()


@case()
def _create_again_is_the_same_volume(lab: Lab) -> None:
    disk = lab.create(written=False)
    again = lab.backend.create(disk.volume, attempt())
    assert (again.locator, again.format) == (disk.volume.locator, disk.volume.format)
    lab.verify()


@case()
def _create_refuses_what_is_no_size(lab: Lab) -> None:
    sizes = [0, -512, 513]
    for size in sizes:
        volume = msgspec.structs.replace(lab.new().volume, virtual_bytes=size)
        raises(InvalidInputError, partial(lab.backend.create, volume, attempt()), f"create of {size} bytes")
    if lab.able.max_virtual_bytes is not None:
        size = lab.able.max_virtual_bytes + 512
        volume = msgspec.structs.replace(lab.new().volume, virtual_bytes=size)
        raises(BreezeblockError, partial(lab.backend.create, volume, attempt()), f"create of {size} bytes")
    lab.verify_nothing_left()


@case()
def _create_refuses_a_pool_it_does_not_have(lab: Lab) -> None:
    volume = msgspec.structs.replace(lab.new().volume, pool="no such pool")
    raises(BreezeblockError, lambda: lab.backend.create(volume, attempt()), "create in an unknown pool")
    lab.verify_nothing_left()


@case()
def _delete_of_the_absent_succeeds(lab: Lab) -> None:
    disk = lab.create()
    lab.delete(disk)
    lab.backend.delete(disk.volume, attempt())
    lab.backend.delete(lab.new().volume, attempt())


@case("extend")
def _extend_grows_with_zeros(lab: Lab) -> None:
    disk = lab.create()
    lab.extend(disk, 2)
    lab.verify()
    lab.write(disk, 2 * lab.unit - 4096)
    lab.verify()


@case("extend")
def _extend_never_shrinks(lab: Lab) -> None:
    disk = lab.create(2)
    lab.extend(disk, 1)
    lab.extend(disk, 2)
    lab.verify()


@case("clone")
def _clone_is_independent_and_zero_beyond(lab: Lab) -> None:
    source = lab.create()
    same, larger = _derive(lab, source, 1), _derive(lab, source, 2)
    lab.verify()
    for disk in (source, same, larger):
        lab.write(disk, 0)
    lab.verify()
    lab.delete(source)
    lab.verify()


@case("clone")
def _clone_again_is_the_same_volume(lab: Lab) -> None:
    source = lab.create()
    disk = _derive(lab, source, 2)
    again = lab.backend.clone(source.volume, disk.volume, attempt())
    assert (again.locator, again.format) == (disk.volume.locator, disk.volume.format)
    lab.verify()


@case("clone", "snapshots")
def _clone_of_a_volume_with_snapshots(lab: Lab) -> None:
    source = lab.create()
    lab.snapshots(source, 2)
    disk = _derive(lab, source, 1)
    lab.snapshots(disk, 1)
    lab.verify()
    lab.delete(source)
    lab.verify()


@case("create_from_snapshot")
def _volume_from_snapshot_is_independent_and_zero_beyond(lab: Lab) -> None:
    source = lab.create()
    lab.snapshots(source, 3)
    made = [_derive_from_snapshot(lab, source, index, 1 + index) for index in range(3)]
    lab.verify()
    for disk in (source, *made):
        lab.write(disk, 0)
    lab.verify()
    lab.delete_snapshot(source, source.at(1))
    lab.verify()
    lab.delete(source)
    lab.verify()


@case("create_from_snapshot")
def _volume_from_snapshot_again_is_the_same_volume(lab: Lab) -> None:
    source = lab.create()
    lab.snapshots(source, 1)
    disk = _derive_from_snapshot(lab, source, 0, 2)
    again = lab.backend.create_from_snapshot(source.volume, source.at(0), disk.volume, attempt())
    assert (again.locator, again.format) == (disk.volume.locator, disk.volume.format)
    lab.verify()


@case()
def _cancelled_create_leaves_nothing(lab: Lab) -> None:
    disk = lab.new()
    _cancel(lab, lambda backend, now: backend.create(disk.volume, now), disk.volume)


@case("clone")
def _cancelled_clone_leaves_nothing(lab: Lab) -> None:
    source, disk = lab.create(), lab.new()
    other = _derive(lab, source, 1)  # what a first clone leaves at its source is no leftover of the second
    lab.delete(other)
    lab.shorten(source)
    _cancel(lab, lambda backend, now: backend.clone(source.volume, disk.volume, now), disk.volume, source)


@case("create_from_snapshot")
def _cancelled_volume_from_snapshot_leaves_nothing(lab: Lab) -> None:
    source, disk = lab.create(), lab.new()
    snapshot = lab.snapshot(source)
    _cancel(
        lab,
        lambda backend, now: backend.create_from_snapshot(source.volume, snapshot, disk.volume, now),
        disk.volume,
    )


def _cancel(
    lab: Lab, call: Callable[[Backend, Attempt], Any], volume: Volume, source: Disk | None = None
) -> None:
    """Ask `call` to stop: at once, and at its second look. It may also have been faster than that."""
    held = lab.storage.names()
    for looks in (0, 1):
        now = replace(attempt(), cancelled=_after(looks))
        with suppress(CancelledOperationError):
            call(lab.backend, now)
        lab.backend.delete(volume, attempt(now.operation_id))
        if source is not None:
            lab.shorten(source)
        assert lab.storage.names() == held, "a cancelled verb left something behind"
        lab.verify()


def _after(looks: int) -> Callable[[], bool]:
    left = iter(range(looks))
    return lambda: next(left, None) is None


@case()
def _different_volumes_at_the_same_time(lab: Lab) -> None:
    def live(disk: Disk) -> None:
        disk.placed(lab.backend.create(disk.volume, attempt()))
        lab.write(disk, 0)
        if lab.able.snapshots:
            lab.snapshots(disk, 2)
            lab.delete_snapshot(disk, disk.at(0))
        if lab.able.extend:
            lab.extend(disk, 2)

    disks = [lab.new() for _ in range(6)]
    with ThreadPoolExecutor(max_workers=len(disks)) as threads:
        list(threads.map(live, disks))
    lab.disks += disks
    lab.verify()
    with ThreadPoolExecutor(max_workers=len(disks)) as threads:
        list(threads.map(lab.delete, disks))
