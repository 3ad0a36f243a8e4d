"""Proving on a real directory what Breezeblock relies on: one small trial for each promise.

A trial works in an empty directory of its own, seen twice: `here`, and `there`, the same directory through
another mount where one can be had, so that nothing is answered from this machine's cache. It returns what
it saw, or raises `Broken` with what was wrong.
"""

import errno
import fcntl
import mmap
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TrialTimeoutError
from dataclasses import dataclass
from typing import Literal

import msgspec

from breezeblock.errors import BreezeblockError
from breezeblock.shares import files
from breezeblock.shares import trial_room as room
from breezeblock.shares.views import Broken, Views

Outcome = Literal["good", "lacking", "broken"]
MIB = 1 << 20
PATIENCE_S = 60.0
TICK_S = 0.02
"""Two ticks of a slow clock: NFS 3 tells changes apart by their time only, and no hand-over is quicker."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One promise, and what it costs where it does not hold."""

    name: str
    run: Callable[[Views], str]
    cost: str
    needed: bool = True
    """False: nothing is wrong without it, only slower or larger."""
    two: bool = False
    """Through one mount alone it proves little."""
    locks: bool = False
    """It is about byte-range locks, which some mounts keep to this machine."""


class Verdict(msgspec.Struct, frozen=True):
    """What became of a trial."""

    name: str
    outcome: Outcome
    seen: str
    cost: str = ""
    """Empty where the promise holds."""


def judge(trial: Trial, views: Views, patience_s: float = PATIENCE_S) -> Verdict:
    """Run one trial; one that hangs is left behind in a thread of its own."""
    answer: Future[str] = Future()

    def work() -> None:
        try:
            answer.set_result(trial.run(views))
        except BaseException as error:  # noqa: BLE001 - handed to the waiting thread
            answer.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        alone = " (through one mount only)" if trial.two and not views.apart else ""
        return Verdict(trial.name, "good", answer.result(patience_s) + alone)
    except TrialTimeoutError:
        return Verdict(trial.name, "broken", f"no answer within {patience_s:g} s", trial.cost)
    except (Broken, OSError, BreezeblockError) as error:
        return Verdict(trial.name, "broken" if trial.needed else "lacking", str(error), trial.cost)


# ── the trials ───────────────────────────────────────────────────────────────────────────────────────


def _permissions(views: Views) -> str:
    path = views.here / "mode"
    with files.fresh(path, 0o660):
        pass
    found = path.stat()
    if stat.S_IMODE(found.st_mode) != 0o660:
        raise Broken(f"a file made with mode 0660 has {stat.S_IMODE(found.st_mode):04o}")
    squashed = "" if found.st_uid == os.geteuid() else " (we are squashed)"
    return f"mode 0660, owner {found.st_uid}:{found.st_gid}{squashed}"


def _exclusive(views: Views) -> str:
    with files.fresh(views.here / "one"):
        pass
    try:
        with files.fresh(views.there / "one"):
            pass
    except FileExistsError:
        return "the second to create a name is refused"
    raise Broken("two could create one name with O_EXCL")


def _rename(views: Views) -> str:
    """Replace a file many times while somebody reads it by the other way."""
    path, length, rounds = views.here / "replaced", 4096, 100
    files.replace(path, bytes(length), views.here / "replaced.new")
    seen: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                content = (views.there / path.name).read_bytes()
            except OSError as error:
                # A reader may lose the old file under its hands, and then opens the new one.
                if error.errno != errno.ESTALE:
                    seen.append(f"a reader got {error.strerror}")
            else:
                if len(content) != length or len(set(content)) != 1:
                    seen.append(f"a reader saw {len(content)} bytes of a mixture")

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(rounds):
            files.replace(path, bytes([number]) * length, views.here / "replaced.new")
    finally:
        done.set()
        reader.join()
    if seen:
        raise Broken(seen[0])
    return f"{rounds} replacements, each seen whole or not at all"


def _sync(views: Views) -> str:
    took = []
    with files.fresh(views.here / "synced") as fd:
        for number in range(20):
            files.write_all(fd, bytes(4096), number * 4096)
            began = time.monotonic()
            os.fsync(fd)
            took.append(time.monotonic() - began)
    files.sync_directory(views.here)
    return f"fsync of 4 KiB takes {sorted(took)[len(took) // 2] * 1000:.2f} ms, of a directory it works"


def _close_to_open(views: Views) -> str:
    path, other = views.here / "handed", views.there / "handed"
    for number in range(20):
        time.sleep(TICK_S)
        path.write_bytes(bytes([number]) * 512)
        if (found := other.read_bytes()) != bytes([number]) * 512:
            raise Broken(f"what was closed on one mount read old on the other ({len(found)} bytes)")
    return "20 times, what one mount closed the other read"


def _names(views: Views) -> str:
    for number in range(2 if views.absent_s else 8):
        old, new = f"name-{number}", f"name-{number}.moved"
        _seen(views, "", old)
        (views.here / old).touch()
        _seen(views, old, new)
        (views.here / old).rename(views.here / new)
        _seen(views, new, old)
        (views.here / new).unlink()
        _seen(views, "", new)
    late = f"; one that was asked for before it was there, within {views.absent_s:g} s"
    return f"new, renamed and removed names are seen at once{late if views.absent_s else ''}"


