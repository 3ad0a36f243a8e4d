"""Every verb is killed before each line that finds the disk changed, then repeated or undone.

What a killed run leaves on disk is all that its successor sees: lines that find the disk as the line before
did need no kill of their own, and each distinct state is tried once.
"""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import pytest
from chainlab import KIB, MIB, NAMING, Volume, attempt, new_id

from breezeblock import chains
from breezeblock.shares.files import listing
from breezeblock.testing import Moment, run_killed_at, trace
from breezeblock.testing import directory as disk

pytestmark = pytest.mark.crash

ROOMS = ("breezeblock.chains", "breezeblock.images", "breezeblock.shares")
Verb = Callable[[Path, str], None]  # directory, attempt token
OPERATION = "0000"


@dataclass
class Scenario:
    volume: Volume
    verb: Verb
    expected: Volume
    """What the volume must be once the verb was repeated."""
    result: Volume | None = None
    """A second volume that the verb makes."""
    undo: Verb | None = None
    gone: bool = False


def prepared(directory: Path, image_format: str, *, snapshots: int = 0, written: bool = True) -> Volume:
    volume = Volume(directory, image_format, 256 * KIB).create()
    if written:
        volume.write(0, 200 * KIB, 1)
    for number in range(snapshots):
        volume.snapshot()
        if written:
            volume.write(64 * KIB * number, 64 * KIB + 4096, 10 + number)
    return volume


def creating(directory: Path, image_format: str, thick: bool) -> Scenario:
    volume = Volume(directory, image_format, MIB)

    def create(where: Path, token: str) -> None:
        chains.create(
            where, volume.naming, volume.id, MIB, attempt(OPERATION, token), format=image_format, thick=thick
        )

    def delete(where: Path, token: str) -> None:
        chains.delete(where, volume.naming, volume.id, attempt(OPERATION, token))

    return Scenario(volume, create, volume, undo=delete)


def deleting(directory: Path, image_format: str) -> Scenario:
    volume = prepared(directory, image_format, snapshots=2)

    def delete(where: Path, token: str) -> None:
        chains.delete(where, volume.naming, volume.id, attempt(OPERATION, token))

    return Scenario(volume, delete, volume, gone=True)


def extending(directory: Path, image_format: str, snapshots: int) -> Scenario:
    volume = prepared(directory, image_format, snapshots=snapshots)
    expected = deepcopy(volume)
    expected.model.extend(bytes(MIB))

    def extend(where: Path, token: str) -> None:
        chains.extend(
            where,
            volume.naming,
            volume.id,
            len(expected.model),
            attempt(OPERATION, token),
            format=image_format,
        )

    return Scenario(volume, extend, expected)


def snapping(directory: Path, image_format: str, snapshots: int) -> Scenario:
    volume = prepared(directory, image_format, snapshots=snapshots)
    expected, snapshot_id = deepcopy(volume), new_id()
    expected.snapshots[snapshot_id] = bytes(volume.model)

    def snapshot(where: Path, token: str) -> None:
        chains.snapshot(
            where,
            volume.naming,
            volume.id,
            snapshot_id,
            256 * KIB,
            attempt(OPERATION, token),
            format=image_format,
        )

    def undo(where: Path, token: str) -> None:
        chains.delete_snapshot(
            where, volume.naming, volume.id, snapshot_id, attempt(OPERATION, token), format=image_format
        )

    return Scenario(volume, snapshot, expected, undo=undo)


def merging(directory: Path, image_format: str, which: int, written: bool, grown: bool = False) -> Scenario:
    volume = prepared(directory, image_format, snapshots=3, written=written)
    if grown:
        volume.extend(MIB)
    expected, snapshot_id = deepcopy(volume), list(volume.snapshots)[which]
    del expected.snapshots[snapshot_id]

    def delete_snapshot(where: Path, token: str) -> None:
        chains.delete_snapshot(
            where, volume.naming, volume.id, snapshot_id, attempt(OPERATION, token), format=image_format
        )

    return Scenario(volume, delete_snapshot, expected)


def reverting(directory: Path, image_format: str, which: int) -> Scenario:
    volume = prepared(directory, image_format, snapshots=3)
    volume.extend(MIB)
    expected, snapshot_id = deepcopy(volume), list(volume.snapshots)[which]
    expected.model = bytearray(volume.snapshots[snapshot_id].ljust(MIB, b"\0"))

    def revert(where: Path, token: str) -> None:
        chains.revert(
            where, volume.naming, volume.id, snapshot_id, MIB, attempt(OPERATION, token), format=image_format
        )

    return Scenario(volume, revert, expected)


