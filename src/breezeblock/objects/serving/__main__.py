"""The keeper: reads the task, and sees that there is a worker until the volume is detached."""

import ctypes
import fcntl
import gc
import mmap
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

import msgspec
import structlog
import uvloop

from breezeblock.errors import BreezeblockError, ConflictError, InvalidInputError
from breezeblock.objects.serving import messages
from breezeblock.objects.serving.messages import Answer, Task
from breezeblock.objects.serving.worker import Gone, work
from breezeblock.observe import configure_logging
from breezeblock.shares import files

_PR_SET_PDEATHSIG = 1
_SHORT_S, _QUICK = 5.0, 4
"""Workers that do not live so long are replaced at once only so often."""
_PAUSE_S = 1.0
_GARBAGE = 20_000
"""So many objects more than went have to come before cycles among them are looked for."""
_GLANCE_S = 0.2
"""Who asks whether there is a keeper holds its lock for an instant: no reason to refuse."""

log = structlog.get_logger()


def main() -> int:
    """Keep a worker; return the exit code."""
    # Standard output has one line, for the starter; everything else is the log.
    configure_logging("info", "auto")
    try:
        task = messages.unpacked(sys.stdin.buffer.read())
    except InvalidInputError as error:
        _tell(messages.failure(error))
        return 2
    path = messages.lock_path(task.socket)
    try:
        held = _alone(path)
    except BreezeblockError as error:
        _tell(messages.failure(error))
        return 1
    try:
        return _keep(task)
    finally:
        with suppress(FileNotFoundError):  # the worker removes it when it is done
            if path.stat().st_ino == os.fstat(held).st_ino:
                path.unlink()
        os.close(held)


def _alone(path: Path) -> int:
    """Be the only keeper of a socket for as long as the descriptor is open, here or in a worker."""
    until = time.monotonic() + _GLANCE_S
    while True:
        with files.storage_errors("The socket's directory"):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.stat().st_ino == os.fstat(fd).st_ino:
                    return fd
            except BlockingIOError:
                os.close(fd)
                if time.monotonic() < until:
                    time.sleep(0.01)
                    continue
                raise ConflictError(
                    f"Another process serves {path.with_suffix('')}.", remedy="Detach it first."
                ) from None
            except FileNotFoundError:
                pass  # its keeper ended at this moment
            os.close(fd)


def _keep(task: Task) -> int:
    ready = mmap.mmap(-1, 1)  # the worker's word to us that it had begun; shared, for it may be killed
    told: list[int] = []
    quick = 0
    while True:
        began = time.monotonic()
        keeper = os.getpid()
        # What comes before the worker listens for it must wait, not kill it.
        signal.pthread_sigmask(signal.SIG_BLOCK, messages.ENDING)
        worker = os.fork()
        if not worker:
            os._exit(_work(task, ready, keeper))
        status = _wait(worker, told)
        if os.WIFEXITED(status) or not ready[0]:
            return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1
        log.error("serving.killed", volume=task.volume, signal=os.WTERMSIG(status))
        quick = quick + 1 if time.monotonic() - began < _SHORT_S else 0
        time.sleep(_PAUSE_S if quick > _QUICK else 0)
        task = msgspec.structs.replace(task, resume=True, discard=False)


def _wait(worker: int, told: list[int]) -> int:
    """Return how the worker ended; it is told what we are told, and what its predecessors were."""

    def pass_on(number: int, _frame: FrameType | None) -> None:
        told.append(number)
        os.kill(worker, number)  # there is one, or its remains, as long as signals are let through

    for number in messages.ENDING:
        signal.signal(number, pass_on)
    for earlier in told:
        os.kill(worker, earlier)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, messages.ENDING)
    try:
        os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, messages.ENDING)
    return os.waitpid(worker, 0)[1]


def _work(task: Task, ready: mmap.mmap, keeper: int) -> int:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != keeper:
        return 1

    def begun() -> None:
        if not ready[0]:
            _tell(Answer())
        ready[0] = 1

    # What is here now stays; nearly all that comes later goes when its last user does. Looking for cycles
    # as often as Python does by itself would take a twentieth of the processor's time.
    gc.freeze()
    gc.set_threshold(_GARBAGE)
    try:
        uvloop.run(work(task, begun))
    except Gone as error:
        if not ready[0]:
            _tell(
                messages.failure(ConflictError(str(error), remedy="If nobody else has it: attach it again."))
            )
        return 0
    except BreezeblockError as error:
        log.warning("serving.ended", volume=task.volume, why=str(error))
        if not ready[0]:
            _tell(messages.failure(error))
        return 1
    return 0


def _tell(answer: Answer) -> None:
    """Say it to the starter, and nothing ever after."""
    os.write(1, messages.line(answer))
    os.dup2(2, 1)


if __name__ == "__main__":
    sys.exit(main())
