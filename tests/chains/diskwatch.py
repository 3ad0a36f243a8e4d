"""Finding the lines of a function before which the disk had changed."""

import json
import os
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from breezeblock import chains, images, shares
from breezeblock.shares.files import listing


def lines_that_find_a_new_state(
    function: Callable[[], None], directory: Path, notes: Path
) -> tuple[list[int], int]:
    """Run to the end in a child; return the lines that find the disk changed, and how many lines ran.

    Only a file that the child has open can change without changing name, inode, length or times.
    """
    pid = os.fork()
    if pid == 0:
        try:
            notes.write_text(json.dumps(_watched(function, directory)))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    changes, total = json.loads(notes.read_text())
    return changes, total


def _watched(function: Callable[[], None], directory: Path) -> tuple[list[int], int]:
    changes: list[int] = []
    count, last = 0, None
    roots = tuple(str(Path(package.__file__ or "").parent) + os.sep for package in (chains, images, shares))

    def look() -> list[object]:
        status = [(name, (directory / name).stat()) for name in sorted(listing(directory))]
        found: list[object] = [(name, one.st_ino, one.st_size, one.st_mtime_ns) for name, one in status]
        for number in listing(Path("/proc/self/fd")):
            try:
                path = Path(f"/proc/self/fd/{number}").readlink()
                if path.parent == directory:
                    found.append((path.name, zlib.crc32(path.read_bytes())))
            except FileNotFoundError:
                continue
        return found

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count, last
        if not frame.f_code.co_filename.startswith(roots):
            return None
        if event == "line":
            if (now := look()) != last:
                changes.append(count)
                last = now
            count += 1
        return trace

    sys.settrace(trace)
    function()
    sys.settrace(None)
    return changes, count
