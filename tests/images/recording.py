"""What is done to files, recorded, and the states a power failure could leave of that.

A state is a prefix of the recorded calls in which everything before a file's last flush is there, and of
what came after it any part: calls land in any order or not at all, and a write is cut at every 4 KiB
page (the unit that storage of today writes whole). Names change in the order in which they were changed.
"""

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from breezeblock.images import raw

PAGE = 4096
ZEROS = bytes(65536)


@dataclass(frozen=True)
class Call:
    name: str
    kind: str  # write, truncate, flush, rename
    offset: int = 0
    data: bytes = b""
    other: str = ""


LOG: list[Call] = []


def system_calls(patch: pytest.MonkeyPatch) -> None:
    """Note each change to any file in `LOG`, where the kernel is asked for it."""
    pwrite, ftruncate, fallocate, rename = os.pwrite, os.ftruncate, raw._fallocate, os.rename

    def named(fd: int) -> str:
        return Path(f"/proc/self/fd/{fd}").readlink().name

    def write(fd: int, data: memoryview, offset: int) -> int:
        done = pwrite(fd, data, offset)
        LOG.append(Call(named(fd), "write", offset, bytes(data[:done])))
        return done

    def truncate(fd: int, length: int) -> None:
        LOG.append(Call(named(fd), "truncate", length))
        ftruncate(fd, length)

    def zero(fd: int, mode: int, offset: int, length: int) -> bool:
        LOG.append(Call(named(fd), "write", offset, bytes(min(length, os.fstat(fd).st_size - offset))))
        return fallocate(fd, mode, offset, length)

    def flush(fd: int) -> None:
        LOG.append(Call(named(fd), "flush"))

    def move(old: Path, new: Path) -> None:
        LOG.append(Call(old.name, "rename", other=new.name))
        rename(old, new)

    for name, instead in (("pwrite", write), ("ftruncate", truncate), ("rename", move)):
        patch.setattr(os, name, instead)
    for name in ("fsync", "fdatasync"):
        patch.setattr(os, name, flush)
    patch.setattr(raw, "_fallocate", zero)
    patch.setattr(raw, "_only_copies", lambda _fd: True)


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
                _one(files.setdefault(call.name, bytearray()), one)
        else:
            waiting.setdefault(call.name, []).append(call)
    for name, rest in waiting.items():
        _land(files, name, rest, rng)
    return files


def _land(files: Files, name: str, calls: list[Call], rng: random.Random | None) -> None:
    files.setdefault(name, bytearray())
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
            if piece != ZEROS[: len(piece)]:
                file.seek(start)
                file.write(piece)
        file.truncate(len(data))
