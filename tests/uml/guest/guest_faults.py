"""Servers that fall silent, die, or answer with errors in the middle of verbs; another pool goes on.

Each fault strikes at a line of its own in the middle of a verb: the helper waits there until it is in
place. Afterwards the server is mended and nothing else is done: the same operation is tried again as the
service would, must succeed, and every byte is read on the server's side.
"""

import ctypes
import os
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import deadly
import pytest
from file_storage import FileStorage
from gate import Gate
from staging import PATIENCE_S, SCENARIOS, Kept, Other, Stage, Struck, until

from breezeblock.backends.apart import apart
from breezeblock.backends.contract import Backend, Volume
from breezeblock.backends.nfs import NfsConfig, nfs_parts
from breezeblock.errors import PoolDownError, UnavailableError
from breezeblock.testing import Lab
from breezeblock.testing.lab import attempt

ROOT = Path("/run/nfsroot")
EXPORT_OPTIONS = "insecure,no_subtree_check,sec=sys,no_root_squash"


def sh(*argv: str) -> None:
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, capture_output=True)


@pytest.fixture(scope="module")
def gate() -> Gate:
    return Gate()


@pytest.fixture(scope="module")
def small() -> Iterator[Path]:
    """A file system of its own on the server, 48 MiB, exported as /small."""
    with Path("/run/small").open("wb") as disk:
        disk.truncate(48 << 20)
    sh("mkfs.ext4", "-q", "-E", "nodiscard", "/run/small")
    point = ROOT / "small"
    point.mkdir()
    sh("mount", "-o", "loop", "/run/small", str(point))
    (point / "lost+found").rmdir()
    export()
    yield point
    sh("exportfs", "-u", "*:/small")


def export(access: str = "rw") -> None:
    sh("exportfs", "-o", f"{access},{EXPORT_OPTIONS},fsid=7", "*:/small")


@contextmanager
def stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, options: str, *, beside: bool = False
) -> Iterator[Stage]:
    """Make the export `path` (mounted with `options`), and a back end that has it, and another `beside`."""
    other = f"/export/other-{uuid4().hex[:8]}"
    for one in (path, other):
        (ROOT / one.lstrip("/")).mkdir(exist_ok=True)
    bad, good = f"127.0.0.1:{path}", f"127.0.0.1:{other}"
    # What an operator would be glad to wait for, the whole suite need not.
    monkeypatch.setattr("breezeblock.backends.apart.RECHECK_S", 0.2)
    monkeypatch.setattr("breezeblock.backends.health.FLAPPING_S", 0.0)
    monkeypatch.setenv("DEADLY", str(tmp_path / "order"))
    monkeypatch.setenv("PYTHONPATH", str(Path(deadly.__file__).parent))
    config = NfsConfig(
        shares=[f"{bad} -o {options}", f"{good} -o vers=4.2"][: 1 + beside],
        mount_base=str(tmp_path / "mnt"),
        mount_timeout_s=10,
        answer_timeout_s=1.5,
    )
    parts = nfs_parts("nas", config)
    assert parts is not None
    backend = apart("nas", deadly.open_deadly_nfs, config, tmp_path, parts)
    backend.start()
    try:
        # A loaded machine starts helpers slowly, which `stats` does not wait for.
        until(lambda: all(pool.up for pool in backend.stats()), "the pools are up")
        directory = ROOT / path.lstrip("/")

        def storage(make: Callable[[], Backend]) -> FileStorage:
            return FileStorage(directory, make, options={"format": "qcow2"})

        yield Stage(backend, bad, directory, good, tmp_path / "order", storage)
    finally:
        backend.stop()


