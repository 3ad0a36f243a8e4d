"""One runner for qemu-img: explicit formats, absolute paths, limits, progress, cancel, and no hang.

Used for what is not header work: commit into QCOW2, safe rebase, convert to QCOW2, growing an L1 table,
check. Every image given to it has been read by `qcow2.parse` first, so that the backing files it opens
are the ones we know, in formats that the headers record.
"""

import os
import re
import resource
import selectors
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from breezeblock.attempt import Attempt
from breezeblock.errors import (
    BreezeblockError,
    CancelledOperationError,
    ConfigError,
    CorruptError,
    NoSpaceError,
    UnavailableError,
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use."""

    address_space_bytes: int = 2 << 30
    cpu_seconds: int = 3600
    silence_seconds: float = 900.0
    """Without progress for this long it is taken for hung (a server that does not answer)."""


LIMITS = Limits()
_TICK_SECONDS = 0.1
_REAP_SECONDS = 10.0
_MAX_TEXT = 16 << 20
_NO_ROOM_BYTES = 1 << 20
_PERCENT = re.compile(rb"\(\s*([0-9]+(?:\.[0-9]+)?)/100%\)")
_ENVIRONMENT = {"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath)}
_FULL = ("no space left", "disk quota exceeded", "file too large")
_BUSY = ("failed to get", "is another process using the image")
_AWAY = (
    "input/output error",
    "stale file handle",
    "timed out",
    "permission denied",
    "cannot allocate memory",
)
_BROKEN = (
    "corrupt",
    "not in qcow2 format",
    "invalid",
    "unknown",
    "unsupported",
    "could not open",
    "refcount",
)


def commit(top: Path, attempt: Attempt, limits: Limits = LIMITS) -> None:
    """Write what the QCOW2 layer `top` holds into its backing file; `top` itself stays as it is."""
    budget = ["-r", str(attempt.io_bytes_per_s)] if attempt.io_bytes_per_s else []
    _run(["commit", "-p", "-d", *budget, "-t", "writeback", "-f", "qcow2", str(top)], attempt, limits)


def rebase(image: Path, backing: str, backing_format: str, attempt: Attempt, limits: Limits = LIMITS) -> None:
    """Change the backing file, copying into `image` whatever would read differently.

    `backing` is a bare name beside `image`.
    """
    arguments = ["rebase", "-p", "-t", "writeback", "-f", "qcow2", "-F", backing_format, "-b", backing]
    _run([*arguments, str(image)], attempt, limits)


def relink(image: Path, backing: str, backing_format: str, attempt: Attempt, limits: Limits = LIMITS) -> None:
    """Change the backing file to one that reads the same, for headers that `qcow2.reparent` refuses."""
    arguments = ["rebase", "-u", "-f", "qcow2", "-F", backing_format, "-b", backing]
    _run([*arguments, str(image)], attempt, limits)


def convert(
    source: Path,
    source_format: str,
    target: Path,
    target_format: str,
    attempt: Attempt,
    limits: Limits = LIMITS,
) -> None:
    """Write what the source's chain reads as into `target`, which is created or emptied."""
    arguments = ["convert", "-p", "-t", "writeback", "-f", source_format, "-O", target_format]
    try:
        _run([*arguments, str(source), str(target)], attempt, limits)
    except CorruptError as error:
        # A full NFS server may lose the new image's first bytes before qemu-img reads them again.
        room = os.statvfs(target.parent)
        if room.f_bavail * room.f_frsize >= _NO_ROOM_BYTES:
            raise
        raise NoSpaceError(
            f"There is no room for {target}. {error.message}",
            remedy="Free space or raise the quota there; then repeat the work.",
        ) from error


def create_preallocated(target: Path, virtual_bytes: int, attempt: Attempt, limits: Limits = LIMITS) -> None:
    """Make an empty QCOW2 image whose space is reserved."""
    arguments = ["create", "-q", "-f", "qcow2", "-o", "preallocation=falloc"]
    _run([*arguments, str(target), str(virtual_bytes)], attempt, limits)


def resize(
    image: Path, image_format: str, virtual_bytes: int, attempt: Attempt, limits: Limits = LIMITS
) -> None:
    """Grow the image; the new bytes read as zeros even where the backing file is longer."""
    _run(["resize", "-q", "-f", image_format, str(image), str(virtual_bytes)], attempt, limits)


def check(image: Path, attempt: Attempt, limits: Limits = LIMITS) -> tuple[str, str]:
    """Examine a QCOW2 file's tables; return ("clean" | "leaks" | "broken", what qemu-img said)."""
    code, output, errors = _execute(["check", "-f", "qcow2", str(image)], attempt, limits)
    if code in {0, 2, 3}:
        return {0: "clean", 2: "broken", 3: "leaks"}[code], output + errors
    raise _failure(code, errors, ["check", "-f", "qcow2", str(image)])


def repair_leaks(image: Path, attempt: Attempt, limits: Limits = LIMITS) -> None:
    """Free clusters that an interrupted run reserved and nothing refers to."""
    arguments = ["check", "-q", "-r", "leaks", "-f", "qcow2", str(image)]
    code, _output, errors = _execute(arguments, attempt, limits)
    if code not in {0, 3}:
        raise _failure(code, errors, arguments)


def _run(arguments: list[str], attempt: Attempt, limits: Limits) -> None:
    code, _output, errors = _execute(arguments, attempt, limits)
    if code:
        raise _failure(code, errors, arguments)


def _execute(arguments: list[str], attempt: Attempt, limits: Limits) -> tuple[int, str, str]:
    # setpriv: the child dies when the thread that spawned it does, which is this one; it waits below.
    try:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "qemu-img", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_ENVIRONMENT,
            cwd="/",
        )
    except FileNotFoundError as error:
        raise ConfigError("setpriv is not installed.", remedy="Install util-linux and qemu-utils.") from error
    try:
        _limit(process.pid, limits)
        output, errors = _watch(process, arguments[0], attempt, limits)
    except BaseException:
        process.kill()
        _reap(process)
        raise
    finally:
        for pipe in (process.stdout, process.stderr):
            if pipe:
                pipe.close()
    return _reap(process), output, errors


