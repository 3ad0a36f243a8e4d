"""Raw images, and moving bytes between open files: sparse, by reflink or inside the server where possible.

A raw image has no header: whatever its bytes look like (a guest may well write a qcow2 header at the
start of its disk), it stays raw.
"""

import ctypes
import errno
import fcntl
import os

from breezeblock.attempt import Attempt
from breezeblock.errors import CancelledOperationError

SLICE_BYTES = 8 << 20
"""How much is moved between two looks at whether to stop."""

_GRAIN_BYTES = 64 << 10
_ZEROS = bytes(_GRAIN_BYTES)
_FICLONE = 0x40049409
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_START_WRITING = 2
_EXT4 = 0xEF53
_BUFFER_BYTES = 128 << 10
"""More at once makes the kernel look for larger pieces of memory, which takes long where there are few."""
# A network file system may offer a call and refuse it for one pair of files: read and write do it then.
_CANNOT = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ETXTBSY}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_libc.fstatfs.argtypes = (ctypes.c_int, ctypes.c_void_p)
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def _fallocate(fd: int, mode: int, offset: int, length: int) -> bool:
    """Call fallocate(2), which `os` does not have; False where the file system cannot."""
    while _libc.fallocate(fd, mode, offset, length) != 0:
        code = ctypes.get_errno()
        if code in _CANNOT:
            return False
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))
    return True


def start_writing(fd: int) -> None:
    """Let the kernel begin to store what was written, so that a later flush has less to wait for.

    Promises nothing, and so has no errors: the flush reports them.
    """
    _libc.sync_file_range(fd, 0, 0, _START_WRITING)


def check_cancelled(attempt: Attempt) -> None:
    """Raise CancelledOperationError if the operation was asked to stop."""
    if attempt.cancelled():
        raise CancelledOperationError("The operation was cancelled.")


def grow(fd: int, virtual_bytes: int) -> None:
    """Let the image be at least `virtual_bytes` long; the new bytes are zeros and take no space."""
    if os.fstat(fd).st_size < virtual_bytes:
        os.ftruncate(fd, virtual_bytes)


def preallocate(fd: int, virtual_bytes: int, attempt: Attempt) -> None:
    """Reserve the space of a new image, by writing zeros where nothing better exists."""
    if _fallocate(fd, 0, 0, virtual_bytes):
        return
    zeros = bytes(min(SLICE_BYTES, virtual_bytes))
    for offset in range(0, virtual_bytes, SLICE_BYTES):
        check_cancelled(attempt)
        write(fd, memoryview(zeros)[: virtual_bytes - offset], offset)
        attempt.progress(offset, virtual_bytes)


def zero(fd: int, offset: int, length: int) -> None:
    """Make a range inside the file read as zeros, freeing it where the file system can."""
    length = min(length, os.fstat(fd).st_size - offset)
    if length <= 0 or _fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length):
        return
    zeros = memoryview(bytes(min(SLICE_BYTES, length)))
    while length > 0:
        write(fd, zeros[:length], offset)
        offset, length = offset + len(zeros[:length]), length - len(zeros[:length])


def move(source: int, source_offset: int, target: int, target_offset: int, length: int) -> None:
    """Copy a range between files; what lies beyond the source's end is zeros."""
    while length > 0:
        done = _move_some(source, source_offset, target, target_offset, length)
        if done == 0:
            zero(target, target_offset, length)
            return
        source_offset, target_offset, length = source_offset + done, target_offset + done, length - done


def _move_some(source: int, source_offset: int, target: int, target_offset: int, length: int) -> int:
    done = 0
    if not _only_copies(target):
        try:
            done = os.copy_file_range(source, target, length, source_offset, target_offset)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
    return done or _move_through_memory(source, source_offset, target, target_offset, length)


def _only_copies(fd: int) -> bool:
    """Tell whether the file system can neither share blocks nor copy them elsewhere than here: ext4.

    There copy_file_range goes page by page and takes half as much time again as reading and writing.
    """
    status = (ctypes.c_long * 32)()
    return _libc.fstatfs(fd, status) == 0 and status[0] == _EXT4


def _move_through_memory(source: int, at: int, target: int, target_at: int, length: int) -> int:
    buffer = memoryview(bytearray(min(length, _BUFFER_BYTES)))
    done = 0
    while done < length:
        count = os.preadv(source, [buffer[: length - done]], at + done)
        if not count:
            break
        write(target, buffer[:count], target_at + done)
        done += count
    return done


def write(fd: int, view: memoryview, offset: int) -> None:
    """Write all of `view` at `offset`."""
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def copy(source: int, target: int, attempt: Attempt) -> None:
    """Make the new, empty file `target` equal to `source`, holes staying holes.

    Tries to share the blocks (FICLONE), then copies the data extents inside the kernel or the server.
    """
    length = os.fstat(source).st_size
    check_cancelled(attempt)
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    else:
        return
    os.ftruncate(target, length)
    transfer = _move_data if _hides_holes(source) else move
    position = 0
    while position < length:
        start, end = _data_extent(source, position, length)
        for offset in range(start, end, SLICE_BYTES):
            check_cancelled(attempt)
            transfer(source, offset, target, offset, min(SLICE_BYTES, end - offset))
            attempt.progress(offset, length)
        position = end


def _hides_holes(fd: int) -> bool:
    """Tell whether a file takes less space than its length, but no call says where (NFS before 4.2)."""
    status = os.fstat(fd)
    hidden = _data_extent(fd, 0, status.st_size) == (0, status.st_size)
    return hidden and status.st_blocks * 512 < status.st_size


def _move_data(source: int, source_offset: int, target: int, target_offset: int, length: int) -> None:
    """Copy a range into a hole, leaving out what reads as zeros."""
    data = os.pread(source, length, source_offset)
    for start in range(0, len(data), _GRAIN_BYTES):
        grain = data[start : start + _GRAIN_BYTES]
        if grain != _ZEROS[: len(grain)]:
            write(target, memoryview(grain), target_offset + start)


def _data_extent(fd: int, position: int, length: int) -> tuple[int, int]:
    """Return (start, end) of the next data; (length, length) if only a hole follows."""
    try:
        start = os.lseek(fd, position, os.SEEK_DATA)
        return start, min(length, os.lseek(fd, start, os.SEEK_HOLE))
    except OSError as error:
        if error.errno == errno.ENXIO:
            return length, length
        if error.errno in _CANNOT:
            return position, length
        raise