@pytest.mark.parametrize("kind", ["silent", "refusing"])
def test_a_server_that_goes_away_in_the_middle(
    kind: str, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/export/{kind}"
    options = f"vers=3,proto=tcp,mountproto=tcp,nolock,timeo=10,port={gate.port}"
    fault = gate.hold if kind == "silent" else gate.close
    scenarios = {
        "silent": [("clone", "clone")],
        "refusing": [("delete_middle_snapshot", "delete_snapshot")],
    }
    with stage(tmp_path, monkeypatch, path, options, beside=True) as on:
        for scenario, verb in scenarios[kind]:
            other = Other(on.backend, on.good)
            began = time.monotonic()
            with other.working():
                struck = on.strike(scenario, verb, fault)
                down_after = time.monotonic() - began
                assert struck.ended.startswith("PoolDownError"), struck.ended
                began = time.monotonic()
                with pytest.raises(PoolDownError, match="is down since"):
                    on.backend.create(
                        Volume(id=str(uuid4()), virtual_bytes=1 << 20, pool=on.bad),
                        attempt(),
                    )
                refused_in = time.monotonic() - began
                down, up = on.backend.stats()
                assert (down.up, up.up) == (False, True)
                began = time.monotonic()
                gate.open()
                tries = on.resume(struck)
                back_after = time.monotonic() - began
            assert other.errors == []
            assert other.verbs
            print(
                f"\n{kind} server in the middle of {verb}: {struck.ended}\n"
                f"  other pool: {other.verbs} verbs, slowest "
                f"{other.slowest * 1000:.0f} ms; down after {down_after:.1f} s, then refused in "
                f"{refused_in * 1000:.1f} ms; resumed {back_after:.1f} s after the server ({tries} tries)"
            )
            assert other.slowest < PATIENCE_S / 3


def test_a_kernel_server_killed_and_restarted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill() -> None:
        sh("rpc.nfsd", "0")

    with stage(tmp_path, monkeypatch, "/export/restarted", "vers=4.2", beside=True) as on:
        struck = on.strike("create_from_snapshot", "create_from_snapshot", kill)
        try:
            assert struck.ended.startswith("PoolDownError"), struck.ended
            assert not any(pool.up for pool in on.backend.stats()[:1])
        finally:
            sh("rpc.nfsd", "-G", "10", "-L", "10", "4")
            Path("/proc/fs/nfsd/v4_end_grace").write_text("Y")
        began = time.monotonic()
        tries = on.resume(struck)
        until(lambda: all(pool.up for pool in on.backend.stats()), "both pools are up")
    print(
        f"\nkernel server killed and restarted: {struck.ended}\n"
        f"  resumed in {time.monotonic() - began:.1f} s, {tries} tries"
    )


def test_input_output_errors(gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A soft mount turns a server's silence into EIO: here in system calls of the verb.
    options = f"vers=3,proto=tcp,mountproto=tcp,nolock,soft,timeo=3,retrans=1,port={gate.port}"
    with stage(tmp_path, monkeypatch, "/export/io", options) as on:
        struck = on.strike("revert_to_oldest", "revert", gate.hold)
        assert struck.ended.startswith(("UnavailableError", "PoolDownError")), struck.ended
        gate.open()
        print(f"\nEIO in the middle of revert: {struck.ended}; {on.resume(struck)} tries")


def test_stale_handles(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unexport() -> None:
        sh("exportfs", "-u", "*:/small")

    with stage(tmp_path, monkeypatch, "/small", "vers=4.2") as on:
        struck = on.strike("extend_with_snapshots", "extend", unexport)
        assert struck.ended.startswith(("UnavailableError", "PoolDownError")), struck.ended
        export()
        print(f"\nESTALE in the middle of extend: {struck.ended}; {on.resume(struck)} tries")


def test_a_read_only_server(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only() -> None:
        export("ro")

    with stage(tmp_path, monkeypatch, "/small", "vers=4.2") as on:
        struck = on.strike("delete", "delete", read_only)
        export()
        assert struck.ended.startswith(("UnavailableError", "PoolDownError")), struck.ended
        print(f"\nEROFS in the middle of delete: {struck.ended}; {on.resume(struck)} tries")


def test_a_full_server(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filler = small / "filler"

    def fill() -> None:
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
            except OSError:
                pass

    with stage(tmp_path, monkeypatch, "/small", "vers=4.2") as on:
        struck = on.strike("create", "create", fill)
        assert on.backend.stats()[0].up, "full is not down"
        filler.unlink()
        assert struck.ended.startswith("NoSpaceError"), struck.ended
        print(f"\nENOSPC in the middle of create: {struck.ended}; {on.resume(struck)} tries")


def set_quota(device: str, uid: int, kib: int) -> None:
    """Set a user's hard limit (quotactl(2), Q_SETQUOTA for USRQUOTA; 0 = none)."""
    limits = struct.pack("@8QI", kib, 0, 0, 0, 0, 0, 0, 0, 1)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.quotactl(0x800008 << 8, device.encode(), uid, limits):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), device)


def test_a_used_up_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/run/limited").open("wb") as disk:
        disk.truncate(64 << 20)
    sh("mkfs.ext4", "-q", "-O", "quota", "-E", "nodiscard,quotatype=usrquota", "/run/limited")
    point = ROOT / "limited"
    point.mkdir()
    sh("mount", "-o", "loop,usrquota", "/run/limited", str(point))
    (point / "lost+found").rmdir()
    os.chown(point, 65534, 65534)
    sh("exportfs", "-o", "rw,insecure,no_subtree_check,sec=sys,root_squash,fsid=8", "*:/limited")
    device = next(
        line.split()[0] for line in Path("/proc/mounts").read_text().splitlines() if f" {point} " in line
    )
    with stage(tmp_path, monkeypatch, "/limited", "vers=4.2") as on:
        struck = on.strike("snapshot_2", "snapshot", lambda: set_quota(device, 65534, 64))
        assert on.backend.stats()[0].up, "a used up quota is not down"
        set_quota(device, 65534, 0)
        assert struck.ended.startswith("NoSpaceError"), struck.ended
        print(f"\nEDQUOT in the middle of snapshot: {struck.ended}; {on.resume(struck)} tries")


def test_an_export_made_anew_is_mounted_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stage(tmp_path, monkeypatch, "/export/anew", "vers=4.2") as on:
        on.directory.rmdir()
        (ROOT / "export" / "between").mkdir()  # so that the new directory is another one
        on.directory.mkdir()
        volume = Volume(id=str(uuid4()), virtual_bytes=1 << 20, pool=on.bad)

        def made() -> bool:
            try:
                on.backend.create(volume, attempt())
            except UnavailableError:
                return False
            return True

        until(made, "the new export is mounted")
        assert [path.name for path in on.directory.iterdir()] == [f"volume-{volume.id}"]


def test_helpers_killed_on_a_real_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stage(tmp_path, monkeypatch, "/export/killed", "vers=4.2") as on:
        for scenario, verb in (
            ("create", "create"),
            ("snapshot_1", "snapshot"),
            ("delete_middle_snapshot", "delete_snapshot"),
        ):
            line = on.middle(scenario, verb)
            lab = Lab(FileStorage(on.directory, lambda: Kept(on.backend), options={"format": "qcow2"}))
            step = SCENARIOS[scenario].prepare(lab)
            on.order.write_text(f"{verb} {line}")
            operation_id = str(uuid4())
            ended = on.attempt(step, operation_id)
            assert "ended before it answered" in ended
            on.resume(Struck(step, lab, operation_id, ended))
