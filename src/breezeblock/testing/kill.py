"""Kill a function before any line of the packages that are under test.

The function runs in a forked child, which sends itself SIGKILL right before the chosen line, as if the
machine's power went there: no `finally`, no `atexit`, nothing. Whatever child processes it had must
die with it; the caller gets control only when they have.

Fork keeps only the calling thread, so call this where no other thread matters to the function.
"""

import ctypes
import importlib.util
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import msgspec

_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37
_GRACE_SECONDS = 10.0
_LIMIT_SECONDS = 240.0


class Moment(NamedTuple):
    """Right before a line runs for the nth time (from 0).

    Told like this and not by the number of all lines before, because a loop that waits for a child process
    runs as often as it happens to.
    """

    file: str
    line: int
    times: int


class Outcome(Enum):
    """How the child ended."""

    KILLED = "killed"
    FINISHED = "finished"
    """The function returned before the line was reached."""


class ChildFailedError(AssertionError):
    """The function raised in the child; the text is its traceback."""


def _nothing() -> None:
    return None


def trace_lines(
    function: Callable[[], object], packages: tuple[str, ...], *, before: Callable[[], object] = _nothing
) -> list[Moment]:
    """Run `function` to its end in a child; return the moments at lines of `packages`, in order.

    `before` runs first in the child; its lines do not count.
    """
    outcome, moments = _in_child(function, packages, None, before)
    assert outcome is Outcome.FINISHED, "killed without having been asked to"
    return moments


def run_killed_at(
    function: Callable[[], object],
    packages: tuple[str, ...],
    moment: Moment,
    *,
    before: Callable[[], object] = _nothing,
) -> Outcome:
    """Run `function` in a child that is killed at `moment`, one of those that `trace_lines` found.

    `before` runs first in the child; its lines do not count. Raises ChildFailedError if the function
    raised, AssertionError if the child or a process that it started lives on.
    """
    outcome, _moments = _in_child(function, packages, moment, before)
    return outcome


def _in_child(
    function: Callable[[], object],
    packages: tuple[str, ...],
    kill_at: Moment | None,
    before: Callable[[], object],
) -> tuple[Outcome, list[Moment]]:
    roots = tuple(root for package in packages for root in _files_of(package))
    notes = os.memfd_create("breezeblock-kill")  # outlives the child, and takes any amount
    sys.stdout.flush()
    sys.stderr.flush()
    with os.fdopen(notes, "r+b", buffering=0) as file, _adopting_orphans():
        pid = os.fork()
        if pid == 0:
            _be_child(function, roots, kill_at, before, notes)
        status = _wait(pid)
        _wait_for_group(pid)
        file.seek(0)
        said = file.read()
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return Outcome.KILLED, []
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
        return Outcome.FINISHED, msgspec.json.decode(said, type=list[Moment])
    raise ChildFailedError(said.decode(errors="replace") or f"The child ended with status {status}.")


def _be_child(
    function: Callable[[], object],
    roots: tuple[str, ...],
    kill_at: Moment | None,
    before: Callable[[], object],
    notes: int,
) -> None:
    code = 1
    try:
        os.setpgid(0, 0)
        before()
        moments = _run_traced(function, roots, kill_at)
        _tell(notes, msgspec.json.encode(moments if kill_at is None else []))
        code = 0
    except BaseException:  # noqa: BLE001 - the parent raises it
        _tell(notes, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _run_traced(
    function: Callable[[], object], roots: tuple[str, ...], kill_at: Moment | None
) -> list[Moment]:
    moments: list[Moment] = []
    seen: Counter[tuple[str, int]] = Counter()
    wanted: dict[str, bool] = {}

    def on_line(frame: FrameType, event: str, _argument: object) -> Any:
        if event == "line":
            line = frame.f_code.co_filename, frame.f_lineno
            moment = Moment(*line, seen[line])
            if moment == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            seen[line] += 1
            moments.append(moment)
        return on_line

    def on_call(frame: FrameType, _event: str, _argument: object) -> Any:
        name = frame.f_code.co_filename
        if name not in wanted:
            wanted[name] = name.startswith(roots)
        return on_line if wanted[name] else None

    sys.settrace(on_call)
    try:
        function()
    finally:
        sys.settrace(None)
    return moments


def _files_of(package: str) -> Iterator[str]:
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"no package {package}"
    if spec.submodule_search_locations:
        for folder in spec.submodule_search_locations:
            yield str(Path(folder)) + os.sep
    else:
        assert spec.origin, f"package {package} has no file"
        yield spec.origin


def _tell(notes: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(notes, view) :]


def _wait(pid: int) -> int:
    end = time.monotonic() + _LIMIT_SECONDS
    pause = 0.0005
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f"The child did not end within {_LIMIT_SECONDS:g} seconds.")


def _wait_for_group(group: int) -> None:
    """Wait until every process that the child started is gone; orphans are ours to reap."""
    end = time.monotonic() + _GRACE_SECONDS
    while time.monotonic() < end:
        try:
            done, _status = os.waitpid(-group, os.WNOHANG)
        except ChildProcessError:
            return
        if not done:
            time.sleep(0.001)
    os.killpg(group, signal.SIGKILL)
    raise AssertionError("A process that the killed one had started lives on: it must die with its parent.")


@contextmanager
def _adopting_orphans() -> Iterator[None]:
    libc = ctypes.CDLL(None, use_errno=True)
    before = ctypes.c_int()
    libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)
