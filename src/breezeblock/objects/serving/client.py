"""For those who start serving processes and talk to them. It blocks: from an event loop, use a thread."""

import fcntl
import os
import select
import socket
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import IO

import msgspec

from breezeblock.errors import InvalidInputError, NotFoundError, UnavailableError
from breezeblock.objects.serving.messages import (
    MAX_LINE_BYTES,
    Answer,
    Request,
    Status,
    Task,
    View,
    checked,
    control_path,
    line,
    lock_path,
    packed,
)

START_S = 120.0
"""A journal may have to be replayed, and stored in part, before there is room for more."""
_RESTART_S = 2.0
"""So long a process that was killed may take to be there again."""

_SILENT = Answer(
    error="UnavailableError",
    message="The serving process ended, or could not attach its volume in time.",
    remedy="Its log says why.",
)


def start(task: Task, *, timeout_s: float = START_S, log: Path | None = None) -> int:
    """Start a process that serves the volume; return its id when it can be used. It outlives us.

    Its log is added to that file, or goes where ours does. Raises what the attaching raised, ConflictError
    if the volume is served here already, and UnavailableError if it takes longer than that.
    """
    with private(log) if log else nullcontext() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "breezeblock.objects.serving"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd="/",
            start_new_session=True,
        )
    assert process.stdin is not None  # noqa: S101 - for the type checker
    assert process.stdout is not None  # noqa: S101
    with process.stdout as answers:
        with suppress(BrokenPipeError), process.stdin as pipe:
            pipe.write(packed(task))
        said = _line(answers.fileno(), time.monotonic() + timeout_s)
    answer = msgspec.json.decode(said, type=Answer) if said else _SILENT
    if answer.error:
        with suppress(subprocess.TimeoutExpired):  # it has said why, and cleans up
            process.wait(_RESTART_S if said else 0)
        process.kill()
        process.wait()
    checked(answer)
    return process.pid


def private(log: Path) -> IO[bytes]:
    """Open a log to add to it; nobody else may read it. Raises OSError."""
    return open(log, "ab", opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW, 0o600))


def call(nbd: Path, request: Request, *, timeout_s: float = 60.0) -> Answer:
    """Ask the process that serves NBD on that socket, and return its answer.

    Raises what the request raised there, NotFoundError if there is no such process, and UnavailableError if
    it is starting, or does not answer in time. It may have done, or go on to do, what was asked: all can be
    repeated.
    """
    path, until = control_path(nbd), time.monotonic() + timeout_s
    with _connected(nbd, until) as connection:
        try:
            connection.sendall(line(request))
        except OSError as error:
            raise UnavailableError(f"{path} takes no request: {error}.") from error
        said = _line(connection.fileno(), until)
    if not said:
        raise UnavailableError(
            f"{path} has not answered within {timeout_s:.0f} s, or its process was killed.",
            remedy="Ask for its status: `trouble` says what it waits for.",
        )
    return checked(msgspec.json.decode(said, type=Answer))


def sockets(directory: Path) -> list[Path]:
    """Return where the processes of this host serve NBD, or did until they were told to detach."""
    found = sorted(directory.glob(f"{'?' * 32}.control"))
    return [path.with_suffix("") for path in found if path.is_socket()]


def running(nbd: Path) -> View | None:
    """Return how the process that serves on that socket is doing; None if there is none."""
    try:
        return call(nbd, Status()).view
    except NotFoundError:
        return None


def _connected(nbd: Path, last: float) -> socket.socket:
    path, until = control_path(nbd), time.monotonic() + _RESTART_S
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(max(0.01, last - time.monotonic()))
            connection.connect(str(path))
        except BlockingIOError:  # as many wait as may: it is stopped, or very busy
            connection.close()
            if time.monotonic() > last:
                raise UnavailableError(
                    f"{path} takes no request.", remedy="Look whether its process is stopped."
                ) from None
            time.sleep(0.02)
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            if not kept(nbd):
                raise NotFoundError(f"No process serves {nbd}.") from None
            if time.monotonic() > until:
                raise UnavailableError(
                    f"The process that serves {nbd} is starting.", remedy="Its log says what it waits for."
                ) from None
            time.sleep(0.02)
        except OSError as error:
            connection.close()
            raise InvalidInputError(f"{path} is no control socket of ours: {error}.") from error
        else:
            return connection


def kept(nbd: Path) -> bool:
    """Tell whether there is a keeper: sockets stay behind when their processes are killed."""
    try:
        fd = os.open(lock_path(nbd), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _line(fd: int, until: float) -> bytes:
    """Return a line; what is not whole by then, or at the end, counts as nothing."""
    said = b""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while not said.endswith(b"\n") and len(said) < MAX_LINE_BYTES:
        left = until - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            return b""
        try:
            some = os.read(fd, MAX_LINE_BYTES)
        except ConnectionError:  # it was killed with our request unread
            some = b""
        if not some:
            return b""
        said += some
    return said