def _limit(pid: int, limits: Limits) -> None:
    try:
        resource.prlimit(pid, resource.RLIMIT_AS, (limits.address_space_bytes,) * 2)
        resource.prlimit(pid, resource.RLIMIT_CPU, (limits.cpu_seconds,) * 2)
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
    except ProcessLookupError:
        pass


def _watch(
    process: "subprocess.Popen[bytes]", verb: str, attempt: Attempt, limits: Limits
) -> tuple[str, str]:
    """Collect both outputs until they end, telling progress and looking whether to stop."""
    stdout, stderr = cast("IO[bytes]", process.stdout), cast("IO[bytes]", process.stderr)
    texts: dict[IO[bytes], bytearray] = {stdout: bytearray(), stderr: bytearray()}
    heard = time.monotonic()
    with selectors.DefaultSelector() as selector:
        for pipe in texts:
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            for key, _events in selector.select(_TICK_SECONDS):
                pipe = stdout if key.fileobj is stdout else stderr
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    selector.unregister(pipe)
                heard = time.monotonic()
                _keep(texts[pipe], chunk, attempt)
            if attempt.cancelled():
                raise CancelledOperationError(f"The operation was cancelled during qemu-img {verb}.")
            if time.monotonic() - heard > limits.silence_seconds:
                raise UnavailableError(
                    f"qemu-img {verb} was silent for {limits.silence_seconds:g} seconds and was stopped.",
                    remedy="Look at the storage; the work can be repeated when it answers.",
                )
    return texts[stdout].decode(errors="replace"), texts[stderr].decode(errors="replace")


def _keep(text: bytearray, chunk: bytes, attempt: Attempt) -> None:
    percents = _PERCENT.findall(chunk)
    if percents:
        attempt.progress(int(float(percents[-1]) * 100), 10_000)
    elif len(text) < _MAX_TEXT:
        text += chunk


def _reap(process: "subprocess.Popen[bytes]") -> int:
    try:
        return process.wait(_REAP_SECONDS)
    except subprocess.TimeoutExpired as error:
        # In the kernel, waiting for a server: it cannot be killed until that answers.
        raise UnavailableError(
            f"qemu-img (process {process.pid}) hangs in the kernel and cannot be stopped.",
            remedy="Bring the storage back; then repeat the work.",
        ) from error


def _failure(code: int, errors: str, arguments: list[str]) -> BreezeblockError:
    said = " ".join(errors.split())[:500] or (f"signal {-code}" if code < 0 else f"exit code {code}")
    text = f"qemu-img {arguments[0]} of {arguments[-1]} failed: {said}."
    low = said.lower()
    if code == 127 or "failed to execute" in low:
        return ConfigError(text, remedy="Install qemu-utils.")
    if any(word in low for word in _FULL):
        return NoSpaceError(text, remedy="Free space or raise the quota there; then repeat the work.")
    if any(word in low for word in _BUSY):
        return UnavailableError(text, remedy="Something else has the image open: detach it first.")
    if code < 0 or any(word in low for word in _AWAY):
        return UnavailableError(text, remedy="Look at the storage and the limits; the work can be repeated.")
    if any(word in low for word in _BROKEN):
        return CorruptError(text, remedy="`breezeblock doctor` examines the volume's files.")
    return BreezeblockError(text, remedy="`breezeblock doctor` examines the volume's files.")
