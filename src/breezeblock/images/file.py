"""An open image file: exact reads, complete writes, and the few calls that changing an image needs.

Everything that formats do to a file goes through here, so that a test can record each change and replay
any prefix of them.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from breezeblock.errors import CorruptError
from breezeblock.images import raw

# O_NONBLOCK: opening a FIFO must not wait for its other end.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOREIGN = {errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.EISDIR, errno.ENOTDIR}


class File:
    """An open file and the name to use for it in messages. Does not own the descriptor."""

    _span = (0, 0, False)
    """What was last found out about holes: from, to, is it data."""

    def __init__(
        self, fd: int, name: str, *, hidden: bool = False, status: os.stat_result | None = None
    ) -> None:
        self.fd = fd
        self.name = name
        self.hidden = hidden
        """Nobody can see the file yet: no order of writes matters, and who publishes it flushes it."""
        if status:
            self.status = status

    @cached_property
    def status(self) -> os.stat_result:
        """What the kernel said of the file when it was opened, or when this was first asked for."""
        return os.fstat(self.fd)

    def size(self) -> int:
        """Return the file's length in bytes."""
        # A quarter of what fstat takes; nobody needs the position, for all reading and writing names its own.
        return os.lseek(self.fd, 0, os.SEEK_END)

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes. Raises CorruptError where the file ends before them."""
        data = os.pread(self.fd, length, offset)
        return data if len(data) == length else self._read_on(data, offset, length)

    def _read_on(self, data: bytes, offset: int, length: int) -> bytes:
        parts = [data]
        offset, length = offset + len(data), length - len(data)
        while length > 0:
            data = os.pread(self.fd, length, offset)
            if not data:
                raise CorruptError(
                    f"{self.name}: {length} bytes are missing (at byte {offset}).",
                    remedy="The file was cut short: restore it from a copy.",
                )
            parts.append(data)
            offset, length = offset + len(data), length - len(data)
        return b"".join(parts)

    def peek(self, offset: int, length: int) -> bytes:
        """Return at most `length` bytes, fewer where the file ends."""
        return os.pread(self.fd, length, offset) if offset >= 0 else b""

    def spans(self, offset: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """Yield (offset, length, is data) covering a range inside the file; False = a hole, zeros.

        All is data where the file system cannot tell. The last answer is kept, as a chain asks piecemeal
        and each question may be a round trip.
        """
        end = offset + length
        while offset < end:
            first, last, is_data = self._span
            if not first <= offset < last:
                first, last, is_data = self._span = self._look(offset, end)
            stop = min(end, last)
            yield offset, stop - offset, is_data
            offset = stop

    def _look(self, offset: int, end: int) -> tuple[int, int, bool]:
        size = max(end, self.size())
        try:
            start = os.lseek(self.fd, offset, os.SEEK_DATA)
            if start > offset:
                return offset, start, False
            return offset, os.lseek(self.fd, offset, os.SEEK_HOLE), True
        except OSError as error:
            if error.errno == errno.ENXIO:
                return offset, size, False
            if error.errno in raw.NO_HOLES:
                return offset, size, True
            raise

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data`."""
        self._span = (0, 0, False)
        done = os.pwrite(self.fd, data, offset)
        if done < len(data):
            raw.write(self.fd, memoryview(data)[done:], offset + done)

    def copy(self, source: "File", source_offset: int, offset: int, length: int) -> None:
        """Copy bytes from another file, inside the kernel or the server where possible."""
        self._span = (0, 0, False)
        raw.move(source.fd, source_offset, self.fd, offset, length)

    def zero(self, offset: int, length: int) -> None:
        """Make a range inside the file read as zeros, freeing it where the file system can."""
        self._span = (0, 0, False)
        raw.zero(self.fd, offset, length)

    def truncate(self, length: int) -> None:
        """Set the file's length."""
        self._span = (0, 0, False)
        os.ftruncate(self.fd, length)

    def start_writing(self) -> None:
        """Let what was written go to storage while more is written, so that `flush` has less to wait for."""
        raw.start_writing(self.fd)

    def flush(self) -> None:
        """Return when everything written is durable, the file's length too."""
        if not self.hidden:
            os.fdatasync(self.fd)


@contextmanager
def opened(path: Path, *, write: bool = False) -> Iterator[File]:
    """Open a regular file; CorruptError if it is a link, a FIFO or anything else."""
    file = open_file(path, write=write)
    try:
        yield file
    finally:
        os.close(file.fd)


def open_file(path: Path, *, write: bool = False) -> File:
    """As `opened`, but it is the caller's to close `fd`."""
    return open_named(str(path), path.name, write=write)


def open_named(path: str, name: str, *, write: bool = False) -> File:
    """As `open_file`, for who opens many: `name` is the path's last part."""
    try:
        fd = os.open(path, _WRITE if write else _READ)
    except OSError as error:
        if error.errno in _FOREIGN:
            raise _foreign(path) from error
        raise
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise _foreign(path)
    return File(fd, name, status=status)


def _foreign(path: str) -> CorruptError:
    return CorruptError(f"{path} is not a regular file (at byte 0).", remedy="Give the image itself.")
