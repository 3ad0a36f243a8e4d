"""The control files as a FUSE file system: what libfuse asks, told by `control_files`. Thin on purpose.

mfusepy binds libfuse 3 and is imported only here, when it is needed: the service runs without either.
"""

import errno
import grp
import itertools
import os
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

from breezeblock.app.control_files import ControlFiles
from breezeblock.errors import ConfigError, UnavailableError

_TYPE = "breezeblock"
_LOOP_ENDED = 8
"""What fuse_main(3) returns after a signal, when it has unmounted."""


def mount(files: ControlFiles, directory: Path, *, group: str = "") -> None:
    """Show the files in a directory until it is unmounted or this process is told to end.

    They are this user's, or with a group also its members'. What a mount that was killed left there is taken
    away first. Raises ConfigError for the directory or group, UnavailableError if it cannot be mounted.
    """
    os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")
    try:
        import mfusepy
    except OSError as error:
        raise ConfigError("There is no libfuse.", remedy="Install it; Debian has it in fuse3.") from error
    gid = _gid(group)
    directory = directory.absolute()
    _clear(directory)
    try:
        mfusepy.FUSE(
            _Tree(files, gid),
            str(directory),
            foreground=True,
            direct_io=True,  # lengths are not known before a file is read
            default_permissions=True,
            allow_other=gid is not None,
            entry_timeout=0,
            attr_timeout=0,
            fsname=files.rest.backend,
            subtype=_TYPE,
        )
    except RuntimeError as error:
        if error.args == (_LOOP_ENDED,):
            return
        raise UnavailableError(
            f"The control files cannot be mounted at {directory}.",
            remedy="libfuse said why. For users other than root it needs fusermount3 (Debian: fuse3).",
        ) from error


class _Tree:
    """What mfusepy calls, on threads of libfuse's; it hands an OSError's number on."""

    use_ns = True

    def __init__(self, files: ControlFiles, gid: int | None) -> None:
        self._files = files
        self._owner = {"st_uid": os.geteuid(), "st_gid": os.getegid() if gid is None else gid}
        self._modes = {
            "directory": stat.S_IFDIR | (0o700 if gid is None else 0o750),
            "verb": stat.S_IFREG | (0o600 if gid is None else 0o660),
            "report": stat.S_IFREG | (0o400 if gid is None else 0o440),
        }
        self._handles = itertools.count(1)
        self._read: dict[int, bytes] = {}

    def getattr(self, path: str, _handle: int | None = None) -> Mapping[str, int]:
        kind = self._files.kind(path[1:])
        return self._owner | {"st_mode": self._modes[kind], "st_nlink": 2 if kind == "directory" else 1}

    def readdir(self, path: str, _handle: int) -> list[str]:
        return [".", "..", *self._files.names(path[1:])]

    def open(self, path: str, flags: int) -> int:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            self.truncate(path, 0)
        return next(self._handles)

    def truncate(self, path: str, _length: int, _handle: int | None = None) -> None:
        """Do nothing: it is what a shell's `>` asks for before it writes. Root is not kept by modes."""
        if self._files.kind(path[1:]) != "verb":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def read(self, path: str, count: int, offset: int, handle: int) -> bytes:
        """Return a part of what the file was when its beginning was read through this handle."""
        if not offset or handle not in self._read:
            self._read[handle] = self._files.read(path[1:])
        return self._read[handle][offset : offset + count]

    def write(self, path: str, data: bytes, _offset: int, _handle: int) -> int:
        """Take each write for a verb, wherever in the file: a shell's next `echo` goes on behind."""
        self._files.write(path[1:], data)
        return len(data)

    def release(self, _path: str, handle: int) -> None:
        self._read.pop(handle, None)


def _gid(group: str) -> int | None:
    if not group:
        return None
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigError(f"There is no group {group}.") from None


def _clear(directory: Path) -> None:
    """Take away what a mount that was killed left. Raises ConfigError for what is no empty directory."""
    try:
        directory.stat()
    except OSError as error:
        if error.errno == errno.ENOTCONN and _ours(directory):
            subprocess.run(["umount", "--lazy", str(directory)], check=False, stdin=subprocess.DEVNULL)
    try:
        empty = directory.is_dir() and not any(directory.iterdir())
    except OSError:
        empty = False
    if not empty:
        raise ConfigError(f"{directory} is no empty directory, which the control files need.")


def _ours(directory: Path) -> bool:
    mounts = Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines()
    return any(line.split(" ")[1:3] == [str(directory), f"fuse.{_TYPE}"] for line in mounts)
