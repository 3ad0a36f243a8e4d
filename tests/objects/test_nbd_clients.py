"""Independent clients agree with our server: libnbd's tools and shell, QEMU's, fio's and nbd-client."""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from nbd_lab import Served, serving, tool

from breezeblock.objects.nbd import MemoryDevice, raw_device

MIB = 1 << 20
SHELL = "/usr/bin/python3"
"""The distribution's own, which has libnbd; nbdsh would take the first Python in PATH."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("nbd")
    image = directory / "image"
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    with raw_device(image) as raw, serving({"memory": MemoryDevice(64 * MIB), "raw": raw}, directory) as one:
        yield one


def test_info_and_list_say_what_the_server_can(served: Served) -> None:
    info = json.loads(tool("nbdinfo", "--json", served.uri("raw")))
    (export,) = info["exports"]
    assert info["structured"]
    assert export["export-size"] == 64 * MIB
    for ability in ("flush", "fua", "trim", "zero", "fast_zero", "df", "multi_conn", "cache"):
        assert export[f"can_{ability}"], ability
    assert export["contexts"] == ["base:allocation"]
    assert {
        one["export-name"] for one in json.loads(tool("nbdinfo", "--list", "--json", served.uri()))["exports"]
    } == {
        "memory",
        "raw",
    }
    assert "no such file or directory for export" in tool("nbdinfo", served.uri("none"), code=1).lower()


@pytest.mark.parametrize("export", ["memory", "raw"])
def test_qemu_io_reads_what_it_wrote(served: Served, export: str) -> None:
    said = tool(
        *("qemu-io", "-f", "raw"),
        *("-c", "write -P 1 0 1M", "-c", "write -f -P 2 1M 4k", "-c", "write -P 3 1000 513"),
        *("-c", "aio_write -P 4 4M 8M", "-c", "aio_write -P 5 20M 3M", "-c", "aio_flush", "-c", "flush"),
        *("-c", "read -P 1 0 1000", "-c", "read -P 3 1000 513", "-c", "read -P 1 1513 1047063"),
        *("-c", "read -P 4 4M 8M", "-c", "read -P 5 20M 3M"),
        *("-c", "write -z 5M 1M", "-c", "write -z -u 6M 1M", "-c", "discard 7M 1M"),
        *("-c", "read -P 0 5M 2M", "-c", "read -P 4 4M 1M", "-c", "read -P 4 8M 4M"),
        served.uri(export),
    )
    assert "verification failed" not in said
    assert "rror" not in said


@pytest.mark.parametrize("export", ["memory", "raw"])
def test_copies_keep_content_and_holes(served: Served, export: str, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    chance = random.Random(7)
    with source.open("wb") as file:
        file.truncate(64 * MIB)
        for _ in range(40):
            file.seek(chance.randrange(0, 63 * MIB))
            file.write(chance.randbytes(chance.randrange(1, 300_000)))
    tool("nbdcopy", "--connections=4", "--requests=16", str(source), served.uri(export))
    tool("nbdcopy", "--connections=4", served.uri(export), str(target))
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks < 60 * MIB // 512
    tool("qemu-img", "compare", "-f", "raw", "-F", "raw", str(source), served.uri(export))
    extents = json.loads(tool("nbdinfo", "--map", "--json", served.uri(export)))
    assert sum(extent["length"] for extent in extents) == 64 * MIB
    assert {extent["type"] for extent in extents} == {0, 3}


def test_fio_verifies_what_it_wrote_in_many_sizes(served: Served, tmp_path: Path) -> None:
    tool(
        *("fio", "--name=verify", "--ioengine=nbd", f"--uri={served.uri('memory')}", "--rw=randrw"),
        *("--bsrange=512-256k", "--bs_unaligned=0", "--iodepth=32", "--size=64M", "--io_size=48M"),
        *("--verify=crc32c", "--verify_fatal=1", "--fsync=50", "--randseed=3", f"--aux-path={tmp_path}"),
        f"--output={tmp_path / 'log'}",
    )


def test_libnbd_strict_mode_off_meets_the_right_errors(served: Served) -> None:
    """What libnbd would refuse to send is sent, and refused by number."""
    script = f"""
import errno, nbd
h = nbd.NBD(); h.set_strict_mode(0); h.add_meta_context("base:allocation")
h.connect_uri({served.uri("memory")!r})
size = h.get_size()
def error(want, call, *arguments):
    try: call(*arguments)
    except nbd.Error as found: assert found.errnum == want, (call, found, want)
    else: raise SystemExit(f"{{call}} was not refused")
