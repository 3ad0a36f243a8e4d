"""Mounting real NFS: versions, losing a mount, dead servers, strangers on our mount point."""

import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from breezeblock.errors import UnavailableError
from breezeblock.shares import mounts, sharelist, space

EXPORT = Path("/run/nfsroot/export")


def mounted(base: Path, address: str, options: str = "", **limits: float) -> mounts.Mounted:
    (share,) = sharelist.inline([f"{address} -o {options}" if options else address], "test", sharelist.NFS)
    return mounts.Mounted(share, base, attempts=2, timeout_s=limits.get("timeout_s", 20.0))


def options_at(point: Path) -> list[str]:
    lines = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return next(words[3] for words in reversed(lines) if words[1] == str(point)).split(",")


@pytest.mark.parametrize(
    ("asked", "got"),
    [("vers=3", "vers=3"), ("vers=4.0", "vers=4.0"), ("nfsvers=4.1", "vers=4.1"), ("", "vers=4.2")],
)
def test_versions_and_default_options(tmp_path: Path, asked: str, got: str) -> None:
    share = mounted(tmp_path, "127.0.0.1:/export", asked)
    options = options_at(share.path())
    assert got in options
    assert {"hard", "nosuid", "nodev", "noexec", "lookupcache=none"} <= set(options)
    assert {"acdirmin=0", "acdirmax=0"} <= set(options)
    assert space.Look(share.point).space(5).total_bytes > 1 << 30
    print(f"mounted with {asked or 'no version asked'}: {got}")


def test_ipv6_and_space_in_the_address(tmp_path: Path) -> None:
    (EXPORT / "with space").mkdir()
    share = mounted(tmp_path, "[::1]:/export/with\\040space", "vers=4.2")
    (share.path() / "file").write_text("x")
    assert (EXPORT / "with space" / "file").read_text() == "x"
    assert mounted(tmp_path, "[::1]:/export/with\\040space").path() == share.point, "seen as mounted"


def test_looking_again_mounts_nothing_and_a_lost_mount_comes_back(tmp_path: Path) -> None:
    share = mounted(tmp_path, "127.0.0.1:/export")
    share.path()
    share.path()
    assert [entry.mount_point for entry in mounts.table()].count(str(share.point)) == 1
    subprocess.run(["umount", "-l", str(share.point)], check=True)
    assert mounts.source_at(share.point) is None
    assert mounts.source_at(share.path()) == "127.0.0.1:/export"
    print("a mount that was taken away came back on the next use")


def test_many_threads_make_one_mount(tmp_path: Path) -> None:
    shares = [mounted(tmp_path, "127.0.0.1:/export") for _ in range(2)]
    threads = [threading.Thread(target=share.path) for share in shares for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mounts.source_at(shares[0].point) == "127.0.0.1:/export"


def test_a_stranger_on_the_mount_point_is_refused(tmp_path: Path) -> None:
    share = mounted(tmp_path, "127.0.0.1:/export")
    share.point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "stranger", str(share.point)], check=True)
    with pytest.raises(UnavailableError, match="has stranger mounted"):
        share.path()


def test_what_the_server_refuses_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:/export/none cannot be mounted.*No such file"):
        mounted(tmp_path, "127.0.0.1:/export/none").path()


def test_a_silent_server_costs_no_more_than_the_limit(tmp_path: Path) -> None:
    # It takes connections, and never says a word.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        share = mounted(tmp_path, "127.0.0.1:/export", f"vers=4.2,port={port}", timeout_s=3)
        began = time.monotonic()
        with pytest.raises(UnavailableError, match="did not answer within 3 s"):
            share.path()
        print(f"a silent server was given up after {time.monotonic() - began:.1f} s, limit 3 s")
    assert list(share.point.iterdir()) == []


def test_a_server_that_dies_under_a_mount_does_not_hold_the_caller(tmp_path: Path) -> None:
    share = mounted(tmp_path, "127.0.0.1:/export", "vers=3")
    look = space.Look(share.path())
    look.space(5)
    subprocess.run(["rpc.nfsd", "0"], check=True)
    try:
        before = threading.active_count()
        for _ in range(3):
            with pytest.raises(UnavailableError, match="has not answered"):
                look.space(0.5)
        assert threading.active_count() == before + 1, "one stuck thread, not one a question"
    finally:
        subprocess.run(["rpc.nfsd", "-G", "10", "-L", "10", "4"], check=True)
        Path("/proc/fs/nfsd/v4_end_grace").write_text("Y")
    assert look.space(60).total_bytes, "and it goes on when the server is back"
    print("a dead server held nobody; its share answered again when it was back")
