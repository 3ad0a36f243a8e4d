"""Kill a function before any line of the packages that are under test.

The function runs in a forked child, which sends itself SIGKILL right before the chosen line, as if the
machine's power went there: no `finally`, no `atexit`, nothing. Whatever child processes it had must
die with it; the caller gets control only when they have.

Fork keeps only the calling thread, so call this where no other thread matters to the function.
"""

import ctypes
import importlib.util
import os
import select
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import msgspec

from breezeblock.testing.directory import Watch

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


class Trace(NamedTuple):
    """The moments of a run, in order."""

    lines: list[Moment]
    changes: list[Moment]
    """Those that found the directory changed since the line before, or a child process begun or gone.

    Before all lines between two of these, the directory is as it is before the first of the two."""


class Outcome(Enum):
    """How the child ended."""

    KILLED = "killed"
    FINISHED = "finished"
    """The function returned before the line was reached."""


class ChildFailedError(AssertionError):
    """The function raised in the child; the text is its traceback."""


def _nothing() -> None:
    return None


def trace(
    function: Callable[[], object],
    packages: tuple[str, ...],
    *,
    before: Callable[[], object] = _nothing,
    watching: Path | None = None,
) -> Trace:
    """Run `function` to its end in a child; return the moments at lines of `packages`, in order.

    `before` runs first in the child; its lines do not count. With `watching`, a directory, it is told which
    lines found a change in it.
    """
    roots = tuple(root for package in packages for root in _files_of(package))

    def run() -> bytes:
        watch = Watch(watching) if watching else None
        return msgspec.json.encode(_list_lines(function, roots, watch))

    outcome, said = _in_child(run, before)
    assert outcome is Outcome.FINISHED, "killed without having been asked to"
    return msgspec.json.decode(said, type=Trace)


def trace_lines(
    function: Callable[[], object], packages: tuple[str, ...], *, before: Callable[[], object] = _nothing
) -> list[Moment]:
    """Return the lines alone of what `trace` returns."""
    return trace(function, packages, before=before).lines


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
    roots = tuple(root for package in packages for root in _files_of(package))
    assert moment.file.startswith(roots) or not moment.file, f"{moment.file} is not of {packages}"

    def run() -> bytes:
        _run_until(function, moment)
        return b""

    outcome, _said = _in_child(run, before)
    return outcome


def _in_child(run: Callable[[], bytes], before: Callable[[], object]) -> tuple[Outcome, bytes]:
    notes = os.memfd_create("breezeblock-kill")  # outlives the child, and takes any amount
    sys.stdout.flush()
    sys.stderr.flush()
    with os.fdopen(notes, "r+b", buffering=0) as file, _adopting_orphans():
        pid = os.fork()
        if pid == 0:
            _be_child(run, before, notes)
        status = _wait(pid)
        _wait_for_group(pid)
        file.seek(0)
        said = file.read()
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return Outcome.KILLED, b""
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
        return Outcome.FINISHED, said
    raise ChildFailedError(said.decode(errors="replace") or f"The child ended with status {status}.")


def _be_child(run: Callable[[], bytes], before: Callable[[], object], notes: int) -> None:
    code = 1
    try:
        os.setpgid(0, 0)
        before()
        _tell(notes, run())
        code = 0
    except BaseException:  # noqa: BLE001 - the parent raises it
        _tell(notes, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _list_lines(function: Callable[[], object], roots: tuple[str, ...], watch: Watch | None) -> Trace:
    found = Trace([], [])
    seen: Counter[tuple[str, int]] = Counter()
    wanted: dict[str, bool] = {}
    at_work = False

    def is_new() -> bool:
        # What a child process does shows when it does it, which is not the same in each run. So where it
        # begins and where it is gone are looked at whatever shows.
        nonlocal at_work
        before, at_work = at_work, _has_child()
        return bool(watch and watch.changed()) or before != at_work

    def on_line(frame: FrameType, event: str, _argument: object) -> Any:
        if event == "line":
            line = frame.f_code.co_filename, frame.f_lineno
            found.lines.append(Moment(*line, seen[line]))
            seen[line] += 1
            if watch and is_new():
                found.changes.append(found.lines[-1])
        return on_line

    def on_call(frame: FrameType, _event: str, _argument: object) -> Any:
        name = frame.f_code.co_filename
        if name not in wanted:
            wanted[name] = name.startswith(roots)
        return on_line if wanted[name] else None

    _traced(function, on_call)
    return found


def _run_until(function: Callable[[], object], moment: Moment) -> None:
    """Count only at that line, and look into no code that does not have it: most runs are to be killed."""
    left = moment.times
    has_it: dict[CodeType, bool] = {}

    def on_line(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal left
        if event == "line" and frame.f_lineno == moment.line:
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
        return on_line

    def on_call(frame: FrameType, _event: str, _argument: object) -> Any:
        code = frame.f_code
        if code not in has_it:
            lines = (line for _start, _end, line in code.co_lines())
            has_it[code] = code.co_filename == moment.file and moment.line in lines
        return on_line if has_it[code] else None

    _traced(function, on_call)


def _traced(function: Callable[[], object], on_call: Callable[[FrameType, str, object], Any]) -> None:
    sys.settrace(on_call)
    try:
        function()
    finally:
        sys.settrace(None)


def _has_child() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


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
    ends = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(ends, select.POLLIN)
        in_time = poll.poll(_LIMIT_SECONDS * 1000)
    finally:
        os.close(ends)
    if not in_time:
        os.killpg(pid, signal.SIGKILL)
    _pid, status = os.waitpid(pid, 0)
    if not in_time:
        raise AssertionError(f"The child did not end within {_LIMIT_SECONDS:g} seconds.")
    return status


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
