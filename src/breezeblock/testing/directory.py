"""A directory as it is on disk: watched for changes, told from another by its content, copied."""

import ctypes
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

# inotify(7): modify, attrib, moved_from, moved_to, create, delete
_CHANGES = 0x2 | 0x4 | 0x40 | 0x80 | 0x100 | 0x200


class Watch:
    """Tells whether anything under a directory was changed since it was last asked, by whatever process.

    The kernel notes the change in the call that makes it (write, truncate, allocate, rename, link, unlink,
    chmod, setting times or attributes), so an answer costs one system call, and no change is missed. Only
    what is written through a memory mapping is not seen; nothing here does that.
    """

    def __init__(self, root: Path) -> None:
        """Begin to watch `root` and all below it. Raises OSError."""
        self._root = root
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        self._add_all()

    def changed(self) -> bool:
        """Return whether anything changed since the last call, or since the watch began."""
        found = False
        while True:
            try:
                os.read(self._fd, 1 << 16)
            except BlockingIOError:
                break
            found = True
        if found:
            self._add_all()  # there may be new directories
        return found

    def _add_all(self) -> None:
        for directory, _directories, _files in os.walk(self._root):
            if self._libc.inotify_add_watch(self._fd, os.fsencode(directory), _CHANGES) < 0:
                number = ctypes.get_errno()
                if number != errno.ENOENT:
                    raise OSError(number, "inotify_add_watch", directory)


def digest(root: Path) -> str:
    """Return what is the same for two directories only if names, modes, links, lengths and content are."""
    found = hashlib.blake2b(digest_size=20)
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        found.update(f"{path.relative_to(root)}\0{status.st_mode}\0{status.st_nlink}\0".encode())
        if path.is_symlink():
            found.update(f"{path.readlink()}\0".encode())
        elif path.is_file():
            found.update(f"{status.st_size}\0".encode())
            with path.open("rb") as file:
                for start, end in _data(file, status.st_size):
                    found.update(f"{start}\0{end}\0".encode())
                    found.update(file.read(end - start))
    return found.hexdigest()


def copy(source: Path, target: Path) -> None:
    """Make `target` a directory with what `source` has, and nothing else; holes and hard links stay such."""
    target.mkdir(exist_ok=True)
    for path in target.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    linked: dict[int, str] = {}

    def copy_one(one: str, to: str) -> None:
        status = Path(one).stat()
        if status.st_ino in linked:
            os.link(linked[status.st_ino], to)
            return
        if status.st_nlink > 1:
            linked[status.st_ino] = to
        _copy_file(Path(one), Path(to))

    shutil.copytree(source, target, symlinks=True, copy_function=copy_one, dirs_exist_ok=True)


def _copy_file(source: Path, target: Path) -> None:
    length = source.stat().st_size
    with source.open("rb") as given, target.open("wb") as taken:
        taken.truncate(length)
        for start, end in _data(given, length):
            taken.seek(start)
            taken.write(given.read(end - start))
    shutil.copystat(source, target)


def _data(file: BinaryIO, length: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of what is not a hole, the file being at `start`; all where a server cannot tell."""
    end = 0
    while end < length:
        try:
            start = file.seek(end, os.SEEK_DATA)
            end = file.seek(start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            start, end = end, length
        file.seek(start)
        yield start, end
