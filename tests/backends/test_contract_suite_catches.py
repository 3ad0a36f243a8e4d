"""The suite must fail for a back end that breaks a promise: planted defects, each caught by name."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from memory_storage import MemoryStorage

from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Backend, Capabilities, Finding, Placement, Snapped, Snapshot, Volume
from breezeblock.backends.memory import MemoryBackend, MemoryConfig
from breezeblock.errors import BreezeblockError
from breezeblock.testing import (
    Moment,
    Outcome,
    cases,
    kill_everywhere,
    kills,
    run_killed_at,
    trace,
    trace_lines,
)

HERE = "test_contract_suite_catches"


@dataclass
class BrokenStorage(MemoryStorage):
    broken: type[MemoryBackend] = MemoryBackend

    def open(self) -> Backend:
        backend = self.broken("ram", self.config)
        backend.start()
        return backend


def storage(broken: type[MemoryBackend], path: Path) -> BrokenStorage:
    return BrokenStorage(
        MemoryConfig(path=str(path)), packages=("breezeblock.backends.memory", HERE), broken=broken
    )


def broken_promises(broken: type[MemoryBackend], path: Path) -> set[str]:
    failed = set()
    for case in cases():
        shutil.rmtree(path, ignore_errors=True)
        try:
            case.run(storage(broken, path))
        except (AssertionError, BreezeblockError, OSError):
            failed.add(case.name)
    return failed


class AliasedSnapshot(MemoryBackend):
    """The snapshot is the volume's own file."""

    def snapshot(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Snapped:
        home, state = self._existing(volume)
        aliased = {**state.snapshots, snapshot.id: state.active}
        self._publish(home, msgspec.structs.replace(state, snapshots=aliased), attempt)
        return Snapped(volume=Placement(locator=volume.id, format="raw"), locator=snapshot.id)


class LossyDelete(MemoryBackend):
    """Deleting a snapshot takes the next one's content along."""

    def delete_snapshot(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Placement:
        home, state = self._existing(volume)
        order = list(state.snapshots)
        for key in order[order.index(snapshot.id) + 1 :][:1] if snapshot.id in order else []:
            os.truncate(home / state.snapshots[key].file, 0)
            os.truncate(home / state.snapshots[key].file, state.snapshots[key].bytes)
        return super().delete_snapshot(volume, snapshot, attempt)


class LeakyCreate(MemoryBackend):
    """Each create leaves a file beside the volumes."""

    def create(self, volume: Volume, attempt: Attempt) -> Placement:
        (self._root / attempt.temp_name).touch()
        return super().create(volume, attempt)


class ShrinkingExtend(MemoryBackend):
    """Extend sets the size, whatever it was."""

    def extend(self, volume: Volume, virtual_bytes: int, attempt: Attempt) -> Placement:
        home, state = self._existing(volume)
        os.truncate(home / state.active.file, virtual_bytes)
        active = msgspec.structs.replace(state.active, bytes=virtual_bytes)
        self._publish(home, msgspec.structs.replace(state, active=active), attempt)
        return Placement(locator=volume.id, format="raw")


class LinkedClone(MemoryBackend):
    """The clone shares the source's file."""

    def clone(self, source: Volume, volume: Volume, attempt: Attempt) -> Placement:
        home, state = self._existing(source)
        target = self._root / volume.id
        target.mkdir(exist_ok=True)
        if not (target / state.active.file).exists():
            os.link(home / state.active.file, target / state.active.file)
            os.truncate(target / state.active.file, volume.virtual_bytes)
            active = msgspec.structs.replace(state.active, bytes=volume.virtual_bytes)
            self._publish(target, msgspec.structs.replace(state, active=active, snapshots={}), attempt)
        return Placement(locator=volume.id, format="raw")


class Boasting(MemoryBackend):
    """Declares what it has not."""

    def capabilities(self) -> Capabilities:
        return msgspec.structs.replace(super().capabilities(), revert="any")

    def revert(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Placement:
        return Placement(locator=volume.id, format="raw")


class Blind(MemoryBackend):
    """Finds everything in order."""

    def check(self, volume: Volume, snapshots: tuple[Snapshot, ...]) -> list[Finding]:
        return []


class OnceOnly(MemoryBackend):
    """Complains when a finished delete is repeated."""

    def delete(self, volume: Volume, attempt: Attempt) -> None:
        self._existing(volume)
        super().delete(volume, attempt)


@pytest.mark.parametrize(
    ("broken", "case"),
    [
        (AliasedSnapshot, "snapshot_fixes_the_content"),
        (LossyDelete, "any_snapshot_can_be_deleted_in_any_order"),
        (LeakyCreate, "create_reads_as_zeros"),
        (ShrinkingExtend, "extend_never_shrinks"),
        (LinkedClone, "clone_is_independent_and_zero_beyond"),
        (Boasting, "revert_brings_the_newest_back"),
        (Blind, "check_finds_damage"),
        (OnceOnly, "delete_of_the_absent_succeeds"),
    ],
)
def test_a_broken_promise_is_caught(broken: type[MemoryBackend], case: str, tmp_path: Path) -> None:
    assert case in broken_promises(broken, tmp_path / "ram")


def test_the_reference_breaks_none(tmp_path: Path) -> None:
    assert broken_promises(MemoryBackend, tmp_path / "ram") == set()


class TornCreate(MemoryBackend):
    """Publishes the volume's description before its data, and believes the description."""

    def create(self, volume: Volume, attempt: Attempt) -> Placement:
        home = self._root / volume.id
        home.mkdir(exist_ok=True)
        if not (home / "volume.json").exists():
            active = {"file": "data", "bytes": volume.virtual_bytes}
            (home / "volume.json").write_bytes(msgspec.json.encode({"active": active}))
            with (home / "data").open("xb") as file:
                file.truncate(volume.virtual_bytes)
        return Placement(locator=volume.id, format="raw")


class EagerDeleteSnapshot(MemoryBackend):
    """Removes the snapshot's data, then is sure that it was there."""

    def delete_snapshot(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Placement:
        home, state = self._existing(volume)
        if snapshot.id in state.snapshots:
            (home / state.snapshots[snapshot.id].file).unlink()
        return super().delete_snapshot(volume, snapshot, attempt)


class MovingExtend(MemoryBackend):
    """Extends by copying to a new file, of which a killed one is never removed."""

    def delete(self, volume: Volume, attempt: Attempt) -> None:
        super().delete(volume, attempt)

    def extend(self, volume: Volume, virtual_bytes: int, attempt: Attempt) -> Placement:
        stray = self._root / f"stray-{attempt.token}"
        stray.touch()
        placement = super().extend(volume, virtual_bytes, attempt)
        stray.unlink()
        return placement


@pytest.mark.crash
@pytest.mark.parametrize(
    ("broken", "name"),
    [
        (TornCreate, "create"),
        (EagerDeleteSnapshot, "delete_middle_snapshot"),
        (MovingExtend, "extend"),
    ],
)
def test_a_torn_step_is_caught(broken: type[MemoryBackend], name: str, tmp_path: Path) -> None:
    scenario = next(scenario for scenario, _ending in kills() if scenario.name == name)
    with pytest.raises(AssertionError, match=r"killed before line \d+"):
        kill_everywhere(storage(broken, tmp_path), scenario, "rerun")


@pytest.mark.crash
def test_no_scenario_is_run_for_a_verb_that_is_lacking(tmp_path: Path) -> None:
    bare = MemoryConfig(path=str(tmp_path), lacks=("clone",))
    scenario = next(scenario for scenario, _ending in kills() if scenario.name == "clone")
    assert kill_everywhere(MemoryStorage(bare), scenario, "rerun") is None


NEVER = Moment("", 0, 0)


def three_files(folder: Path) -> Callable[[], None]:
    def make() -> None:
        for name in "abc":
            (folder / name).touch()

    return make


@pytest.mark.crash
def test_every_line_is_a_place_to_be_killed_at(tmp_path: Path) -> None:
    make = three_files(tmp_path)
    lines = trace_lines(make, (HERE,))
    assert len(lines) == 7  # the loop's line four times, its body three times
    found = []
    for moment in lines:
        for name in "abc":
            (tmp_path / name).unlink(missing_ok=True)
        assert run_killed_at(make, (HERE,), moment) is Outcome.KILLED
        found.append(len(list(tmp_path.iterdir())))
    assert found == [0, 0, 1, 1, 2, 2, 3]
    assert run_killed_at(make, (HERE,), NEVER) is Outcome.FINISHED


@pytest.mark.crash
def test_lines_that_find_a_change_are_told(tmp_path: Path) -> None:
    seen = trace(three_files(tmp_path), (HERE,), watching=tmp_path)
    assert seen.changes == seen.lines[2::2]  # the loop's line, each time after the body
    assert trace(three_files(tmp_path), (HERE,)).changes == []


def write_in(folder: Path) -> None:
    with (folder / "a").open("r+b", buffering=0) as file:
        file.write(b"one")
        file.truncate(9)
        os.posix_fallocate(file.fileno(), 0, 99)
        os.pwrite(file.fileno(), b"two", 50)
        file.read()
        (folder / "b").hardlink_to(folder / "a")
        (folder / "b").rename(folder / "c")
        (folder / "c").chmod(0o600)
        (folder / "new").mkdir()
        (folder / "new" / "d").touch()
        (folder / "new" / "d").write_bytes(b"three")
        (folder / "c").unlink()
    (folder / "a").stat()


@pytest.mark.crash
def test_no_change_escapes(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    seen = trace(lambda: write_in(tmp_path), (HERE,), watching=tmp_path)
    begin = write_in.__code__.co_firstlineno
    found = [moment.line - begin for moment in seen.changes]
    assert found == [3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 1]  # the line after; leaving `with` counts as its own


@pytest.mark.crash
def test_a_child_process_begun_and_gone_is_told(tmp_path: Path) -> None:
    seen = trace(run_true, (HERE,), watching=tmp_path)
    begin = run_true.__code__.co_firstlineno
    assert [moment.line - begin for moment in seen.changes] == [2, 4]


def run_true() -> None:
    child = subprocess.Popen(["true"])
    time.sleep(0)
    child.wait()
    time.sleep(0)


def leave_a_child() -> None:
    subprocess.Popen(["sleep", "60"])
    time.sleep(0)


@pytest.mark.crash
def test_a_child_process_that_lives_on_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("breezeblock.testing.kill._GRACE_SECONDS", 0.2)
    code = leave_a_child.__code__
    last = Moment(code.co_filename, code.co_firstlineno + 2, 0)
    with pytest.raises(AssertionError, match="must die with its parent"):
        run_killed_at(leave_a_child, (HERE,), last)


def give_way() -> None:
    raise ValueError("no")


@pytest.mark.crash
def test_an_error_in_the_child_is_told(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="ValueError: no"):
        run_killed_at(give_way, (HERE,), NEVER)