error(errno.EINVAL, h.pread, 512, size)
error(errno.EINVAL, h.pread, 1024, size - 512)
error(errno.ENOSPC, h.pwrite, b"x" * 1024, size - 512)
error(errno.ENOSPC, h.pwrite, b"x", 1 << 62)
error(errno.ENOSPC, h.zero, 1024, size - 512)
error(errno.EINVAL, h.trim, 1024, size - 512)
error(errno.EINVAL, h.pread, 0, 0)
error(errno.EINVAL, h.pwrite, b"x" * 512, 0, 1 << 9)
error(errno.EINVAL, h.flush, nbd.CMD_FLAG_FUA)
h.pwrite(b"still in step", 5); assert h.pread(13, 5) == b"still in step"
h.cache(4096, 0); h.zero(4096, 0, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
assert h.pread(4096, 0) == bytes(4096)
one = []
h.block_status(size, 0, lambda name, offset, entries, error: one.extend(entries), nbd.CMD_FLAG_REQ_ONE)
assert len(one) == 2
h.shutdown()
print("done")
"""
    assert tool(SHELL, "-c", script).strip() == "done"


def test_many_requests_are_answered_in_any_order(served: Served) -> None:
    script = f"""
import nbd
h = nbd.NBD(); h.connect_uri({served.uri("raw")!r})
h.pwrite(bytes(range(256)) * 4096, 0)
buffers = [nbd.Buffer(4096) for _ in range(256)]
cookies = [h.aio_pread(buffer, i * 4096) for i, buffer in enumerate(buffers)]
flush = h.aio_flush()
while any(not h.aio_command_completed(c) for c in []): pass
while h.aio_in_flight(): h.poll(-1)
assert all(bytes(b.to_bytearray()) == bytes(range(256)) * 16 for b in buffers)
print("done")
"""
    assert tool(SHELL, "-c", script).strip() == "done"


def test_old_clients_without_structured_replies_or_go(served: Served) -> None:
    script = f"""
import nbd
h = nbd.NBD(); h.set_request_structured_replies(False); h.set_opt_mode(False); h.set_handshake_flags(0)
h.connect_uri({served.uri("memory")!r})
assert not h.get_structured_replies_negotiated()
h.pwrite(b"plain", 77); assert h.pread(5, 77) == b"plain"
try: h.pread(512, h.get_size())
except nbd.Error: pass
h.shutdown(); print("done")
"""
    script = script.replace("h.connect_uri", "h.set_strict_mode(0); h.connect_uri")
    assert tool(SHELL, "-c", script).strip() == "done"


def test_read_only_exports_refuse_changes(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(os.urandom(MIB))
    with raw_device(image, read_only=True) as device, serving({"": device}, tmp_path) as one:
        info = json.loads(tool("nbdinfo", "--json", one.uri()))["exports"][0]
        assert info["is_read_only"]
        assert not info["can_trim"]
        script = f"""
import errno, nbd
h = nbd.NBD(); h.set_strict_mode(0); h.connect_uri({one.uri()!r})
for call in (lambda: h.pwrite(b"x", 0), lambda: h.zero(1, 0), lambda: h.trim(1, 0)):
    try: call()
    except nbd.Error as found: assert found.errnum == errno.EPERM, found
    else: raise SystemExit("was not refused")
h.flush(); print("done")
"""
        assert tool(SHELL, "-c", script).strip() == "done"


class CoarseDevice(MemoryDevice):
    minimum_bytes = 4096


def test_a_device_of_large_blocks_serves_who_heeds_them(tmp_path: Path) -> None:
    with serving({"": CoarseDevice(4 * MIB)}, tmp_path) as one:
        said = tool(
            *("qemu-io", "-f", "raw", "-c", "write -P 1 0 1M", "-c", "write -P 2 1000 513", "-c", "flush"),
            *("-c", "read -P 1 0 1000", "-c", "read -P 2 1000 513", "-c", "read -P 1 1513 1047063"),
            one.uri(),
        )
        assert "failed" not in said
        script = f"""
import errno, nbd
h = nbd.NBD(); h.set_strict_mode(0); h.connect_uri({one.uri()!r})
assert h.get_block_size(nbd.SIZE_MINIMUM) == 4096
try: h.pread(512, 0)
except nbd.Error as found: assert found.errnum == errno.EINVAL, found
else: raise SystemExit("was not refused")
h = nbd.NBD(); h.set_request_block_size(False)
try: h.connect_uri({one.uri()!r})
except nbd.Error: print("done")
"""
        assert tool(SHELL, "-c", script).strip() == "done"


def test_nbd_client_lists_the_exports(served: Served) -> None:
    """The kernel's own tool; what it does with a device is the business of tests/uml."""
    said = tool("/usr/sbin/nbd-client", "-l", "-u", str(served.socket))
    assert {"memory", "raw"} <= set(said.split())
