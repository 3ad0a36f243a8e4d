"""A relay between the kernel and the process that serves a volume.

What a killed server did not answer, the kernel by itself sends again only when its request timeout is over
(Linux, drivers/block/nbd.c: new connections alone move nothing that is under way). A relay outlives the
server and sends it again at once. It is found by its socket, so nothing about it is recorded.
"""

import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from breezeblock.errors import UnavailableError
from breezeblock.objects.nbd.client import Place
from breezeblock.objects.serving.client import private

START_S = 30.0
_END_S = 30.0
_PEER = struct.Struct("3i")


def path_of(served: Path) -> Path:
    """Return where the relay listens for a volume that is served there."""
    return served.with_name(f"{served.name}.front")


@contextmanager
def ensured(where: Place, path: Path, log: Path) -> Iterator[None]:
    """See that there is a relay to an export, which is made meanwhile; it outlives us.

    Raises UnavailableError if it does not start. Where the export cannot be made, a new relay ends too.
    """
    if _process(path) is not None:
        yield
        return
    with private(log) as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "breezeblock", "nbd", "relay", str(where), "--socket", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            cwd="/",
            start_new_session=True,
        )
    try:
        yield
        _begun(process, path, log)
    except BaseException:
        process.kill()
        process.wait()
        path.unlink(missing_ok=True)
        raise


class Watch:
    """Tells when relays end."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Look who they are now."""
        self._poll, self._fds = select.poll(), list[int]()
        for path in paths:
            with suppress(ProcessLookupError, UnavailableError):
                if process := _process(path):
                    self._fds.append(os.pidfd_open(process))
                    self._poll.register(self._fds[-1], select.POLLIN)

    def ended(self) -> bool:
        """Tell whether one has ended since."""
        return bool(self._poll.poll(0))

    def close(self) -> None:
        """Look no more."""
        while self._fds:
            self._poll.unregister(self._fds[-1])
            os.close(self._fds.pop())


def end(path: Path) -> None:
    """End the relay; none = done. Raises UnavailableError if it does not end."""
    if (process := _process(path)) is not None:
        os.kill(process, signal.SIGTERM)
        if not _comes(lambda: _process(path) is None, _END_S):
            raise UnavailableError(f"The relay at {path} does not end.", remedy=f"It is process {process}.")
    path.unlink(missing_ok=True)


def _begun(process: "subprocess.Popen[bytes]", path: Path, log: Path) -> None:
    _comes(lambda: _process(path) is not None or process.poll() is not None, START_S)
    if _process(path) is None:
        raise UnavailableError(f"The relay at {path} does not start.", remedy=f"{log} says why.")


def _process(path: Path) -> int | None:
    """Return who listens there. Raises UnavailableError if it has not listened for long."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(0)
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except BlockingIOError as error:  # as many wait as may
            raise UnavailableError(
                f"The relay at {path} takes no connections.", remedy="Look whether its process is stopped."
            ) from error
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        return int(_PEER.unpack(peer)[0])


def _comes(true: Callable[[], bool], wait_s: float) -> bool:
    until = time.monotonic() + wait_s
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True
