"""A raw image file as a device."""

import asyncio
import errno
import os
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path

from breezeblock.images import locks
from breezeblock.images.file import File, opened
from breezeblock.objects.nbd.device import DATA, HOLE, Data, Extent, Soon

_NOT_NOW = {errno.EAGAIN, errno.EOPNOTSUPP}


@contextmanager
def raw_device(path: Path, *, read_only: bool = False) -> Iterator["RawDevice"]:
    """Open a raw image, for writing under the lock that QEMU takes too.

    Whatever its bytes look like, it is raw. Raises UnavailableError if somebody else has it open,
    CorruptError if it is no regular file.
    """
    with opened(path, write=not read_only) as file:
        if read_only:
            yield RawDevice(file, read_only=True)
        else:
            with locks.for_writing(file):
                yield RawDevice(file)


class RawDevice:
    """Reads what the page cache has at once, and the rest in threads.

    Writes go into the page cache there and then: in threads they would have to be kept in order, and
    that costs more than they do. A kernel that throttles writers so holds up all clients of this device.
    """

    minimum_bytes = 1
    preferred_bytes = 4096

    def __init__(self, file: File, *, read_only: bool = False) -> None:
        self.read_only = read_only
        self.length = file.size()
        self._file = file
        self._flush_failed = False

    def refresh(self) -> None:
        """Take notice of a file that was made longer."""
        self.length = max(self.length, self._file.size())

    def read(self, offset: int, length: int) -> Soon[Data | list[Data]]:
        """Read without waiting for a disk if that can be."""
        buffer = bytearray(length)
        try:
            got = os.preadv(self._file.fd, [buffer], offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno not in _NOT_NOW:
                raise
            got = 0
        return buffer if got == length else asyncio.to_thread(self._file.read, offset, length)

    def write(self, offset: int, data: memoryview, *, fua: bool = False) -> Soon[None]:
        """Write into the page cache."""
        self._file.write(offset, data)
        return self._durable() if fua else None

    def flush(self) -> Soon[None]:
        """Wait for the disk."""
        return self._durable()

    def trim(self, offset: int, length: int, *, fua: bool = False) -> Soon[None]:
        """Punch a hole."""
        return self.zero(offset, length, fua=fua)

    def zero(
        self, offset: int, length: int, *, fua: bool = False, may_trim: bool = True, fast: bool = False
    ) -> Soon[None]:
        """Punch a hole, and fill it with room again if that must stay."""
        if fast and not may_trim:
            raise OSError(errno.ENOTSUP, "only holes are always fast")
        self._file.zero(offset, length)
        if not may_trim:
            os.posix_fallocate(self._file.fd, offset, length)
        return self._durable() if fua else None

    def cache(self, offset: int, length: int) -> None:
        """Let the kernel read ahead."""
        os.posix_fadvise(self._file.fd, offset, length, os.POSIX_FADV_WILLNEED)

    def extents(self, offset: int, length: int, limit: int) -> list[Extent]:
        """Tell where the file's holes are."""
        found: list[Extent] = []
        for _start, part, is_data in self._file.spans(offset, length):
            found.append(Extent(part, DATA if is_data else HOLE))
            if len(found) == limit:
                break
        return found

    async def close(self) -> None:
        """Wait for the disk; the file is closed by whoever opened it."""
        if not self.read_only:
            await self._durable()

    def _durable(self) -> Coroutine[None, None, None]:
        return asyncio.to_thread(self._sync)

    def _sync(self) -> None:
        # After one failure the kernel forgets the pages that it could not write, and would report
        # success the next time.
        if self._flush_failed:
            raise OSError(errno.EIO, "an earlier flush failed: data is lost")
        try:
            self._file.flush()
        except OSError:
            self._flush_failed = True
            raise
