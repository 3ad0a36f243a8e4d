"""What is killed: each verb in each situation that matters, and how one sees that it was made good."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Backend, Capabilities
from breezeblock.testing.lab import Disk, Lab
from breezeblock.testing.linked import clone, clone_of_snapshot

Ending = Literal["rerun", "undo"]
Act = Callable[[Backend, Attempt], Any]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One call of a verb on what a scenario prepared."""

    act: Act
    accept: Callable[[Any], None]
    """Takes what `act` returned into the lab's model; the lab is then verified."""
    undo: Act | None = None
    undone: Callable[[Any], None] = lambda _result: None
    """Takes what `undo` returned into the lab's model."""


@dataclass(frozen=True)
class Scenario:
    """A verb in one situation."""

    name: str
    prepare: Callable[[Lab], Step]
    needs: Callable[[Capabilities], bool]
    undoable: bool

    def __str__(self) -> str:
        return self.name


_scenarios: list[Scenario] = []


def kills() -> tuple[tuple[Scenario, Ending], ...]:
    """Return every scenario with every ending it can have."""
    endings: list[tuple[Scenario, Ending]] = [(scenario, "rerun") for scenario in _scenarios]
    endings += [(scenario, "undo") for scenario in _scenarios if scenario.undoable]
    return tuple(endings)


def _scenario(
    *needs: str, undoable: bool = False, revert: tuple[str, ...] = ()
) -> Callable[[Callable[[Lab], Step]], Callable[[Lab], Step]]:
    def fits(able: Capabilities) -> bool:
        return all(getattr(able, need) for need in needs) and (not revert or able.revert in revert)

    def register(prepare: Callable[[Lab], Step]) -> Callable[[Lab], Step]:
        _scenarios.append(Scenario(prepare.__name__.strip("_"), prepare, fits, undoable))
        return prepare

    return register


@_scenario(undoable=True)
def _create(lab: Lab) -> Step:
    disk = lab.new()
    return Step(
        act=lambda backend, now: backend.create(disk.volume, now),
        accept=lambda placement: lab.derived(disk, b"", placement),
        undo=lambda backend, now: backend.delete(disk.volume, now),
        undone=lambda _none: lab.verify_nothing_left(),
    )


@_scenario()
def _delete(lab: Lab) -> Step:
    disk = lab.create()
    lab.disks.remove(disk)
    return Step(
        act=lambda backend, now: backend.delete(disk.volume, now),
        accept=lambda _none: lab.verify_nothing_left(),
    )


@_scenario("snapshots")
def _delete_with_snapshots(lab: Lab) -> Step:
    disk = lab.create()
    lab.snapshots(disk, 2)
    lab.disks.remove(disk)
    return Step(
        act=lambda backend, now: backend.delete(disk.volume, now),
        accept=lambda _none: lab.verify_nothing_left(),
    )


@_scenario("extend")
def _extend(lab: Lab) -> Step:
    disk = lab.create()
    return Step(
        act=lambda backend, now: backend.extend(disk.volume, 2 * lab.unit, now),
        accept=lambda placement: lab.extended(disk, 2, placement),
    )


@_scenario("extend", "snapshots")
def _extend_with_snapshots(lab: Lab) -> Step:
    disk = lab.create()
    lab.snapshots(disk, 1)
    return Step(
        act=lambda backend, now: backend.extend(disk.volume, 2 * lab.unit, now),
        accept=lambda placement: lab.extended(disk, 2, placement),
    )


def _snapshot_of(number: int) -> Callable[[Lab], Step]:
    def prepare(lab: Lab) -> Step:
        disk = lab.create()
        lab.snapshots(disk, number - 1)
        snapshot = lab.new_snapshot(disk)
        return Step(
            act=lambda backend, now: backend.snapshot(disk.volume, snapshot, now),
            accept=lambda done: lab.snapped(disk, snapshot, done.volume, done.locator),
            undo=lambda backend, now: backend.delete_snapshot(disk.volume, snapshot, now),
            undone=disk.placed,
        )

    prepare.__name__ = f"snapshot_{number}"
    return prepare


def _delete_snapshot_at(index: int, name: str) -> Callable[[Lab], Step]:
    def prepare(lab: Lab) -> Step:
        disk = lab.create()
        lab.snapshots(disk, 3)
        snapshot = disk.at(index)

        def accept(placement: Any) -> None:
            disk.placed(placement)
            del disk.snapshots[snapshot.id]

        return Step(
            act=lambda backend, now: backend.delete_snapshot(disk.volume, snapshot, now), accept=accept
        )

    prepare.__name__ = f"delete_{name}_snapshot"
    return prepare


def _revert_to(index: int, name: str) -> Callable[[Lab], Step]:
    def prepare(lab: Lab) -> Step:
        disk = lab.create()
        lab.snapshots(disk, 3)
        snapshot = disk.at(index)
        return Step(
            act=lambda backend, now: backend.revert(disk.volume, snapshot, now),
            accept=lambda placement: lab.reverted(disk, snapshot, placement),
        )

    prepare.__name__ = f"revert_to_{name}"
    return prepare


