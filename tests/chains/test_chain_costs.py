"""What a verb does does not depend on how many volumes there are, or how large: calls and bytes, not time."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
from chainlab import MIB, NAMING, attempt, new_id

from breezeblock import chains, images
from breezeblock.backends.contract import Backend, Placement, Snapped, Snapshot, Volume
from breezeblock.backends.local import LocalConfig, open_local

MANY = 10_000
_counting: list[Counter[str]] = []


def _hook(event: str, _arguments: object) -> None:
    if _counting and event.startswith(("os.", "open")):
        _counting[-1][event] += 1


sys.addaudithook(_hook)


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count what Python asks the kernel for about files and directories."""
    calls: Counter[str] = Counter()
    _counting.append(calls)
    try:
        yield calls
    finally:
        _counting.pop()


def neighbours(directory: Path, number: int) -> None:
    for _ in range(number):
        (directory / f"volume-{uuid4()}").touch()


def life(backend: Backend, clone: str) -> Iterator[tuple[str, Counter[str]]]:
    """Run every verb on a family of volumes; yield what each cost."""

    def new() -> Volume:
        return Volume(id=new_id(), virtual_bytes=MIB, pool="here", depth=1, options={"clone": clone})

    def known(volume: Volume, placement: Placement) -> Volume:
        return msgspec.structs.replace(volume, format=placement.format, depth=placement.depth)

    volume, other, third = new(), new(), new()
    snapshots = [Snapshot(id=new_id(), volume_id=volume.id, virtual_bytes=MIB) for _ in range(2)]

    def on_volume(verb: Callable[[], Placement | Snapped]) -> None:
        nonlocal volume
        made = verb()
        volume = known(volume, made.volume if isinstance(made, Snapped) else made)

    def on_other(verb: Callable[[], Placement]) -> None:
        nonlocal other
        other = known(other, verb())

    def on_third(verb: Callable[[], Placement]) -> None:
        nonlocal third
        third = known(third, verb())

    def delete(one: Volume, *held: Snapshot) -> None:
        told = tuple(snapshot.id for snapshot in held)
        backend.delete(msgspec.structs.replace(one, snapshots=told), attempt())

    steps: list[tuple[str, Callable[[], object]]] = [
        ("create", lambda: on_volume(lambda: backend.create(volume, attempt()))),
        ("connection_info", lambda: backend.connection_info(volume, {})),
        ("snapshot", lambda: on_volume(lambda: backend.snapshot(volume, snapshots[0], attempt()))),
        ("another snapshot", lambda: on_volume(lambda: backend.snapshot(volume, snapshots[1], attempt()))),
        ("clone", lambda: on_other(lambda: backend.clone(volume, other, attempt()))),
        (
            "create_from_snapshot",
            lambda: on_third(lambda: backend.create_from_snapshot(volume, snapshots[0], third, attempt())),
        ),
        ("extend", lambda: on_volume(lambda: backend.extend(volume, 2 * MIB, attempt()))),
        ("revert", lambda: on_volume(lambda: backend.revert(volume, snapshots[1], attempt()))),
        (
            "delete_snapshot",
            lambda: on_volume(lambda: backend.delete_snapshot(volume, snapshots[1], attempt())),
        ),
        ("connection_info of a chain", lambda: backend.connection_info(volume, {})),
        ("flatten", lambda: on_third(lambda: backend.flatten(third, attempt()))),
        ("shorten", lambda: on_volume(lambda: backend.shorten(volume, attempt()))),
        ("delete with a snapshot", lambda: delete(volume, snapshots[0])),
        ("delete the last clone", lambda: delete(other)),
        ("delete", lambda: delete(third)),
        ("stats", backend.stats),
    ]
    for name, act in steps:
        with counted() as calls:
            act()
        yield name, calls


@pytest.mark.parametrize("clone", ["linked", "full"])
def test_ten_thousand_volumes_cost_no_verb_a_call(tmp_path: Path, clone: str) -> None:
    costs = []
    for number in (0, MANY):
        place = tmp_path / str(number)
        backend = open_local("here", LocalConfig(path=str(place)), tmp_path)
        backend.start()
        neighbours(place, number)
        costs.append(dict(life(backend, clone)))
        assert len(list(place.iterdir())) == number
    few, many = costs
    assert many == few
    for name, calls in many.items():
        # A clone's parent has a directory of its own, with a name for each clone: that may be listed.
        listed = calls["os.listdir"] + calls["os.scandir"]
        assert listed <= 3, f"{name} lists directories {listed} times"


def test_the_pool_itself_is_never_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    place = tmp_path / "pool"
    from breezeblock.shares import files

    listing = files.listing
    monkeypatch.setattr(files, "listing", lambda path: seen.append(str(path)) or listing(path))  # type: ignore[func-returns-value]
    backend = open_local("here", LocalConfig(path=str(place)), tmp_path)
    backend.start()
    for _name, _calls in life(backend, "linked"):
        assert str(place) not in seen, f"{_name} lists the pool"
    assert seen, "the directories of clones are listed"


GIB = 1 << 30
CHANGED = 8 * MIB


def moved() -> tuple[int, int]:
    """How many bytes this process has asked the kernel to read and to write (proc(5), io)."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["rchar"]), int(lines["wchar"])


def snapshots_of(directory: Path, kind: str, virtual_bytes: int) -> dict[str, tuple[int, int]]:
    """Run the verbs of snapshots on a volume that holds 32 MiB; return what each read and wrote."""
    naming, one, (first, second) = NAMING.of_format(kind), new_id(), (new_id(), new_id())
    chains.create(directory, naming, one, virtual_bytes, attempt(), format=kind)

    def write(length: int) -> None:
        path = directory / chains.active(directory, naming, one, kind)[0]
        for number in range(length // MIB):
            images.write(path, number * 7 * MIB, [os.urandom(MIB)], kind)

    verbs: list[tuple[str, Callable[[], object]]] = [
        (
            "snapshot",
            lambda: chains.snapshot(directory, naming, one, first, virtual_bytes, attempt(), format=kind),
        ),
        ("", lambda: write(CHANGED)),
        (
            "another",
            lambda: chains.snapshot(directory, naming, one, second, virtual_bytes, attempt(), format=kind),
        ),
        ("delete", lambda: chains.delete_snapshot(directory, naming, one, first, attempt(), format=kind)),
        (
            "delete the newest",
            lambda: chains.delete_snapshot(directory, naming, one, second, attempt(), format=kind),
        ),
    ]
    write(32 * MIB)
    costs = {}
    for name, verb in verbs:
        before = moved()
        verb()
        after = moved()
        costs[name] = after[0] - before[0], after[1] - before[1]
    return costs


@pytest.mark.parametrize("kind", ["vhdx", "vhd"])
def test_snapshots_of_large_disks_cost_what_was_written(kind: str, tmp_path: Path) -> None:
    small, large = (snapshots_of(tmp_path, kind, size * GIB) for size in (1, 100))
    # A VHD's table is written with each image, even if nothing is in it: 4 bytes for each 2 MiB.
    table = {"vhdx": 0, "vhd": 100 * GIB // (2 * MIB) * 4}[kind]
    for name in ("snapshot", "another"):
        assert large[name][1] < 64 * 1024 + 2 * table
    assert CHANGED < large["delete"][1] < CHANGED + MIB
    assert large["delete the newest"][1] < MIB
    for name, (_read, written) in large.items():
        assert abs(written - small[name][1]) < 64 * 1024 + 2 * table, "the size of the disk costs nothing"
    assert large["delete"][0] < 2 * CHANGED + 4 * MIB, "and what is read are tables and what was written"
