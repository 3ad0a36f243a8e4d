"""A file that records what is done to it, and the states a power failure could leave of that.

A state is a prefix of the recorded calls in which everything before a file's last flush is there, and of
what came after it any part: calls land in any order or not at all, and a write is cut at every 4 KiB
page (the unit that storage of today writes whole). Names change in the order in which they were changed.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from breezeblock.images.file import File

PAGE = 4096


@dataclass(frozen=True)
class Call:
    name: str
    kind: str  # write, truncate, flush, rename
    offset: int = 0
    data: bytes = b""
    other: str = ""


LOG: list[Call] = []


class RecordingFile(File):
    """Applies each change, and notes it."""

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        LOG.append(Call(self.name, "write", offset, bytes(data)))
        super().write(offset, data)

    def copy(self, source: File, source_offset: int, offset: int, length: int) -> None:
        data = source.peek(source_offset, length).ljust(length, b"\0")
        LOG.append(Call(self.name, "write", offset, data))
        super().write(offset, data)

    def zero(self, offset: int, length: int) -> None:
        length = min(length, self.size() - offset)
        if length > 0:
            LOG.append(Call(self.name, "write", offset, bytes(length)))
            super().zero(offset, length)

    def truncate(self, length: int) -> None:
        LOG.append(Call(self.name, "truncate", length))
        super().truncate(length)

    def flush(self) -> None:
        LOG.append(Call(self.name, "flush"))
        super().flush()


Files = dict[str, bytearray]


def states(before: dict[str, bytes], log: list[Call], rng: random.Random, samples: int) -> Iterator[Files]:
    """Yield the plain prefixes, and per prefix some states in which unflushed calls landed in part."""
    for end in range(len(log) + 1):
        prefix = log[:end]
        yield _apply(before, prefix, None)
        if prefix and prefix[-1].kind == "write":
            for _ in range(samples):
                yield _apply(before, prefix, rng)


def _apply(before: dict[str, bytes], calls: list[Call], rng: random.Random | None) -> Files:
    files = {name: bytearray(data) for name, data in before.items()}
    waiting: dict[str, list[Call]] = {}
    for call in calls:
        if call.kind == "rename":
            # Before it is renamed a file is flushed: its verbs end in a flush.
            _land(files, call.name, waiting.pop(call.name, []), rng)
            files[call.other] = files.pop(call.name)
        elif call.kind == "flush":
            for one in waiting.pop(call.name, []):
                _one(files[call.name], one)
        else:
            waiting.setdefault(call.name, []).append(call)
    for name, rest in waiting.items():
        _land(files, name, rest, rng)
    return files


def _land(files: Files, name: str, calls: list[Call], rng: random.Random | None) -> None:
    if rng is None:
        for call in calls:
            _one(files[name], call)
        return
    # What overlaps keeps its order: the cache holds one copy of a page. Each page lands or does not.
    keep = rng.choice((0.2, 0.5, 0.9))
    for call in calls:
        if call.kind == "truncate":
            if rng.random() < keep:
                _one(files[name], call)
            continue
        start = call.offset
        while start < call.offset + len(call.data):
            stop = min(call.offset + len(call.data), (start // PAGE + 1) * PAGE)
            if rng.random() < keep:
                piece = call.data[start - call.offset : stop - call.offset]
                _one(files[name], Call(name, "write", start, piece))
            start = stop


def _one(data: bytearray, call: Call) -> None:
    if call.kind == "truncate":
        del data[call.offset :]
        data.extend(bytes(max(0, call.offset - len(data))))
    else:
        data.extend(bytes(max(0, call.offset - len(data))))
        data[call.offset : call.offset + len(call.data)] = call.data


def store(directory: Path, files: Files) -> None:
    """Lay a state down as files."""
    for old in directory.iterdir():
        old.unlink()
    for name, data in files.items():
        sparse(directory / name, data)


def sparse(path: Path, data: bytes | bytearray) -> None:
    """Write a file, leaving out zeros."""
    with path.open("wb") as file:
        for start in range(0, len(data), 65536):
            piece = data[start : start + 65536]
            if any(piece):
                file.seek(start)
                file.write(piece)
        file.truncate(len(data))
