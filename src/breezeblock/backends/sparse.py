"""The bytes of one sparse file, in the shape of `contract.Data`."""

import os
from collections.abc import Iterator

from breezeblock.errors import InvalidInputError


class FileData:
    """The bytes of an open sparse file."""

    def __init__(self, fd: int, virtual_bytes: int) -> None:
        self.virtual_bytes = virtual_bytes
        self._fd = fd

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes."""
        self._within(offset, length)
        return os.pread(self._fd, length, offset)

    def write(self, offset: int, data: bytes) -> None:
        """Write all of `data`."""
        self._within(offset, len(data))
        view = memoryview(data)
        while view:
            done = os.pwrite(self._fd, view, offset)
            view, offset = view[done:], offset + done

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeros."""
        self._within(offset, length)
        for start in range(offset, offset + length, 1 << 20):
            self.write(start, bytes(min(1 << 20, offset + length - start)))

    def flush(self) -> None:
        """Do nothing: tmpfs has no slower place to go to."""

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """Yield (offset, length, is data) in order, covering the range."""
        self._within(offset, length)
        end = offset + length
        while offset < end:
            try:
                data = min(os.lseek(self._fd, offset, os.SEEK_DATA), end)
            except OSError:  # ENXIO: nothing but a hole follows
                data = end
            if data > offset:
                yield offset, data - offset, False
            if data < end:
                offset = min(os.lseek(self._fd, data, os.SEEK_HOLE), end)
                yield data, offset - data, True
            else:
                offset = end

    def _within(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.virtual_bytes:
            raise InvalidInputError(
                f"Bytes {offset}+{length} are outside the {self.virtual_bytes} bytes there."
            )
