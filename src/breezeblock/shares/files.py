"""Durable steps on files in a directory that a crash, or another host, may interrupt at any point.

A name either does not exist or names finished work: whatever is new is written under a temporary name,
made durable, renamed, and the rename made durable (rename(2), fsync(2) on the directory). Where a name is
ours, only a regular file is accepted under it; a link, a FIFO or a directory there is somebody's mistake
or attack, and is refused before anything is read from it.
"""

import errno
import fcntl
import os
import re
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from breezeblock.errors import BreezeblockError, CorruptError, NoSpaceError, UnavailableError

TEMPORARY = ".tmp-"
"""How every temporary name begins; `Attempt.temp_name` continues it."""

_held: ContextVar[frozenset[tuple[Path, str]]] = ContextVar("_held", default=frozenset())
"""The notes that this thread's verbs hold, and for which attempt."""

_F_OFD_GETLK = 36
_FLOCK = struct.Struct("hhqqi4x")
_MAX_NOTE = 1 << 16
_LOOKS = 3
_TOKEN = re.compile(r"[0-9A-Za-z._]{1,128}\Z")
_REFUSED_PAUSES_S = (0.01, 0.05, 0.2, 0.75)
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


def held(fd: int) -> bool:
    """Tell whether another program has the image open, by the locks that QEMU takes on it.

    False where the file system has no locks to ask about.
    """
    # QEMU (block/file-posix.c) marks each permission by a read lock on one byte from 100 and from 200 on.
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 100, 200, 0)
    try:
        answer = fcntl.fcntl(fd, _F_OFD_GETLK, asked)
    except OSError:
        return False
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


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
    for left in reversed(range(_LOOKS)):
        try:
            with opened(path) as fd:
                return _read_capped(fd, path, limit_bytes)
        except FileNotFoundError:
            return None
        except OSError as error:
            # Another client may replace it in the middle, and NFS then knows the old file no more.
            if error.errno != errno.ESTALE or not left:
                raise
    raise AssertionError("the last look returns or raises")


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
    rename(temp, final)
    sync_directory(final.parent)


def rename(temp: Path, final: Path) -> None:
    """Rename a file over another, patient with servers that refuse it for a moment.

    An SMB server refuses it (EACCES, EBUSY) while a scanner or a backup has either file open, and right
    after a hard link was made. Where it is refused for good, the error comes a second later.
    """
    for pause in _REFUSED_PAUSES_S:
        try:
            temp.rename(final)
        except OSError as error:
            if error.errno not in {errno.EACCES, errno.EBUSY, errno.ETXTBSY}:
                raise
            time.sleep(pause)
        else:
            return
    temp.rename(final)


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


@contextmanager
def noted(directory: Path, operation_id: str, token: str) -> Iterator[None]:
    """Hold a verb that makes temporary files in the directory; first remove what earlier attempts left.

    Their names are known without listing the directory: each attempt writes its token into the
    operation's note first, and the attempt that ends removes the note. An earlier attempt that is frozen
    rather than dead finds its work gone when it wakes up, and cannot publish it. A note lost in a power
    failure costs a file that the sweep at the next start removes.
    """
    note = directory / f"{TEMPORARY}{operation_id}-attempts"
    held = _held.get()
    if (note, token) in held:  # one verb within another
        yield
        return
    tokens = (read_small(note, _MAX_NOTE) or b"").decode("ascii", "replace").split()
    for earlier in tokens:  # perhaps with our own token: a helper process that was killed, and called again
        if _TOKEN.match(earlier):
            with suppress(FileNotFoundError, IsADirectoryError):
                (directory / f"{TEMPORARY}{operation_id}-{earlier}").unlink()
    if token not in tokens:
        with opened(note, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o660) as fd:
            os.write(fd, f"{token}\n".encode())
    before = _held.set(held | {(note, token)})
    try:
        yield
    except BaseException:
        # The note goes only with the work: a server that was away may have kept it from being removed.
        with suppress(OSError):
            (directory / f"{TEMPORARY}{operation_id}-{token}").unlink(missing_ok=True)
            note.unlink()
        raise
    else:
        with suppress(OSError):
            note.unlink()
    finally:
        _held.reset(before)
