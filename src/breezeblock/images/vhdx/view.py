"""The bytes of a file as they are once its log is replayed ([MS-VHDX] 2.3.3).

Reading must not change a file, and a file whose log was not replayed must not be read as it lies there:
what the log would write is laid over what is read.
"""

from dataclasses import dataclass, field

from breezeblock.images.file import File
from breezeblock.images.layer import corrupt
from breezeblock.images.vhdx.layout import PAGE


@dataclass(frozen=True, slots=True)
class Zeros:
    """Bytes that the log makes zero."""

    order: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Replay:
    """What a log writes, in order."""

    file_bytes: int
    """How long the file must be at least afterwards."""
    pages: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    """By file offset: when in the order, and the last 4 KiB written there."""
    zeros: list[Zeros] = field(default_factory=list)


class View:
    """Reads a file through what is still in its log."""

    def __init__(self, file: File, replay: Replay | None, file_bytes: int) -> None:
        self.file = file
        self.replay = replay
        self.file_bytes = max(file_bytes, replay.file_bytes if replay else 0)

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes. Raises CorruptError where the file ends before them."""
        if self.replay is None:
            return self.file.read(offset, length)
        if offset + length > self.file_bytes:
            raise corrupt(self.file, f"{length} bytes are missing", offset)
        data = bytearray(self.file.peek(offset, length).ljust(length, b"\0"))
        changes: list[tuple[int, int, bytes | int]] = [
            (zeros.order, zeros.start, zeros.end - zeros.start)
            for zeros in self.replay.zeros
            if zeros.start < offset + length and offset < zeros.end
        ]
        for page in range(offset // PAGE * PAGE, offset + length, PAGE):
            if page in self.replay.pages:
                order, content = self.replay.pages[page]
                changes.append((order, page, content))
        for _, start, change in sorted(changes, key=lambda item: item[0]):
            _lay_over(data, offset, start, change)
        return bytes(data)


def _lay_over(data: bytearray, offset: int, start: int, change: bytes | int) -> None:
    size = change if isinstance(change, int) else len(change)
    first, last = max(offset, start), min(offset + len(data), start + size)
    if isinstance(change, int):
        data[first - offset : last - offset] = bytes(last - first)
    else:
        data[first - offset : last - offset] = change[first - start : last - start]
