"""Mounting shares: look first, mount if needed, never for longer than was allowed.

A consumer on this host may use the same mount, so a mount that works is never taken away. What is
mounted is read from the kernel's mount table and never found out by touching the mount point: touching
a mount whose server is gone does not return.
"""

import ctypes
import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from breezeblock.errors import ConfigError, UnavailableError
from breezeblock.shares.sharelist import Share, redacted

DEFAULT_OPTIONS = "hard,nosuid,nodev,noexec,nosharecache,lookupcache=none,acdirmin=0,acdirmax=0"
"""hard: an I/O error after a time-out would be lost data. nosharecache: without it the kernel shows one
mount under the address of another that reaches the same server, and the table cannot be trusted. The
rest is explained in docs/backends/nfs.md."""

_ESCAPE = re.compile(r"\\([0-7]{3})")
_GROUPS = {
    "soft": "hard",
    "softerr": "hard",
    "nfsvers": "vers",
    "minorversion": "vers",
    "v2": "vers",
    "v3": "vers",
    "v4": "vers",
    "v4.0": "vers",
    "v4.1": "vers",
    "v4.2": "vers",
    "rw": "ro",
    "fg": "bg",
    "actimeo": "ac",
}
"""Options that say the same thing under another name; later lists replace earlier ones by group."""
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_KILL_WAIT_S = 2.0
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the mount table, unescaped."""

    mount_point: str
    source: str
    kind: str


def table(path: Path = Path("/proc/self/mountinfo")) -> list[Entry]:
    """Read this process's mount table, in the order of mounting (proc(5), mountinfo)."""
    entries = []
    for line in path.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        left, _, right = line.partition(" - ")
        before, after = left.split(" "), right.split(" ")
        if len(before) >= 5 and len(after) >= 2:
            entries.append(Entry(_unescaped(before[4]), _unescaped(after[1]), after[0]))
    return entries


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def mount_point(base: Path, address: str) -> Path:
    """Return where a share is mounted: MD5 hex of its address, the name that os-brick and Nova compute."""
    return base / hashlib.md5(address.encode(), usedforsecurity=False).hexdigest()


def source_at(point: Path) -> str | None:
    """Return what is mounted at `point` right now (the uppermost, if several), or None."""
    here = str(point)
    return next((entry.source for entry in reversed(table()) if entry.mount_point == here), None)


def merged(*lists: str) -> str:
    """Join option lists; a later list replaces what an earlier one says about the same thing."""
    kept: list[tuple[str, str]] = []
    for options in lists:
        new = [(_group(option), option) for option in options.split(",") if option]
        said = {group for group, _ in new}
        kept = [pair for pair in kept if pair[0] not in said] + new
    return ",".join(option for _, option in kept)


def _group(option: str) -> str:
    name = option.partition("=")[0].removeprefix("no")
    return _GROUPS.get(name, name)


def _normal_nfs(source: str) -> str:
    host, _, path = source.partition(":/")
    return f"{host}:/{'/'.join(part for part in path.split('/') if part)}"


@dataclass(frozen=True, slots=True)
class Client:
    """What mounts the shares of one protocol."""

    program: str
    packages: str
    """Which packages have it, for the operator."""
    options: str
    """What this program is always told."""
    normal: Callable[[str], str]
    """Two sources of mounts are one share if this says the same of both."""
    explain: Callable[[str], str] = str
    """Puts the program's complaint, on one line, into words that help."""


NFS = Client("mount.nfs", "nfs-common (Debian, Ubuntu) or nfs-utils (Fedora, RHEL)", "retry=0", _normal_nfs)


