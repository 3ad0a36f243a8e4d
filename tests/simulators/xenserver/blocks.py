"""Real bytes: sparse files that know which of their blocks were written."""

import os
from pathlib import Path

BLOCK = 4096


class Blocks:
    """One file of blocks. What was not written belongs to the parent, or is zeros."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written: set[int] = set()
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def rename(self, path: Path) -> None:
        """Give the file another name."""
        self.path.rename(path)
        self.path = path

    def read(self, number: int) -> bytes:
        """Return one block that was written."""
        return os.pread(self.fd, BLOCK, number * BLOCK).ljust(BLOCK, b"\0")

    def write(self, number: int, data: bytes) -> None:
        """Write one whole block."""
        os.pwrite(self.fd, data, number * BLOCK)
        self.written.add(number)

    def absorb(self, other: "Blocks") -> None:
        """Take all that another holds."""
        for number in other.written:
            self.write(number, other.read(number))

    def trim(self, virtual_bytes: int) -> None:
        """Forget what is beyond an end."""
        self.written = {number for number in self.written if number * BLOCK < virtual_bytes}

    def remove(self) -> None:
        """Close and delete the file."""
        os.close(self.fd)
        self.path.unlink()

    @property
    def used_bytes(self) -> int:
        """Return what it takes on storage."""
        return len(self.written) * BLOCK