def _seen(views: Views, there: str, gone: str) -> None:
    time.sleep(TICK_S)
    directory, end = views.there, time.monotonic() + views.absent_s
    # Names before the listing: opening a directory makes the client ask the server about it.
    new, old = not there or (directory / there).exists(), (directory / gone).exists()
    while not new and time.monotonic() < end:
        time.sleep(TICK_S)
        new = (directory / there).exists()
    listed = files.listing(directory)
    if not new or (there and there not in listed):
        when = f"within {views.absent_s:g} s" if views.absent_s else "at once"
        raise Broken(f"a new name was not seen {when}")
    if old or gone in listed:
        raise Broken("a name that was gone was still seen")


_HOLD = """
import fcntl, struct, sys, time
file = open(sys.argv[1], "r+b")
fcntl.fcntl(file, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 100, 1, 0))  # F_OFD_SETLK
print("held", flush=True)
time.sleep(600)
"""


def _locks(views: Views) -> str:
    path = views.here / "locked"
    path.write_bytes(bytes(512))
    command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-I", "-c", _HOLD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as holder:
        try:
            assert holder.stdout is not None  # noqa: S101 - a pipe was asked for
            if holder.stdout.readline() != b"held\n":
                raise Broken("a byte range could not be locked")
            with (views.there / path.name).open("r+b") as file:
                if _lock(file.fileno()):
                    raise Broken("two processes got the same lock")
                holder.kill()
                holder.wait()
                began = time.monotonic()
                while not _lock(file.fileno()):
                    if time.monotonic() - began > 10:
                        raise Broken("the lock of a killed process is still held after 10 s")
                    time.sleep(0.05)
                return (
                    f"exclusive; free {(time.monotonic() - began) * 1000:.0f} ms after its holder was killed"
                )
        finally:
            holder.kill()


def _lock(fd: int) -> bool:
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 100)
    except OSError as error:
        if error.errno in {errno.EAGAIN, errno.EACCES}:
            return False
        raise
    return True


def _clock(views: Views) -> str:
    before = time.time()
    path = views.here / "clock"
    path.write_bytes(b"x")
    os.utime(path)
    skew = path.stat().st_mtime - (before + time.time()) / 2
    if abs(skew) > 2:
        raise Broken(f"the server's clock is {skew:+.1f} s from this machine's")
    return f"{skew:+.2f} s from this machine's"


def _unlinked(views: Views) -> str:
    path = views.here / "unlinked"
    with files.fresh(path) as fd:
        files.write_all(fd, b"still here", 0)
        path.unlink()
        if os.pread(fd, 100, 0) != b"still here":
            raise Broken("an open file lost its content when its name was removed")
    if left := [name for name in files.listing(views.here) if name.startswith(".nfs")]:
        raise Broken(f"{left[0]} stays behind after a removed file was closed")
    return "an open file outlives its name, and leaves nothing"


def _linked(views: Views) -> str:
    path = views.here / "linked"
    path.touch()
    (views.here / "linked.too").hardlink_to(path)
    if (count := path.stat().st_nlink) != 2:
        raise Broken(f"a file with two names counts {count}")
    return "a file may have two names"


def _large(views: Views) -> str:
    with files.fresh(views.here / "large") as fd:
        for tib in (16, 8, 4, 2, 1):
            try:
                os.ftruncate(fd, tib << 40)
            except OSError:
                continue
            return f"a file may have {tib} TiB or more"
    raise Broken("a file may not even have 1 TiB")


def _direct(views: Views) -> str:
    path = views.here / "direct"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o660)
    try:
        with mmap.mmap(-1, 4096) as page:
            page.write(b"d" * 4096)
            os.pwrite(fd, page, 0)
    finally:
        os.close(fd)
    if (views.there / path.name).read_bytes() != b"d" * 4096:
        raise Broken("what was written with O_DIRECT was not read by the other way")
    return "4 KiB written past the cache"


TRIALS = (
    Trial("permissions", _permissions, "QEMU's user may not reach volumes, or strangers may."),
    Trial("exclusive creation", _exclusive, "Two workers could make one file, each believing it its own."),
    Trial(
        "atomic replacement", _rename, "A crash could leave a volume with half an .info, or none.", two=True
    ),
    Trial("fsync", _sync, "What was reported as done could be gone after a power failure."),
    Trial(
        "close-to-open",
        _close_to_open,
        "Another host could read a volume's old state and work on it.",
        two=True,
    ),
    Trial("names at once", _names, "A worker that takes over could repeat what the last one did.", two=True),
    Trial(
        "locks",
        _locks,
        "Two QEMUs could write one volume; or none could, after a host has died.",
        two=True,
        locks=True,
    ),
    Trial("unlinked open files", _unlinked, "A volume deleted while it is read could give errors."),
    Trial(
        "O_DIRECT",
        _direct,
        "QEMU cannot use cache=none: host crashes may lose a guest's writes.",
        needed=False,
    ),
    Trial("sparse files", room.sparse, "Thin volumes take all of their room at once.", needed=False),
    Trial("holes are told", room.holes, "Copies read and write zeros: slower, and larger.", needed=False),
    Trial("punching holes", room.punch, "Discarded blocks of a guest are never given back.", needed=False),
    Trial("preallocation", room.preallocate, "Thick volumes are written full of zeros.", needed=False),
    Trial("server-side copy", room.copy, "Clones and copies go through this machine.", needed=False),
    Trial("hard links", _linked, "Take-over of some foreign layouts is not crash-safe.", needed=False),
    Trial("large files", _large, "Large volumes cannot be made.", needed=False),
    Trial(
        "clock", _clock, "Times in listings and logs do not agree; Kerberos mounts may fail.", needed=False
    ),
)
