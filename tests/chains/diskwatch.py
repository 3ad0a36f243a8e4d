"""Finding the lines of a function before which the disk had changed."""

import os
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from breezeblock import chains, images, shares
from breezeblock.shares.files import listing
from breezeblock.testing import Moment


def lines_that_find_a_new_state(
    function: Callable[[], None], directory: Path, notes: Path
) -> tuple[list[Moment], list[Moment]]:
    """Run to the end in a child; return when lines found the disk changed, and when lines ran at all.

    Only a file that the child has open can change without changing name, inode, length or times.
    """
    pid = os.fork()
    if pid == 0:
        try:
            notes.write_bytes(msgspec.json.encode(_watched(function, directory)))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    return msgspec.json.decode(notes.read_bytes(), type=tuple[list[Moment], list[Moment]])


def _digest(path: Path) -> int:
    """Look at what the file has but for holes: a VHDX has megabytes of them, and this runs for every line."""
    found, offset = 0, 0
    with path.open("rb", buffering=0) as file:
        length = os.fstat(file.fileno()).st_size
        while offset < length:
            try:
                offset = os.lseek(file.fileno(), offset, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(file.fileno(), offset, os.SEEK_HOLE)
            found = zlib.crc32(os.pread(file.fileno(), end - offset, offset), found ^ offset)
            offset = end
    return found


def _watched(function: Callable[[], None], directory: Path) -> tuple[list[Moment], list[Moment]]:
    changes: list[Moment] = []
    moments: list[Moment] = []
    seen: Counter[tuple[str, int]] = Counter()
    last = None
    roots = tuple(str(Path(package.__file__ or "").parent) + os.sep for package in (chains, images, shares))

    def look() -> list[object]:
        status = [(name, (directory / name).stat()) for name in sorted(listing(directory))]
        found: list[object] = [(name, one.st_ino, one.st_size, one.st_mtime_ns) for name, one in status]
        for number in listing(Path("/proc/self/fd")):
            try:
                path = Path(f"/proc/self/fd/{number}").readlink()
                if path.parent == directory:
                    found.append((path.name, _digest(path)))
            except FileNotFoundError:
                continue
        return found

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal last
        if not frame.f_code.co_filename.startswith(roots):
            return None
        if event == "line":
            line = frame.f_code.co_filename, frame.f_lineno
            moments.append(Moment(*line, seen[line]))
            seen[line] += 1
            if (now := look()) != last:
                changes.append(moments[-1])
                last = now
        return trace

    sys.settrace(trace)
    function()
    sys.settrace(None)
    return changes, moments