def copying(directory: Path, image_format: str, result_format: str, snapshots: int) -> Scenario:
    volume = prepared(directory, image_format, snapshots=snapshots)
    result = Volume(directory, result_format, MIB)
    result.model[: len(volume.model)] = volume.model

    def copy(where: Path, token: str) -> None:
        chains.copy(
            where,
            result.naming,
            volume.id,
            None,
            where,
            result.id,
            MIB,
            attempt(OPERATION, token),
            source_format=image_format,
            source_naming=volume.naming,
            format=result_format,
        )

    def delete(where: Path, token: str) -> None:
        chains.delete(where, result.naming, result.id, attempt(OPERATION, token))

    return Scenario(volume, copy, volume, result=result, undo=delete)


SCENARIOS: dict[str, Callable[[Path], Scenario]] = {
    "create raw": lambda place: creating(place, "raw", False),
    "create thick raw": lambda place: creating(place, "raw", True),
    "create qcow2": lambda place: creating(place, "qcow2", False),
    "create thick qcow2": lambda place: creating(place, "qcow2", True),
    "delete": lambda place: deleting(place, "raw"),
    "extend raw": lambda place: extending(place, "raw", 0),
    "extend overlay": lambda place: extending(place, "raw", 1),
    "first snapshot of raw": lambda place: snapping(place, "raw", 0),
    "second snapshot of qcow2": lambda place: snapping(place, "qcow2", 1),
    "delete newest, raw": lambda place: merging(place, "raw", 2, True, grown=True),
    "delete middle, raw": lambda place: merging(place, "raw", 1, True),
    "delete oldest, raw": lambda place: merging(place, "raw", 0, True),
    "delete oldest, empty": lambda place: merging(place, "raw", 0, False),
    "delete newest, empty": lambda place: merging(place, "raw", 2, False, grown=True),
    "delete oldest, qcow2": lambda place: merging(place, "qcow2", 0, True),
    "delete newest, qcow2": lambda place: merging(place, "qcow2", 2, True, grown=True),
    "revert to newest": lambda place: reverting(place, "raw", 2),
    "revert to oldest": lambda place: reverting(place, "raw", 0),
    "copy raw": lambda place: copying(place, "raw", "raw", 0),
    "copy chain": lambda place: copying(place, "raw", "raw", 2),
    "copy to qcow2": lambda place: copying(place, "raw", "qcow2", 1),
    "create vhdx": lambda place: creating(place, "vhdx", False),
    "create fixed vhd": lambda place: creating(place, "vhd", True),
    "delete vhdx": lambda place: deleting(place, "vhdx"),
    "extend vhdx with a snapshot": lambda place: extending(place, "vhdx", 1),
    "extend vhd with snapshots": lambda place: extending(place, "vhd", 2),
    "first snapshot of vhdx": lambda place: snapping(place, "vhdx", 0),
    "delete newest, vhdx": lambda place: merging(place, "vhdx", 2, True, grown=True),
    "delete middle, vhdx": lambda place: merging(place, "vhdx", 1, True),
    "delete oldest, empty vhdx": lambda place: merging(place, "vhdx", 0, False),
    "delete newest, vhd": lambda place: merging(place, "vhd", 2, True, grown=True),
    "delete middle, vhd": lambda place: merging(place, "vhd", 1, True),
    "revert vhdx to oldest": lambda place: reverting(place, "vhdx", 0),
    "revert vhd to oldest": lambda place: reverting(place, "vhd", 0),
    "copy vhd to qcow2": lambda place: copying(place, "vhd", "qcow2", 1),
}


def states_after_kills(scenario: Scenario, template: Path, place: Path) -> Iterator[tuple[Moment, Path]]:
    """Yield (moment, directory) for each state that a kill leaves and no earlier kill left."""
    seen: set[str] = set()
    killed = place / "killed"
    disk.copy(template, killed)
    run = trace(lambda: scenario.verb(killed, "dead"), ROOMS, watching=killed)
    # The odd ones are for what is not the same in each run: how far a child process came. VHDs have none.
    odd = run.lines[::41] if scenario.volume.format in {"raw", "qcow2"} else []
    for moment in dict.fromkeys((*run.changes, *odd, *run.lines[-3:])):
        disk.copy(template, killed)
        run_killed_at(lambda: scenario.verb(killed, "dead"), ROOMS, moment)
        state = disk.digest(killed)
        if state not in seen:
            seen.add(state)
            yield moment, killed


def at(volume: Volume, directory: Path) -> Volume:
    moved = deepcopy(volume)
    moved.directory = directory
    return moved