@dataclass(slots=True)
class Mounted:
    """One share that is kept mounted. Threads may share it; two processes may race."""

    share: Share
    base: Path
    options: str = DEFAULT_OPTIONS
    """What applies where the share's own options do not say otherwise."""
    attempts: int = 3
    timeout_s: float = 30.0
    """For one call of `path`, over all attempts."""
    client: Client = NFS
    credentials: Callable[[], bytes] | None = None
    """Returns the content of a credentials file (mount.cifs(8)); asked anew for each attempt."""
    point: Path = field(init=False)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    _failure: tuple[float, UnavailableError] | None = field(init=False, default=None)
    _stuck: subprocess.Popen[bytes] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        # The table shows real paths. Resolving the base only is safe: nothing below it is touched.
        self.point = mount_point(Path(os.path.realpath(self.base)), self.share.address)

    def path(self) -> Path:
        """Return the mount point, mounted; otherwise raise UnavailableError within about `timeout_s`."""
        asked = time.monotonic()
        if self._is_mounted():
            return self.point
        with self._lock:
            if self._is_mounted():
                return self.point
            if self._failure is not None and self._failure[0] > asked:
                # Another thread has just tried, while this one waited for it: do not wait again.
                raise UnavailableError(self._failure[1].message, remedy=self._failure[1].remedy)
            try:
                self._mount(asked + self.timeout_s)
            except UnavailableError as error:
                self._failure = (time.monotonic(), error)
                raise
        return self.point

    def let_go(self) -> None:
        """Detach a mount whose root the server no longer knows (ESTALE), so that it can be mounted anew.

        It is of no use to anybody by its name; who has files open on it keeps them (umount2(2), MNT_DETACH).
        The server is not asked. Where that is not allowed, nothing happens.
        """
        with self._lock:
            if source_at(self.point) is not None:
                _umount2(os.fsencode(self.point), _MNT_DETACH | _UMOUNT_NOFOLLOW)

    def _is_mounted(self) -> bool:
        source = source_at(self.point)
        if source is None:
            return False
        if self.client.normal(source) != self.client.normal(self.share.address):
            raise UnavailableError(
                f"{self.point}, the mount point of {self.share.address}, has {source} mounted.",
                remedy=f"Find out who mounted {source} there and unmount it.",
            )
        return True

    def _mount(self, deadline: float) -> None:
        if self._stuck is not None and self._stuck.poll() is None:
            raise self._unavailable(f"an earlier mount (process {self._stuck.pid}) hangs in the kernel")
        try:
            _make_directories(self.point)
        except OSError as error:
            raise self._unavailable(f"{error.filename} cannot be made: {error.strerror}") from error
        reason = ""
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(max(0.0, min(_PAUSE_S, deadline - time.monotonic())))
            left = deadline - time.monotonic()
            if left <= 0:
                break
            reason = self._run(left) or reason
            # The table decides, not the exit status: another process may have mounted it meanwhile.
            if self._is_mounted():
                return
        raise self._unavailable(
            reason or f"{self.client.program} ended well, but the mount table does not show the share"
        )

    def _run(self, timeout_s: float) -> str:
        """Try to mount once; return why it failed, or nothing."""
        options = merged(self.options, self.share.options, self.client.options)
        # A file, not a pipe: rpc.statd may be started by mount.nfs and would keep a pipe open.
        with tempfile.TemporaryFile() as complaint, self._secret() as secret:
            if secret is not None:
                options += f",credentials=/proc/self/fd/{secret}"
            process = subprocess.Popen(
                argv(self.client, self.share.address, self.point, options),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaint,
                pass_fds=() if secret is None else (secret,),
                start_new_session=True,
                env={"PATH": _PATH, "LC_ALL": "C"},
            )
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._kill(process)
                return f"the server did not answer within {self.timeout_s:g} s"
            complaint.seek(0)
            text = complaint.read(4096).decode("utf-8", "replace")
        if process.returncode == 0:
            return ""
        return (
            self.client.explain(redacted(" ".join(text.split())[:500]))
            or f"{self.client.program} ended with {process.returncode}"
        )

    @contextmanager
    def _secret(self) -> Iterator[int | None]:
        """Open a file that holds the credentials and has no name: memory that only we and the program see.

        It is a file of the kernel's own tmpfs (memfd_create(2)), so there is nothing to remove after a kill.
        """
        if self.credentials is None:
            yield None
            return
        fd = os.memfd_create("credentials", os.MFD_CLOEXEC)
        try:
            os.fchmod(fd, 0o400)
            os.write(fd, self.credentials())
            yield fd
        finally:
            os.close(fd)

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        try:
            process.wait(_KILL_WAIT_S)
        except subprocess.TimeoutExpired:
            self._stuck = process

    def _unavailable(self, reason: str) -> UnavailableError:
        return UnavailableError(
            f"The share {self.share.address} cannot be mounted at {self.point}: {reason}.",
            remedy="Check the server, its shares and the mount options; it is tried again on the next use.",
        )


def _umount2(point: bytes, flags: int) -> None:
    ctypes.CDLL(None).umount2(point, flags)


def argv(client: Client, address: str, point: Path, options: str) -> Sequence[str]:
    """Return the command that mounts a share. No secret is ever part of it.

    mount.nfs itself goes from 4.2 down to 3 where the options fix no version (nfs(5), `vers`).
    The child dies with the thread that waits for it.
    """
    program = shutil.which(client.program, path=_PATH)
    if program is None:
        raise UnavailableError(
            f"{address} cannot be mounted: the program {client.program} is missing.",
            remedy=f"Install it: package {client.packages}.",
        )
    command = (program, address, str(point), "-o", options)
    setpriv = shutil.which("setpriv", path=_PATH)
    return (setpriv, "--pdeathsig", "KILL", "--", *command) if setpriv else command


def check_usable(options: str, where: str) -> None:
    """Raise ConfigError if mount options would break how shares are mounted here."""
    for option in options.split(","):
        if option in {"bg", "remount", "bind", "ro", "fake"}:
            raise ConfigError(
                f"{where} has the mount option {option}, which cannot be used here.",
                remedy="Leave it out: shares are mounted writable and in the foreground.",
            )


def _make_directories(point: Path) -> None:
    # Not Path.mkdir(exist_ok): that asks what an existing one is, and may so touch a hung mount.
    with suppress(FileExistsError):
        point.parent.mkdir(0o755, parents=True)
    with suppress(FileExistsError):
        point.mkdir(0o755)
