"""Image locks as QEMU takes them, so that a running guest's image is never written from outside.

Source: QEMU, block/file-posix.c. Per permission that is used a shared open-file-description lock on byte
100 + permission, per permission that is not left to others one on byte 200 + permission; whoever takes
them then tests the opposite byte. They hold between processes of one host, and between hosts as far as
the file system carries byte-range locks (NFSv4; NFSv3 with its lock manager; not SMB with `nobrl`).
"""

import errno
import fcntl
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from breezeblock.errors import UnavailableError
from breezeblock.images.file import File

_USED, _KEPT = 100, 200
_READ, _WRITE, _RESIZE = 0, 1, 3
_FLOCK = struct.Struct("hhqqi4x")
_F_OFD_GETLK, _F_OFD_SETLK = 36, 37
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}


@contextmanager
def for_writing(file: File) -> Iterator[None]:
    """Hold the locks of a writer that shares with readers of nothing but metadata.

    Raises UnavailableError if a guest, QEMU's tools or another writer of ours has the image open. Where
    the file system has no locks at all, none are taken.
    """
    used, kept = (_READ, _WRITE, _RESIZE), (_WRITE, _RESIZE)
    places = [_USED + one for one in used] + [_KEPT + one for one in kept]
    try:
        for place in places:
            _set(file, place, fcntl.F_RDLCK)
        for permission in used:
            _refuse_if_locked(file, _KEPT + permission)
        for permission in kept:
            _refuse_if_locked(file, _USED + permission)
        yield
    finally:
        for place in places:
            _set(file, place, fcntl.F_UNLCK)


def _set(file: File, place: int, kind: int) -> None:
    try:
        fcntl.fcntl(file.fd, _F_OFD_SETLK, _FLOCK.pack(kind, 0, place, 1, 0))
    except OSError as error:
        if error.errno in {errno.EAGAIN, errno.EACCES}:
            raise _in_use(file) from error
        if error.errno not in _NO_LOCKS:
            raise


def _refuse_if_locked(file: File, place: int) -> None:
    """Look whether another open file description holds a lock there, as QEMU looks."""
    try:
        answer = fcntl.fcntl(file.fd, _F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, 0, place, 1, 0))
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return
        raise
    if _FLOCK.unpack(answer)[0] != fcntl.F_UNLCK:
        raise _in_use(file)


def _in_use(file: File) -> UnavailableError:
    return UnavailableError(
        f"{file.name} is in use: a guest or another program holds QEMU's lock on it.",
        remedy="Shut the guest down or detach the disk first; work on a live image is the hypervisor's.",
    )