for _number in (1, 2):
    _scenario("snapshots", undoable=True)(_snapshot_of(_number))
for _index, _name in enumerate(("oldest", "middle", "newest")):
    _scenario("snapshots")(_delete_snapshot_at(_index, _name))
_scenario("snapshots", revert=("latest", "any"))(_revert_to(2, "newest"))
_scenario("snapshots", revert=("any",))(_revert_to(0, "oldest"))


@_scenario("clone", undoable=True)
def _clone(lab: Lab) -> Step:
    source, disk = lab.create(), lab.new(2)
    return Step(
        act=lambda backend, now: backend.clone(source.volume, disk.volume, now),
        accept=lambda placement: lab.derived(disk, bytes(source.content), placement),
        undo=lambda backend, now: backend.delete(disk.volume, now),
    )


@_scenario("create_from_snapshot", undoable=True)
def _create_from_snapshot(lab: Lab) -> Step:
    source, disk = lab.create(), lab.new(2)
    lab.snapshots(source, 2)
    snapshot, content = next(iter(source.snapshots.values()))
    return Step(
        act=lambda backend, now: backend.create_from_snapshot(source.volume, snapshot, disk.volume, now),
        accept=lambda placement: lab.derived(disk, content, placement),
        undo=lambda backend, now: backend.delete(disk.volume, now),
    )


def _clone_linked(*, snapshot: bool, written: bool) -> Callable[[Lab], Step]:
    def prepare(lab: Lab) -> Step:
        source, disk = lab.create(), lab.new(2)
        lab.snapshots(source, 1)
        sibling = clone(lab, source)
        if written:
            lab.write(source, 4096)
        origin, content = source.snapshots[source.at(0).id]

        def act(backend: Backend, now: Attempt) -> Any:
            if snapshot:
                return backend.create_from_snapshot(source.volume, origin, disk.volume, now)
            return backend.clone(source.volume, disk.volume, now)

        def undone(_none: object) -> None:
            lab.write(sibling, 8192)
            lab.shorten(source)

        return Step(
            act=act,
            accept=lambda made: lab.derived(disk, content if snapshot else bytes(source.content), made),
            undo=lambda backend, now: backend.delete(disk.volume, now),
            undone=undone,
        )

    prepare.__name__ = f"clone_linked_of_{'snapshot' if snapshot else 'volume'}{'_written' * written}"
    return prepare


def _related(lab: Lab) -> tuple[Disk, Disk, Disk]:
    source = lab.create()
    lab.snapshots(source, 2)
    of_snapshot = clone_of_snapshot(lab, source, 0)
    lab.write(source, 4096)
    lab.write(of_snapshot, 8192)
    of_clone = clone(lab, of_snapshot)
    lab.write(of_clone, 0)
    return source, of_snapshot, of_clone


def _delete_related(which: int, name: str, *before: int) -> Callable[[Lab], Step]:
    def prepare(lab: Lab) -> Step:
        disks = _related(lab)
        for index in before:
            lab.delete(disks[index])
        lab.disks.remove(disks[which])
        return Step(
            act=lambda backend, now: backend.delete(disks[which].volume, now),
            accept=lambda _none: None if lab.disks else lab.verify_nothing_left(),
        )

    prepare.__name__ = f"delete_{name}"
    return prepare


def _on_related(which: int, name: str, *before: int) -> Callable[[Lab], Step]:
    def prepare(lab: Lab) -> Step:
        disks = _related(lab)
        for index in before:
            lab.delete(disks[index])
        disk = disks[which]
        return Step(act=lambda backend, now: getattr(backend, name)(disk.volume, now), accept=disk.placed)

    prepare.__name__ = f"{name}_related"
    return prepare


for _snapshot, _written in ((True, False), (False, False), (False, True)):
    _scenario("linked_clones", undoable=True)(_clone_linked(snapshot=_snapshot, written=_written))
_scenario("linked_clones")(_delete_related(0, "parent_of_clones"))
_scenario("linked_clones")(_delete_related(1, "clone_between"))
_scenario("linked_clones")(_delete_related(2, "last_clone", 0, 1))
_scenario("linked_clones")(_on_related(2, "flatten", 0, 1))
_scenario("linked_clones")(_on_related(0, "shorten", 2, 1))


@_scenario("linked_clones")
def _delete_snapshot_under_clone(lab: Lab) -> Step:
    source, *_clones = _related(lab)
    snapshot = source.at(0)

    def accept(placement: Any) -> None:
        source.placed(placement)
        del source.snapshots[snapshot.id]

    return Step(act=lambda backend, now: backend.delete_snapshot(source.volume, snapshot, now), accept=accept)


@_scenario("linked_clones")
def _shorten_what_is_hidden(lab: Lab) -> Step:
    source, of_snapshot, of_clone = _related(lab)
    for one in [source.at(0), source.at(1)]:
        lab.delete_snapshot(source, one)
    lab.delete(of_clone)
    lab.delete(of_snapshot)
    return Step(act=lambda backend, now: backend.shorten(source.volume, now), accept=source.placed)
