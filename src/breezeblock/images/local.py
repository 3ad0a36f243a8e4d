"""Image files of this machine that users name: what is read or written lies below an allowed directory.

A path that was checked may be another one by the time it is opened: whoever may write there can put a link
in the place of any part of it. So the directory is opened first, the kernel is asked where what is open
lies, and everything else is done in that open directory, by bare names that may be no links.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from breezeblock.attempt import Attempt
from breezeblock.errors import InvalidInputError
from breezeblock.images import raw
from breezeblock.images.addresses import Policy, check_bytes, require_allowed

_PART_BYTES = 1 << 20
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def _directory(path: Path, policy: Policy) -> Iterator[int]:
    """Open a path's directory, for as long as the block runs."""
    try:
        fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be reached: {error.strerror}.") from error
    try:
        require_allowed(Path(f"/proc/self/fd/{fd}").readlink() / path.name, str(path), policy)
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _opened(path: Path, directory: int) -> Iterator[int]:
    """Open a regular file in an open directory."""
    try:
        # O_NONBLOCK: opening a FIFO must not wait for its other end.
        fd = os.open(path.name, _READ, dir_fd=directory)
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidInputError(f"{path} is not a regular file.")
        yield fd
    finally:
        os.close(fd)


def copy_in(source: Path, target: Path, policy: Policy, attempt: Attempt) -> None:
    """Copy a user's file. A copy, not the file itself: what was inspected must be what is converted."""
    with _directory(source, policy) as directory, _opened(source, directory) as fd:
        check_bytes(os.fstat(fd).st_size, policy)
        with target.open("w+b") as file:
            raw.copy(fd, file.fileno(), attempt)


def validator(path: Path, policy: Policy) -> str:
    """Return what changes when the file does."""
    with _directory(path, policy) as directory, _opened(path, directory) as fd:
        status = os.fstat(fd)
    return f"{status.st_dev}-{status.st_ino}-{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}"


def copy_out(source: Path, target: Path, policy: Policy, attempt: Attempt) -> None:
    """Write a file where nothing has its name, whole and durable as soon as it has it.

    Raises InvalidInputError if something else has it, or the directory is none; the kernel's OSError passes.
    """
    with _directory(target, policy) as directory:
        _sweep(directory, attempt.operation_id)
        try:
            _link_copy(source, target, directory, attempt)
        except FileExistsError as error:
            with _opened(target, directory) as there, source.open("rb") as file:
                if not _same(file.fileno(), there):
                    raise InvalidInputError(f"{target} exists already.") from error
        os.fsync(directory)


def _link_copy(source: Path, target: Path, directory: int, attempt: Attempt) -> None:
    new = os.open(attempt.temp_name, _NEW, 0o666, dir_fd=directory)
    try:
        with source.open("rb") as file:
            raw.copy(file.fileno(), new, attempt)
        os.fsync(new)
        # A link, not a rename: it never replaces what somebody has put there. Of what is open, not of what
        # has the temporary name by now.
        os.link(f"/proc/self/fd/{new}", target.name, dst_dir_fd=directory)
    finally:
        os.close(new)
        with suppress(FileNotFoundError):
            os.unlink(attempt.temp_name, dir_fd=directory)


def sweep(target: Path, policy: Policy, operation_id: str) -> None:
    """Remove what attempts of an operation left unfinished beside a target."""
    with _directory(target, policy) as directory:
        _sweep(directory, operation_id)


def _sweep(directory: int, operation_id: str) -> None:
    for name in os.listdir(directory):
        if name.startswith(f".tmp-{operation_id}-"):
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)


def _same(one: int, other: int) -> bool:
    """Tell whether an attempt before this one has published the file already."""
    length = os.fstat(one).st_size
    if length != os.fstat(other).st_size:
        return False
    return all(
        os.pread(one, _PART_BYTES, offset) == os.pread(other, _PART_BYTES, offset)
        for offset in range(0, length, _PART_BYTES)
    )