@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_at_every_line(tmp_path: Path, name: str) -> None:
    template, place = tmp_path / "template", Path("/dev/shm") / f"breezeblock-kill-{new_id()}"
    template.mkdir()
    place.mkdir()
    scenario = SCENARIOS[name](template)
    tried = 0
    try:
        for moment, left in states_after_kills(scenario, template, place):
            for ending in ("repeat", "undo") if scenario.undo else ("repeat",):
                copied = place / ending
                disk.copy(left, copied)
                try:
                    finish(scenario, copied, ending)
                except BaseException as error:
                    error.add_note(f"killed at {moment}, then {ending}: {sorted(listing(left))}")
                    raise
                tried += 1
    finally:
        shutil.rmtree(place)
    assert tried > 3


def finish(scenario: Scenario, directory: Path, ending: str) -> None:
    if ending == "undo":
        assert scenario.undo
        scenario.undo(directory, "next")
        if scenario.volume.naming.volume(scenario.volume.id) in listing(directory):
            # Undoing the first snapshot leaves .info, as deleting the last snapshot does.
            at(scenario.volume, directory).verify()
            assert scenario.result is None or not list(directory.glob(f"*{scenario.result.id}*"))
        else:
            assert listing(directory) == []
        return
    scenario.verb(directory, "next")
    if scenario.gone:
        assert listing(directory) == []
        return
    at(scenario.expected, directory).verify()
    if scenario.result:
        at(scenario.result, directory).verify()


@pytest.mark.parametrize("round_number", range(12))
def test_killed_at_random_times_in_the_middle_of_qemu_img(tmp_path: Path, round_number: int) -> None:
    """Bulk work takes long enough to be hit inside; what the killed process had started dies with it."""
    chance = random.Random(round_number)
    volume = Volume(tmp_path, "qcow2", 32 * MIB).create()
    volume.write(0, 32 * MIB, 1)
    first = volume.snapshot()
    volume.write(0, 24 * MIB, 2)
    second = volume.snapshot()
    volume.write(MIB, 30 * MIB, 3)
    result = Volume(tmp_path, "qcow2", 32 * MIB)

    def delete(token: str) -> None:
        chains.delete_snapshot(tmp_path, NAMING, volume.id, first, attempt(OPERATION, token), format="qcow2")

    def revert(token: str) -> None:
        chains.revert(tmp_path, NAMING, volume.id, first, 32 * MIB, attempt(OPERATION, token), format="qcow2")

    def copy(token: str) -> None:
        chains.copy(
            tmp_path,
            NAMING,
            volume.id,
            second,
            tmp_path,
            result.id,
            32 * MIB,
            attempt(OPERATION, token),
            source_format="qcow2",
            format="qcow2",
        )

    verb = (delete, revert, copy)[round_number % 3]
    for token in ("one", "two", "three"):
        killed_after(lambda token=token: verb(token), chance.uniform(0.002, 0.06))  # type: ignore[misc]
    verb("last")
    if verb is delete:
        del volume.snapshots[first]
    elif verb is revert:
        volume.model = bytearray(volume.snapshots[first])
    else:
        result.model = bytearray(volume.snapshots[second])
        result.verify()
    volume.verify()


def killed_after(function: Callable[[], None], seconds: float) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            function()
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    # What it had started dies with it.
    end = time.monotonic() + 10
    while living(pid):
        assert time.monotonic() < end, "qemu-img outlived the process that started it"
        time.sleep(0.002)


def living(group: int) -> bool:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == group and fields[0] not in "ZX":
            return True
    return False


def test_a_half_deleted_snapshot_is_finished_by_any_other_verb(tmp_path: Path) -> None:
    template, place = tmp_path / "template", tmp_path / "place"
    template.mkdir()
    place.mkdir()
    scenario = merging(template, "raw", 1, written=True)
    volume, begun = scenario.volume, 0
    for _moment, directory in states_after_kills(scenario, template, place):
        path, real = chains.active(directory, NAMING, volume.id, "raw")
        assert real == "qcow2"
        assert (directory / path).exists()
        if not (directory / NAMING.intent(volume.id)).exists():
            continue
        begun += 1
        assert [one.severity for one in chains.check(directory, NAMING, volume.id, [], 0, "raw")] == [
            "warning"
        ]
        after = at(scenario.expected, directory)
        after.snapshot()
        chains.sweep(directory, [])
        after.verify()
    # The record; the data below; the child's header, twice; the new .info begun, written, renamed; the
    # overlay gone. How far qemu-img itself came when it was killed may add some.
    assert begun >= 8
