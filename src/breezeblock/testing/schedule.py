"""The kill schedule: every verb is killed before each of its lines, then run again or undone.

After the re-run the verb's promise must hold as if nothing had happened; after the undo, nothing of it
may be left. Both with a fresh `Attempt` of the same operation, on a back end opened anew.

All that a killed process leaves is on the storage. Where that is one local directory, use is made of it:

- Lines that find the directory as the line before found it leave the same when they are killed at, so one
  kill stands for all of them. The kernel tells which lines find a change. A child process at work makes
  changes at any time: what it had done by then is what the kill happens to leave, there and here.
- A kill that leaves, byte for byte, what an earlier one left would be recovered from as that was; and a
  recovery that makes, byte for byte, what an earlier one made and says the same of it was verified then.
  In all rounds everything has the same names for that.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from breezeblock.attempt import Attempt
from breezeblock.testing import directory
from breezeblock.testing.kill import Moment, Outcome, run_killed_at, trace
from breezeblock.testing.lab import InDirectory, Lab, Storage, attempt
from breezeblock.testing.scenarios import Ending, Scenario, Step


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a schedule did."""

    lines: int
    """How many lines the verb executed, repetitions counted."""
    kills: int
    """How many times it was killed."""
    states: int
    """How many different things the kills left on the storage, or `kills` where that cannot be told."""
    seconds: float


def kill_everywhere(
    storage: Storage,
    scenario: Scenario,
    ending: Ending,
    *,
    stride: int = 1,
    repeats: int = 2,
    every_line: bool = False,
) -> Report | None:
    """Kill the scenario's verb before its lines, one kill a round; None if the back end lacks the verb.

    On a storage that is a directory: before each line that finds it changed, or with `every_line` before
    every line. On another, a line that runs many times (in a copying loop) is used the first `repeats`
    times. With a `stride` only each `stride`th of all these is used; the first and the last always are.
    Raises AssertionError naming the line where the promise broke.
    """
    backend = storage.open()
    able = backend.capabilities()
    backend.stop()
    if not scenario.needs(able):
        return None
    if isinstance(storage, InDirectory):
        return _in_directory(storage, scenario, ending, 1 if every_line else stride, every_line=every_line)
    return _anywhere(storage, scenario, ending, stride, repeats)


def choose(lines: Sequence[Moment], *, stride: int, repeats: int) -> list[Moment]:
    """Return the moments to kill at."""
    early = [moment for moment in lines if moment.times < repeats]
    return _each(early, stride, (*lines[:1], *lines[-1:]))


def _each(moments: Sequence[Moment], stride: int, always: Sequence[Moment]) -> list[Moment]:
    return list(dict.fromkeys((*always, *moments[::stride])))


def _anywhere(storage: Storage, scenario: Scenario, ending: Ending, stride: int, repeats: int) -> Report:
    """Prepare, kill, recover and verify for each line; nothing is known of what a kill leaves."""
    begun, kills = time.monotonic(), 0
    with _prepared(storage, scenario, ending) as one:
        lines = trace(one.act, storage.packages, before=one.open).lines
        one.recover()
        one.verify()
    for moment in choose(lines, stride=stride, repeats=repeats):
        with _naming(scenario, ending, moment), _prepared(storage, scenario, ending) as one:
            kills += run_killed_at(one.act, storage.packages, moment, before=one.open) is Outcome.KILLED
            one.recover()
            one.verify()
    return Report(lines=len(lines), kills=kills, states=kills, seconds=time.monotonic() - begun)


def _in_directory(
    storage: InDirectory, scenario: Scenario, ending: Ending, stride: int, *, every_line: bool
) -> Report:
    """Prepare once; kill where something changed, recover from what is new, verify what is new then."""
    begun, kills = time.monotonic(), 0
    left: set[str] = set()
    made: set[tuple[str, str]] = set()
    with (
        tempfile.TemporaryDirectory() as scratch,
        _prepared(storage, scenario, ending) as one,
    ):
        kept = Path(scratch) / "kept"
        directory.copy(storage.root, kept)
        bring_back = one.lab.remember()

        def recover() -> None:
            told = one.recover()
            if (now := (directory.digest(storage.root), repr(told))) not in made:
                one.verify()
                made.add(now)

        seen = trace(one.act, storage.packages, before=one.open, watching=storage.root)
        recover()
        ends = (seen.lines[0], seen.lines[-1])
        for moment in _each(seen.lines if every_line else seen.changes, stride, ends):
            with _naming(scenario, ending, moment):
                one.lab.backend.stop()
                directory.copy(kept, storage.root)
                bring_back()
                kills += run_killed_at(one.act, storage.packages, moment, before=one.open) is Outcome.KILLED
                if (state := directory.digest(storage.root)) not in left:
                    left.add(state)
                    recover()
    return Report(lines=len(seen.lines), kills=kills, states=len(left), seconds=time.monotonic() - begun)


@dataclass
class _Round:
    """The scenario's verb ready to be called, and to be called again after it was killed."""

    storage: Storage
    lab: Lab
    step: Step
    ending: Ending
    first: Attempt = field(default_factory=attempt)

    def open(self) -> None:
        """Open what `act` uses, in the process that will be killed: what it holds a dead process leaves."""
        self.lab.backend = self.storage.open()

    def act(self) -> None:
        self.step.act(self.lab.backend, self.first)

    def recover(self) -> object:
        """Open the back end anew and call the verb again, or undo it; return what was told."""
        self.lab.backend = self.storage.open()
        if self.ending == "rerun":
            told = self.step.act(self.lab.backend, self.second)
            self.step.accept(told)
        else:
            assert self.step.undo is not None
            told = self.step.undo(self.lab.backend, self.second)
            self.step.undone(told)
        self.lab.backend.sweep(frozenset({self.first.operation_id}))
        self.lab.backend.sweep(frozenset())
        return told

    def verify(self) -> None:
        self.lab.verify()
        self.lab.finish()

    @cached_property
    def second(self) -> Attempt:
        return attempt(self.first.operation_id)


@contextmanager
def _prepared(storage: Storage, scenario: Scenario, ending: Ending) -> Iterator[_Round]:
    lab = Lab(storage)
    try:
        step = scenario.prepare(lab)
        lab.backend.stop()
        yield _Round(storage, lab, step, ending)
    finally:
        lab.backend.stop()


@contextmanager
def _naming(scenario: Scenario, ending: Ending, moment: Moment) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise AssertionError(
            f"{scenario}: killed before line {moment.line} of {moment.file} (run {moment.times} times "
            f"before), then {ending}: {error}"
        ) from error
