"""Trials of holes, reserved space and copies inside the server: what they cost is room and time, not data."""

import ctypes
import fcntl
import os
import time

from breezeblock.shares import files
from breezeblock.shares.views import Broken, Views

MIB = 1 << 20
_FALLOC_PUNCH_HOLE = 0x02 | 0x01  # with KEEP_SIZE
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def sparse(views: Views) -> str:
    """Leave out what was not written."""
    with files.fresh(views.here / "sparse") as fd:
        os.ftruncate(fd, 64 * MIB)
        files.write_all(fd, b"x" * 4096, 32 * MIB)
        os.fsync(fd)
    taken = _taken(views, "sparse")
    seen = f"64 MiB with 4 KiB of data take {taken} bytes"
    if taken > 8 * MIB:
        raise Broken(seen)
    return seen


def holes(views: Views) -> str:
    """Tell where data is, and where a hole."""
    with files.fresh(views.here / "holes") as fd:
        os.ftruncate(fd, 64 * MIB)
        files.write_all(fd, b"x" * 4096, 32 * MIB)
        os.fsync(fd)
        data = os.lseek(fd, 0, os.SEEK_DATA)
        hole = os.lseek(fd, 32 * MIB, os.SEEK_HOLE)
    if data == 0 or hole == 64 * MIB:
        raise Broken("SEEK_DATA and SEEK_HOLE take holes for data")
    return f"data from {data} to {hole} of {64 * MIB}"


def punch(views: Views) -> str:
    """Give back what a hole is made of."""
    with files.fresh(views.here / "punched") as fd:
        files.write_all(fd, b"x" * MIB, 0)
        os.fsync(fd)
        _fallocate(fd, _FALLOC_PUNCH_HOLE, 0, MIB)
        os.fsync(fd)
        if os.pread(fd, MIB, 0) != bytes(MIB):
            raise Broken("a punched hole does not read as zeros")
    return f"1 MiB became a hole; {_taken(views, 'punched')} bytes stay taken"


def _taken(views: Views, name: str) -> int:
    """Return the bytes that a file takes, told by the other way: who wrote it may only reckon them."""
    return (views.there / name).stat().st_blocks * 512


def preallocate(views: Views) -> str:
    """Reserve room."""
    with files.fresh(views.here / "reserved") as fd:
        _fallocate(fd, 0, 0, 16 * MIB)
        os.fsync(fd)
    return "16 MiB reserved in one call"


def _fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    if _LIBC.fallocate(fd, mode, offset, length):
        code = ctypes.get_errno()
        raise Broken(f"fallocate: {os.strerror(code)}")


def copy(views: Views) -> str:
    """Clone, or copy inside the server."""
    with files.fresh(views.here / "original") as source, files.fresh(views.here / "copy") as target:
        files.write_all(source, os.urandom(MIB) * 16, 0)
        os.fsync(source)
        try:
            fcntl.ioctl(target, 0x40049409, source)  # FICLONE
        except OSError as error:
            cloned = f"no clone ({error.strerror})"
        else:
            return "files are cloned without copying"
        began = time.monotonic()
        done = os.copy_file_range(source, target, 16 * MIB)
        took = time.monotonic() - began
        if done == 0:
            raise Broken(f"{cloned}, and copy_file_range copies nothing")
        return f"{cloned}; copy_file_range: {done / MIB / max(took, 1e-6):.0f} MiB/s"
