"""Promises about volumes that share: whatever happens to one of them, the others keep their content."""

from collections.abc import Callable
from itertools import permutations

import msgspec

from breezeblock.errors import ConflictError
from breezeblock.testing.case import case, raises
from breezeblock.testing.lab import Disk, Lab, attempt


def clone(lab: Lab, source: Disk, units: int = 1) -> Disk:
    """Clone a volume as it is now."""
    disk = _new(lab, units)
    lab.derived(disk, bytes(source.content), lab.backend.clone(source.volume, disk.volume, attempt()))
    return disk


def clone_of_snapshot(lab: Lab, source: Disk, index: int, units: int = 1) -> Disk:
    """Make a volume from a snapshot."""
    disk = _new(lab, units)
    snapshot, content = list(source.snapshots.values())[index]
    made = lab.backend.create_from_snapshot(source.volume, snapshot, disk.volume, attempt())
    lab.derived(disk, content, made)
    return disk


def _new(lab: Lab, units: int) -> Disk:
    disk = lab.new(units)
    options = {**disk.volume.options, "clone": "linked"}
    disk.volume = msgspec.structs.replace(disk.volume, options=options)
    return disk


def family(lab: Lab) -> tuple[Disk, Disk, Disk, Disk]:
    """Make a volume with two snapshots, a clone of the older one, one of the volume, and one of that."""
    source = lab.create()
    lab.snapshots(source, 2)
    of_snapshot, of_volume = clone_of_snapshot(lab, source, 0), clone(lab, source, 2)
    lab.write(source, 4096)
    lab.write(of_snapshot, 4096)
    lab.snapshots(of_volume, 1)
    of_clone = clone(lab, of_volume, 2)
    lab.write(of_volume, 4096)
    lab.write(of_clone, 0)
    return source, of_snapshot, of_volume, of_clone


@case("linked_clones")
def _related_volumes_can_be_deleted_in_any_order(lab: Lab) -> None:
    # In a circle and back: each comes first, each last, and each before and after each other one.
    circle = (0, 1, 2, 3) * 2
    for order in (circle[at : at + 4][::step] for at in range(4) for step in (1, -1)):
        disks = family(lab)
        for index in order:
            lab.delete(disks[index])
            lab.compare()
            if lab.disks:
                lab.verify_clean(lab.disks[0])
        lab.verify_nothing_left()


@case("linked_clones")
def _snapshots_of_related_volumes_can_be_deleted_in_any_order(lab: Lab) -> None:
    for order in permutations(range(3)):
        source, *_clones, last = disks = family(lab)

        def forget(disk: Disk) -> None:
            lab.delete_snapshot(disk, disk.at(0))

        acts: tuple[Callable[[], None], ...] = (
            lambda source=source: forget(source),  # type: ignore[misc]
            lambda source=source: forget(source),  # type: ignore[misc]
            lambda last=last: lab.delete(last),  # type: ignore[misc]
        )
        for index in order:
            acts[index]()
            lab.compare()
            lab.write(source, 8192)
        lab.verify()
        for disk in disks[:3]:
            lab.delete(disk)
        lab.verify_nothing_left()


@case("linked_clones")
def _related_volumes_take_every_verb(lab: Lab) -> None:
    disks = family(lab)
    for disk in disks:
        lab.snapshots(disk, 2)
        lab.extend(disk, 3)
        lab.write(disk, 3 * lab.unit - 4096)
        lab.compare()
    for disk in disks:
        lab.revert(disk, disk.at(0))
        lab.compare()
        lab.delete_snapshot(disk, disk.at(-1))
        lab.shorten(disk)
        lab.compare()
        lab.delete_snapshot(disk, disk.at(0))
        lab.verify()


@case("linked_clones")
def _a_clone_made_again_is_the_same(lab: Lab) -> None:
    source = lab.create()
    disk = clone(lab, source, 2)
    lab.write(source, 0)
    again = lab.backend.clone(source.volume, disk.volume, attempt())
    assert (again.locator, again.format) == (disk.volume.locator, disk.volume.format)
    lab.verify()


@case("linked_clones")
def _many_clones_of_a_volume_that_rests_cost_one_layer(lab: Lab) -> None:
    source = lab.create()
    disks = [clone(lab, source) for _ in range(5)]
    lab.snapshot(source)  # tells where the source is now
    for disk in disks:
        lab.write(disk, 0)
    assert len({disk.volume.depth for disk in disks}) == 1
    lab.verify()


@case("linked_clones")
def _flatten_makes_independent(lab: Lab) -> None:
    source, of_snapshot, of_volume, of_clone = family(lab)
    raises(
        ConflictError,
        lambda: lab.backend.flatten(of_volume.volume, attempt()),
        "flattening a volume that clones rest on",
    )
    for disk in (of_clone, of_volume, of_snapshot, source):
        for _ in range(2):
            placement = lab.backend.flatten(disk.volume, attempt())
            disk.placed(placement)
            assert not placement.parent
        lab.verify()
    for disk in (source, of_volume):
        lab.shorten(disk)
        lab.delete(disk)
        lab.verify()


@case("linked_clones")
def _shorten_takes_away_what_nobody_needs(lab: Lab) -> None:
    source, of_snapshot, of_volume, of_clone = family(lab)
    for snapshot in [source.at(0), source.at(1)]:
        lab.delete_snapshot(source, snapshot)
    held = lab.backend.shorten(source.volume, attempt())
    source.placed(held)
    assert held.hidden_layers, "clones rest on the volume, and yet no layer is kept for them"
    lab.verify()
    for disk in (of_clone, of_volume, of_snapshot):
        lab.delete(disk)
    short = lab.backend.shorten(source.volume, attempt())
    source.placed(short)
    assert (short.depth, short.hidden_layers, short.reclaimable_bytes) == (1, 0, 0)
    lab.verify()


@case("linked_clones")
def _check_and_inventory_know_what_is_kept(lab: Lab) -> None:
    source, *others = family(lab)
    lab.delete_snapshot(source, source.at(0))
    mine = [one for one in lab.backend.inventory() if one.volume_id == source.volume.id]
    assert len([one for one in mine if one.kind == "snapshot"]) == 1
    assert [one for one in mine if one.kind == "layer"]
    lab.delete(source)
    mine = [one for one in lab.backend.inventory() if one.volume_id == source.volume.id]
    assert mine
    assert {one.kind for one in mine} == {"kept"}
    assert [one for one in lab.backend.check(source.volume, ()) if one.severity == "error"]
    lab.verify(*others)
