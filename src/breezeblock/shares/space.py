"""How much room a directory has, asked so that a dead server cannot hold the caller.

A system call on a hard NFS mount whose server is gone waits until the server is back. It is
therefore made in a daemon thread; the caller waits for a limited time and, while that call is still
stuck, no second one is started: a thousand questions to a dead server cost one thread.
"""

import errno
import os
import shutil
import sys
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LookTimeoutError
from dataclasses import dataclass, field
from pathlib import Path

from breezeblock.errors import UnavailableError


@dataclass(frozen=True, slots=True)
class Space:
    """Room in the file system of a directory."""

    total_bytes: int
    free_bytes: int
    """What this process may still use, so without blocks kept for root."""


def of(directory: Path) -> Space:
    """Ask the file system of `directory`; blocks while it does not answer.

    Raises OSError, also when the directory cannot be written: there is no room in it then.
    """
    if sys.platform == "win32":  # reached by its UNC name, which disk_usage takes
        usage = shutil.disk_usage(directory)
        return Space(usage.total, usage.free)
    found = os.statvfs(f"{directory}/.")  # the dot: a file in its place is an error
    if found.f_flag & os.ST_RDONLY:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(directory))
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(directory))
    return Space(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


@dataclass(slots=True)
class Look:
    """Asks after one directory's space with a time limit; also the liveness probe of a share."""

    directory: Path
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _pending: Future[Space] | None = None
    _since: float = 0.0

    def space(self, timeout_s: float) -> Space:
        """Return the space within `timeout_s`, or raise UnavailableError saying why not."""
        with self._lock:
            answer = self._pending
            if answer is None or answer.done():
                answer = self._pending = Future()
                self._since = time.monotonic()
                threading.Thread(target=_ask, args=(self.directory, answer), daemon=True).start()
        try:
            return answer.result(timeout_s)
        except LookTimeoutError as error:
            silent_s = time.monotonic() - self._since
            raise UnavailableError(
                f"The file system at {self.directory} has not answered for {silent_s:.0f} s.",
                remedy="Check the file server and the network to it; work goes on when it answers again.",
            ) from error
        except OSError as error:
            raise UnavailableError(
                f"The file system at {self.directory} cannot be used: {error.strerror}.",
                remedy="Check that the directory is there and that the service may read and write it.",
            ) from error


def _ask(directory: Path, answer: Future[Space]) -> None:
    try:
        answer.set_result(of(directory))
    except OSError as error:
        answer.set_exception(error)
