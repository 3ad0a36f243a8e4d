"""Sockets, as server and relay use them."""

import os
import select
import socket
from contextlib import suppress
from pathlib import Path
from typing import Protocol

_SO_SNDBUFFORCE = 32
_ROOM_BYTES = 1 << 20


class HasFile(Protocol):
    """A socket, or what an event loop shows of one."""

    def fileno(self) -> int:
        """Return its descriptor."""


def listening(path: Path) -> socket.socket:
    """Return a socket at which clients of our own user (and root) are waited for. Raises OSError."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(new))
        new.chmod(0o600)  # before it listens: whatever the umask, nobody else was ever let in
        listener.listen(64)
        new.rename(path)
    except BaseException:
        listener.close()
        raise
    return listener


def roomy(connected: socket.socket) -> socket.socket:
    """Let a connection take more at a time, if we may."""
    with suppress(OSError):
        connected.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _ROOM_BYTES)
    return connected


def hung_up(connected: HasFile) -> bool:
    """Tell whether the other side is gone for good, though there may be something of it to be read.

    Such requests must not be done any more: a kernel that gave up a connection asks the same over another
    one, and may have changed it again since. (TCP cannot tell a client that is gone from one that only
    sends no more.)
    """
    poll = select.poll()
    poll.register(connected.fileno(), 0)
    return bool(poll.poll(0))


def send(connected: socket.socket, data: memoryview, only_for: socket.socket) -> bool:
    """Send it all; False if another socket's client hung up before there was room. Raises OSError."""
    while data:
        try:
            data = data[connected.send(data, socket.MSG_DONTWAIT) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(connected, select.POLLOUT)
            poll.register(only_for, 0)
            if any(fd == only_for.fileno() for fd, _event in poll.poll()):
                return False
    return True
