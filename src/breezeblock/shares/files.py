"""Durable steps on files in a directory that a crash, or another host, may interrupt at any point.

A name either does not exist or names finished work: whatever is new is written under a temporary name,
made durable, renamed, and the rename made durable (rename(2), fsync(2) on the directory). Where a name is
ours, only a regular file is accepted under it; a link, a FIFO or a directory there is somebody's mistake
or attack, and is refused before anything is read from it.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from breezeblock.errors import BreezeblockError, CorruptError, NoSpaceError, UnavailableError

TEMPORARY = ".tmp-"
"""How every temporary name begins; `Attempt.temp_name` continues it."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FOREIGN = {errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.EISDIR, errno.ENOTDIR}


@contextmanager
def storage_errors(subject: str) -> Iterator[None]:
    """Turn an OSError inside the block into ours; `subject` says what was being worked on."""
    try:
        yield
    except OSError as error:
        raise translate(error, subject) from error


def translate(error: OSError, subject: str) -> BreezeblockError:
    """Return our error for the kernel's."""
    where = f" ({error.filename})" if error.filename else ""
    text = f"{subject}: {error.strerror or error}{where}."
    if error.errno in _FULL:
        return NoSpaceError(text, remedy="Free space or raise the quota there; then repeat the work.")
    if error.errno == errno.EFBIG:
        return NoSpaceError(text, remedy="The file system's largest file is smaller than this.")
    if error.errno == errno.ENOENT:
        # Not NotFoundError: a share that is not mounted must never look as if a volume had been deleted.
        return UnavailableError(text, remedy="Look whether the storage is mounted; then repeat the work.")
    if error.errno in _FOREIGN:
        return CorruptError(text, remedy="Move the foreign file away; Breezeblock uses regular files only.")
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return UnavailableError(
            text, remedy="Let the service's user write there (owner, mode, export options)."
        )
    return UnavailableError(text, remedy="Look at the storage; the work can be repeated when it answers.")


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY, mode: int = 0o660) -> Iterator[int]:
    """Open a regular file that is ours and close it at the end; CorruptError if it is anything else.

    A new file (O_CREAT) gets exactly `mode`, whatever the umask.
    """
    # O_NONBLOCK: opening a FIFO that someone put there must not wait for its writer.
    try:
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno in _FOREIGN:
            raise _foreign(path) from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise _foreign(path)
        if flags & os.O_CREAT:
            os.fchmod(fd, mode)
        yield fd
    finally:
        os.close(fd)


def _foreign(path: Path) -> CorruptError:
    return CorruptError(
        f"{path} is not a regular file.", remedy="Move it away; Breezeblock uses regular files only."
    )


def exists(path: Path) -> bool:
    """Tell whether a regular file is there; CorruptError if something else has the name."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(status.st_mode):
        raise _foreign(path)
    return True


def listing(directory: Path) -> list[str]:
    """Return the names in a directory; names only, as a share may hold many thousands."""
    return os.listdir(directory)  # noqa: PTH208 - iterdir makes an object of each


@contextmanager
def fresh(path: Path, mode: int = 0o660) -> Iterator[int]:
    """Create a temporary file and open it for reading and writing; a failure in the block removes it."""
    with opened(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode) as fd:
        try:
            yield fd
        except BaseException:
            with suppress(OSError):
                path.unlink()
            raise


def read_small(path: Path, limit_bytes: int) -> bytes | None:
    """Return a small file's content, None if there is none, CorruptError if it passes the limit."""
    try:
        with opened(path) as fd:
            return _read_capped(fd, path, limit_bytes)
    except FileNotFoundError:
        return None


def _read_capped(fd: int, path: Path, limit_bytes: int) -> bytes:
    content = b""
    while chunk := os.read(fd, limit_bytes + 1 - len(content)):
        content += chunk
        if len(content) > limit_bytes:
            raise CorruptError(
                f"{path} is larger than {limit_bytes} bytes.",
                remedy="This is no file of ours: `breezeblock doctor` says what belongs there.",
            )
    return content


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def replace(path: Path, content: bytes, temp: Path, mode: int = 0o660) -> None:
    """Give `path` this content atomically and durably; `temp` lies in the same directory."""
    with fresh(temp, mode) as fd:
        write_all(fd, content, 0)
        publish(fd, temp, path)


def publish(fd: int, temp: Path, final: Path) -> None:
    """Make the open file `temp` durable, then known as `final`, atomically and durably."""
    os.fsync(fd)
    temp.rename(final)
    sync_directory(final.parent)


def remove(path: Path) -> bool:
    """Remove a file durably; tell whether there was one."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    sync_directory(path.parent)
    return True


def sync_file(path: Path) -> None:
    """Make durable what any process wrote to the file."""
    with opened(path) as fd:
        os.fsync(fd)


def sync_directory(directory: Path) -> None:
    """Make names created, renamed or removed in the directory durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def drop_temporaries(directory: Path, names: list[str], operation_id: str, keep: str = "") -> list[str]:
    """Remove what other attempts of the operation left among `names`; return the names removed.

    An earlier attempt that is frozen rather than dead then finds its work gone, and cannot publish it.
    """
    gone = []
    for name in names:
        if name.startswith(f"{TEMPORARY}{operation_id}-") and name != keep:
            with suppress(FileNotFoundError, IsADirectoryError):
                (directory / name).unlink()
                gone.append(name)
    return gone
