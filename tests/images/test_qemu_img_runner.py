import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from breezeblock.attempt import Attempt
from breezeblock.errors import (
    BreezeblockError,
    CancelledOperationError,
    ConfigError,
    CorruptError,
    NoSpaceError,
    UnavailableError,
)
from breezeblock.images import qemu_img

MIB = 1 << 20
QUIET = Attempt("operation", "token")


def image(path: Path, mebibytes: int) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, f"{mebibytes}M"], check=True)
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", f"write -P 5 0 {mebibytes}M", path], check=True, capture_output=True
    )
    return path


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    attempt = Attempt("operation", "token", progress=lambda done, total: told.append((done, total)))
    qemu_img.convert(image(tmp_path / "a", 64), "qcow2", tmp_path / "b", "qcow2", attempt)
    assert told[-1] == (10_000, 10_000)
    assert told == sorted(told)


def test_cancel_stops_it(tmp_path: Path) -> None:
    source = image(tmp_path / "a", 8)
    started = time.monotonic()
    attempt = Attempt("operation", "token", cancelled=lambda: time.monotonic() > started + 0.02)

    def again_and_again() -> None:
        while True:
            qemu_img.convert(source, "qcow2", tmp_path / "b", "qcow2", attempt)

    with pytest.raises(CancelledOperationError):
        again_and_again()
    assert not children()


def test_a_silent_one_is_stopped(tmp_path: Path) -> None:
    """A FIFO that nobody writes to hangs it, as a dead server would."""
    os.mkfifo(tmp_path / "fifo")
    limits = qemu_img.Limits(silence_seconds=0.3)
    with pytest.raises(UnavailableError, match="silent"):
        qemu_img.convert(tmp_path / "fifo", "raw", tmp_path / "b", "raw", QUIET, limits)
    assert not children()


def test_limits_hold(tmp_path: Path) -> None:
    source = image(tmp_path / "a", 64)
    with pytest.raises(BreezeblockError):
        qemu_img.convert(
            source, "qcow2", tmp_path / "b", "qcow2", QUIET, qemu_img.Limits(address_space_bytes=48 * MIB)
        )


def test_it_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            qemu_img.convert(tmp_path / "fifo", "raw", tmp_path / "b", "raw", QUIET)
        finally:
            os._exit(0)
    wait_for(lambda: any("qemu-img" in name for name in running(pid)))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    wait_for(lambda: not running(pid))


def test_it_may_be_used_from_any_thread(tmp_path: Path) -> None:
    source, failures = image(tmp_path / "a", 4), []

    def work(number: int) -> None:
        try:
            qemu_img.convert(source, "qcow2", tmp_path / f"out{number}", "raw", QUIET)
        except BreezeblockError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert all((tmp_path / f"out{number}").read_bytes() == b"\5" * (4 * MIB) for number in range(6))


def test_its_failures_become_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text").write_text("no image")
    with pytest.raises(CorruptError, match="text"):
        qemu_img.resize(tmp_path / "text", "qcow2", MIB, QUIET)
    held = image(tmp_path / "held", 1)
    with subprocess.Popen(
        ["qemu-io", "-f", "qcow2", str(held)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdin
        assert holder.stdout
        holder.stdin.write(b"length\n")
        holder.stdin.flush()
        holder.stdout.readline()
        with pytest.raises(UnavailableError, match="lock") as caught:
            qemu_img.resize(held, "qcow2", 2 * MIB, QUIET)
        assert "detach" in caught.value.remedy
        holder.stdin.write(b"quit\n")
    (tmp_path / "setpriv").symlink_to("/usr/bin/setpriv")
    monkeypatch.setattr(qemu_img, "_ENVIRONMENT", {"PATH": str(tmp_path)})
    with pytest.raises(ConfigError, match="qemu-img"):
        qemu_img.check(held, QUIET)


def test_a_full_file_system(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], check=True)
    try:
        with pytest.raises(NoSpaceError):
            qemu_img.convert(image(tmp_path / "a", 8), "qcow2", small / "b", "raw", QUIET)
    finally:
        subprocess.run(["umount", small], check=True)


def running(group: int) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(rest.split()[2]) == group and rest.split()[0] not in "ZX":
            found.append(name)
    return found


def children() -> list[str]:
    """Return what runs below this process as qemu-img does; other tests' children are none of ours."""
    found = []
    for listed in Path("/proc/self/task").glob("*/children"):
        for pid in listed.read_text().split():
            with suppress(OSError):
                found.append(Path(f"/proc/{pid}/comm").read_text().strip())
    return [name for name in found if name in {"qemu-img", "setpriv"}]


def wait_for(condition: object) -> None:
    end = time.monotonic() + 10
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.005)
