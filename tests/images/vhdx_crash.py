"""What may be on the disk after a stop: recorded changes, replayed in part and out of order.

A flush makes durable what was done to that file before it. Of what was done since, any part may be there:
any subset of the writes, each of them whole, missing, or only some of its 512-byte sectors.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from breezeblock.images.file import File

SECTOR = 512


@dataclass
class Change:
    """A write (bytes), a truncation (None), or a flush (neither)."""

    file: str
    offset: int
    data: bytes | None = None
    is_flush: bool = False


@dataclass
class Journal:
    """All changes to several files, in order."""

    changes: list[Change] = field(default_factory=list)

    def file_type(self, fd: int, name: str) -> "RecordedFile":
        return RecordedFile(fd, name, self)


class RecordedFile(File):
    """Writes down every change that goes through it."""

    def __init__(self, fd: int, name: str, journal: Journal) -> None:
        super().__init__(fd, name)
        self._journal = journal

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self._journal.changes.append(Change(self.name, offset, bytes(data)))
        super().write(offset, data)

    def copy(self, source: File, source_offset: int, offset: int, length: int) -> None:
        self.write(offset, source.read(source_offset, length))

    def zero(self, offset: int, length: int) -> None:
        self.write(offset, bytes(min(length, self.size() - offset)))

    def truncate(self, length: int) -> None:
        self._journal.changes.append(Change(self.name, length))
        super().truncate(length)

    def flush(self) -> None:
        self._journal.changes.append(Change(self.name, 0, is_flush=True))


def _apply(content: bytearray, change: Change, chance: random.Random | None = None) -> None:
    if change.is_flush:
        return
    if change.data is None:
        del content[change.offset :]
        content.extend(bytes(change.offset - len(content)))
        return
    if len(content) < change.offset + len(change.data):
        content.extend(bytes(change.offset + len(change.data) - len(content)))
    for start in range(0, len(change.data), SECTOR) if chance else (0,):
        if chance is None or chance.random() < 0.5:
            stop = start + SECTOR if chance else len(change.data)
            part = change.data[start:stop]
            content[change.offset + start : change.offset + start + len(part)] = part


def states(
    before: dict[str, bytes], journal: Journal, chance: random.Random, variants: int
) -> Iterator[dict[str, bytes]]:
    """Yield what may be there after each change: all of it, and some random parts."""
    durable = {name: bytearray(content) for name, content in before.items()}
    since: dict[str, list[Change]] = {name: [] for name in before}
    seen = set()
    for change in [None, *journal.changes]:
        if change:
            since[change.file].append(change)
            if change.is_flush:
                for done in since[change.file]:
                    _apply(durable[change.file], done)
                since[change.file].clear()
        for variant in range(variants + 1):
            state = {}
            for name, content in durable.items():
                copy = bytearray(content)
                for pending in since[name]:
                    how = chance.random() if variant else 0.0
                    if how < 0.4:
                        _apply(copy, pending)
                    elif how < 0.7:
                        _apply(copy, pending, chance if pending.data is not None else None)
                state[name] = bytes(copy)
            key = tuple(hash(content) for content in state.values())
            if key not in seen:
                seen.add(key)
                yield state


def put_back(directory: Path, state: dict[str, bytes]) -> None:
    for name, content in state.items():
        (directory / name).write_bytes(content)
