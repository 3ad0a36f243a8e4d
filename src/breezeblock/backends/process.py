"""The service's hold on one helper process: start it, call it, kill it, and never wait for its end.

A process that waits in the kernel for a dead server may not even die of SIGKILL before that server is
back. So `kill` releases every caller at once; whether the process is gone is another question (`gone`),
which only the listening thread asks, and which decides when a successor may change anything.
"""

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from typing import Any

import msgspec

from breezeblock.attempt import Attempt
from breezeblock.backends import wire
from breezeblock.backends.contract import Backend
from breezeblock.errors import UnavailableError

TICK_S = 0.5
"""How often a waiting call looks whether its operation was cancelled."""
_SEND_TIMEOUT_S = 10
_ENVIRONMENT_PREFIX = "BREEZEBLOCK__"


class LostError(UnavailableError):
    """The helper ended, or was ended, before it answered."""


class DiedError(LostError):
    """The helper ended by itself, or was killed by somebody else."""


class SilentError(UnavailableError):
    """The call has said nothing for longer than it may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """Which back end a helper is to be."""

    name: str
    opener: Callable[[str, Any, Path], Backend]
    config: msgspec.Struct
    state_dir: Path

    def hello(self) -> wire.Hello:
        """Write it down."""
        return wire.Hello(
            self.name,
            f"{self.opener.__module__}:{self.opener.__qualname__}",
            f"{type(self.config).__module__}:{type(self.config).__qualname__}",
            msgspec.Raw(msgspec.msgpack.encode(self.config)),
            str(self.state_dir),
        )


@dataclass(slots=True)
class _Waiting:
    verb: str
    inbox: "SimpleQueue[wire.FromHelper | LostError]" = field(default_factory=SimpleQueue)
    heard: float = field(default_factory=time.monotonic)


class Helper:
    """One helper process. Threads may share it."""

    def __init__(self, role: Role) -> None:
        self.pid = 0
        """0 until it runs."""
        self.gone = Event()
        """Set when neither it nor anything it started is left."""
        self.worked = -1e9
        """When its storage last gave a sign of life other than by a look at it (monotonic seconds)."""
        self._lost: LostError | None = None
        self._lock = Lock()
        self._sending = Lock()
        self._numbers = count(1)
        self._waiting: dict[int, _Waiting] = {}
        self._socket, theirs = socket.socketpair()
        # The time limit is the kernel's and for sending only: reading waits for as long as it takes.
        limit = struct.pack("@ll", _SEND_TIMEOUT_S, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        wire.send(self._socket, role.hello())
        # The thread that starts it is the one that listens: should that ever end, so does the helper,
        # which asked for the parent-death signal of its parent *thread* (prctl(2)).
        Thread(target=self._listen, args=(theirs,), name=f"helper-{role.name}", daemon=True).start()

    @property
    def lost(self) -> bool:
        """Whether it takes no more calls."""
        return self._lost is not None

    def call(
        self, verb: str, arguments: tuple[Any, ...], *, silence_s: float, quiet: Callable[[], None] | None
    ) -> Any:
        """Make a call and wait for its end.

        Each time it has been silent for `silence_s` longer, `quiet` is called, and may raise or kill; without
        `quiet` the helper is killed, which raises SilentError. Raises what the verb raised, and LostError
        when the helper is gone.
        """
        form = wire.verbs()[verb]
        number = next(self._numbers)
        waiting = _Waiting(verb)
        attempt = next((one for one in arguments if isinstance(one, Attempt)), None)
        plain = tuple(
            wire.Trying(one.operation_id, one.token, one.io_bytes_per_s) if isinstance(one, Attempt) else one
            for one in arguments
        )
        with self._lock:
            if self._lost is not None:
                raise _again(self._lost)
            self._waiting[number] = waiting
        try:
            self._send(wire.Call(number, verb, msgspec.Raw(msgspec.msgpack.encode(plain))))
            answer = self._answer(number, waiting, attempt, silence_s, quiet)
        finally:
            with self._lock:
                self._waiting.pop(number, None)
        if isinstance(answer, LostError):
            raise _again(answer)
        if isinstance(answer, wire.Failure):
            raise wire.raised(answer)
        return form.result.decode(answer.value)

    def _answer(
        self,
        number: int,
        waiting: _Waiting,
        attempt: Attempt | None,
        silence_s: float,
        quiet: Callable[[], None] | None,
    ) -> wire.Result | wire.Failure | LostError:
        told = False
        due = time.monotonic() + silence_s
        while True:
            message = _next(waiting, min(TICK_S, silence_s))
            if message is None:
                if attempt is not None and not told and attempt.cancelled():
                    told = True
                    self._send(wire.Cancel(number))
                if time.monotonic() >= max(due, waiting.heard + silence_s):
                    if quiet is None:
                        silent = f"{waiting.verb} was not answered for {silence_s:g} s"
                        self.kill(silent)
                        raise SilentError(f"{silent}.")
                    quiet()
                    due = time.monotonic() + silence_s
            elif not isinstance(message, wire.Progress):
                return message
            elif attempt is not None:
                attempt.progress(message.done, message.total)

    def kill(self, reason: str, remedy: str = "") -> None:
        """End it now and release its callers; returns at once, dead or not."""
        self._lose(LostError(f"{reason}.", remedy=remedy))
        if self.pid and not self.gone.is_set():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def _send(self, message: wire.ToHelper) -> None:
        try:
            with self._sending:
                wire.send(self._socket, message)
        except OSError as error:
            problem = f"A helper process takes no messages: {error.strerror or 'it is too busy'}"
            if isinstance(error, ConnectionError):  # its end is closed: it is dead already
                self._lose(DiedError(f"{problem}."))
            self.kill(problem)

    def _lose(self, why: LostError) -> None:
        with self._lock:
            if self._lost is None:
                self._lost = why
            waiting = list(self._waiting.values())
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        for one in waiting:
            one.inbox.put(self._lost)

    # ── the listening thread ─────────────────────────────────────────────────────────────────────────

    def _listen(self, theirs: socket.socket) -> None:
        try:
            process = self._start(theirs)
        except OSError as error:
            self._lose(LostError(f"A helper process cannot be started: {error.strerror}."))
            self.gone.set()
            return
        for frame in wire.frames(self._socket):
            self._deliver(wire.from_helper.decode(frame))
        self._lose(DiedError(f"The helper process {self.pid} ended before it answered."))
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        pause = 0.001
        while not _is_gone(process):
            time.sleep(pause)
            pause = min(pause * 2, 1.0)
        self.gone.set()
        self._socket.close()

    def _start(self, theirs: socket.socket) -> "subprocess.Popen[bytes]":
        environment = {k: v for k, v in os.environ.items() if not k.startswith(_ENVIRONMENT_PREFIX)}
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "breezeblock.backends.helper", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                env=environment,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self.pid = process.pid
        if self._lost is not None:  # killed before there was anything to kill
            os.killpg(self.pid, signal.SIGKILL)
        return process

    def _deliver(self, message: wire.FromHelper) -> None:
        now = time.monotonic()
        with self._lock:
            waiting = self._waiting.get(message.number)
        if waiting is not None:
            waiting.heard = now
            waiting.inbox.put(message)
            if not isinstance(message, wire.Failure) and waiting.verb != "stats":
                self.worked = now


def _again(error: LostError) -> LostError:
    """Return the error anew, for one of several who are told."""
    return type(error)(error.message, remedy=error.remedy)


def _next(waiting: _Waiting, timeout_s: float) -> wire.FromHelper | LostError | None:
    try:
        return waiting.inbox.get(timeout=timeout_s)
    except Empty:
        return None


def _is_gone(process: "subprocess.Popen[bytes]") -> bool:
    """Tell whether the helper and its children are no more; a zombie runs nothing."""
    process.poll()
    if process.returncode is None:
        return False
    with suppress(ChildProcessError):  # where we are the first process, orphans are ours
        while os.waitpid(-process.pid, os.WNOHANG)[0]:
            pass
    try:
        os.killpg(process.pid, 0)
    except (ProcessLookupError, PermissionError):
        return True
    return not any(_runs_in(group=process.pid, directory=each) for each in Path("/proc").glob("[0-9]*"))


def _runs_in(*, group: int, directory: Path) -> bool:
    try:
        fields = (directory / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] not in {"Z", "X"} and int(fields[2]) == group
