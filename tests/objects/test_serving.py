"""A process for a volume: clients, requests, the barrier at the end, and sudden death."""

import fcntl
import json
import os
import random
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import uvloop
from nbd_lab import tool
from serving_lab import MIB, VOLUME, Lab, attached, eventually, gone, lab_at

from breezeblock.errors import ConflictError, InvalidInputError, NotFoundError, UnavailableError
from breezeblock.objects import serving
from breezeblock.objects.cdmi import CdmiServer
from breezeblock.objects.log import volumes
from breezeblock.objects.nbd import client
from breezeblock.objects.serving import Detach, Endpoints, Flush, Grow, Snapshot
from breezeblock.objects.serving.messages import control_path, lock_path
from breezeblock.objects.stores.cdmi import CdmiStore


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return lab_at(tmp_path)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = lab_at(tmp_path_factory.mktemp("served"))
    with attached(lab):
        yield lab


def test_independent_clients_agree_with_a_volume_in_a_store(served: Lab, tmp_path: Path) -> None:
    info = json.loads(tool("nbdinfo", "--json", served.uri))["exports"][0]
    assert info["export-size"] == 64 * MIB
    assert all(info[f"can_{one}"] for one in ("flush", "fua", "trim", "zero", "multi_conn", "cache"))
    said = tool(
        *("qemu-io", "-f", "raw"),
        *("-c", "write -P 1 0 1M", "-c", "write -f -P 2 1M 4k", "-c", "write -P 3 1000 513"),
        *("-c", "aio_write -P 4 4M 8M", "-c", "aio_write -P 5 20M 3M", "-c", "aio_flush", "-c", "flush"),
        *("-c", "read -P 1 0 1000", "-c", "read -P 3 1000 513", "-c", "read -P 1 1513 1047063"),
        *("-c", "write -z -u 6M 1M", "-c", "discard 7M 1M", "-c", "write -z 5000k 3"),
        *("-c", "read -P 0 6M 2M", "-c", "read -P 4 8M 4M", "-c", "read -P 5 20M 3M"),
        served.uri,
    )
    assert "verification failed" not in said
    assert "rror" not in said
    source, target, chance = tmp_path / "source", tmp_path / "target", random.Random(7)
    with source.open("wb") as file:
        file.truncate(64 * MIB)
        for _ in range(40):
            file.seek(chance.randrange(0, 63 * MIB))
            file.write(chance.randbytes(chance.randrange(1, 300_000)))
    tool("nbdcopy", "--connections=4", "--requests=16", "--flush", str(source), served.uri)
    tool("nbdcopy", "--connections=4", served.uri, str(target))
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks < 60 * MIB // 512
    tool("qemu-img", "compare", "-f", "raw", "-F", "raw", str(source), served.uri)


def test_libnbds_shell_has_all_verbs_of_a_served_volume(served: Lab) -> None:
    script = f"""
import nbd
h = nbd.NBD(); g = nbd.NBD()
for one in (h, g):
    one.add_meta_context("base:allocation")
    one.connect_uri({served.uri!r})
assert h.get_size() == {64 * MIB} and h.can_multi_conn() and h.can_fast_zero()
base = 40 << 20
h.pwrite(b"a" * 65536, base)
h.pwrite(b"b" * 700, base + 4096 + 100, nbd.CMD_FLAG_FUA)
g.flush()
assert g.pread(65536, base) == b"a" * 4196 + b"b" * 700 + b"a" * 60640
h.zero(8192, base + 8192); h.trim(4096, base + 16384)
assert g.pread(8192, base + 8192) == bytes(8192)
found = []
g.block_status(65536, base, lambda kind, at, entries, error: found.extend(entries) or 0)
assert found[:6] == [8192, 0, 8192, 3, 4096, 3] or found[:4] == [8192, 0, 12288, 3], found
h.cache(65536, base)
data = [nbd.Buffer.from_bytearray(bytearray(bytes([n]) * 4096)) for n in range(1, 33)]
waiting = [h.aio_pwrite(buffer, base + (1 << 20) + 4096 * n) for n, buffer in enumerate(data)]
waiting.append(h.aio_flush())
while h.aio_in_flight():
    h.poll(-1)
assert all(h.aio_command_completed(cookie) for cookie in waiting)
assert g.pread(131072, base + (1 << 20)) == b"".join(bytes([n]) * 4096 for n in range(1, 33))
try:
    h.set_strict_mode(0); h.pread(4096, {64 * MIB})
except nbd.Error as error:
    assert error.errno == "EINVAL", error.errno
else:
    raise AssertionError("beyond the end")
h.shutdown(); g.shutdown()
"""
    assert tool("/usr/bin/python3", "-c", script) == ""


def test_fio_verifies_what_it_wrote_with_little_memory(lab: Lab, tmp_path: Path) -> None:
    memory = volumes.Memory(cache_bytes=1 * MIB, leaves=1, dirty_segments=2, age_s=0.2)
    with attached(lab, memory=memory):
        tool(
            *("fio", "--name=verify", "--ioengine=nbd", f"--uri={lab.uri}", "--rw=randrw"),
            *("--bsrange=512-256k", "--bs_unaligned=0", "--iodepth=32", "--size=64M", "--io_size=40M"),
            *("--verify=crc32c", "--verify_fatal=1", "--fsync=50", "--randseed=3"),
            *(f"--aux-path={tmp_path}", f"--output={tmp_path / 'log'}"),
        )
        assert lab.ask(Detach()) == serving.Answer()


def test_somebody_who_only_looks_whether_there_is_a_keeper_is_no_keeper(lab: Lab) -> None:
    path = lock_path(lab.task().socket)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        threading.Timer(0.05, fcntl.flock, (lock, fcntl.LOCK_UN)).start()
        with attached(lab):
            lab.ask(Detach())


def test_detaching_leaves_everything_in_the_store_and_nothing_here(lab: Lab) -> None:
    with attached(lab) as keeper:
        write(lab, b"a" * MIB, 5 * MIB)
        lab.ask(Snapshot("before"))
        lab.ask(Snapshot("before"))
        write(lab, b"b" * MIB, 5 * MIB)
        lab.ask(Grow(80 * MIB))
        lab.ask(Flush())
        view = lab.view()
        assert (view.length, view.written, view.stored, view.trouble) == (80 * MIB, 2, 2, "")
        with pytest.raises(ConflictError, match="Another process serves"):
            serving.start(lab.task())
        with pytest.raises(InvalidInputError, match="no snapshot"):
            lab.ask(Snapshot("../x"))
        with pytest.raises(InvalidInputError, match="multiple of 4,096"):
            lab.ask(Grow(81 * MIB + 1))
        assert view.pid == lab.view().pid
        lab.ask(Detach())
        assert gone(keeper) == 0
    assert {path.name for path in lab.directory.iterdir()} == {"pool"}
    assert serving.running(lab.directory / "sock") is None
    assert content(lab, 5 * MIB, 1) == b"b"
    lab.store(lambda store: volumes.revert(store, VOLUME, "before"))
    assert content(lab, 5 * MIB, 1) == b"a"


@pytest.mark.parametrize("what", ["worker", "keeper"])
def test_what_was_answered_survives_a_kill_flushed_or_not(lab: Lab, what: str) -> None:
    with attached(lab, memory=volumes.Memory(age_s=3600)) as keeper:
        dice, mirror = random.Random(3), bytearray(8 * MIB)
        connection, _ = client.connect(client.place(lab.uri))
        with connection:
            for cookie in range(400):
                data = dice.randbytes(dice.randrange(1, 3 * 4096))
                offset = dice.randrange(len(mirror) - len(data))
                if _answered(connection, cookie, offset, data):
                    mirror[offset : offset + len(data)] = data
        before = lab.view()
        assert before.stored < before.written
        os.kill(before.pid if what == "worker" else keeper, signal.SIGKILL)
        if what == "worker":
            eventually(lambda: lab.view().pid != before.pid)
            assert content_served(lab, len(mirror)) == mirror
            lab.ask(Detach())
            assert gone(keeper) == 0
            return
        assert gone(keeper) == -signal.SIGKILL
    eventually(lambda: not Path(f"/proc/{before.pid}").exists())
    with attached(lab):
        assert content_served(lab, len(mirror)) == mirror
        lab.ask(Detach())
        with attached(lab):  # at once: nothing is in the way
            assert content_served(lab, len(mirror)) == mirror
            lab.ask(Detach())
            assert {path.name for path in lab.directory.iterdir()} == {"pool", "copy"}


def test_a_killed_worker_does_not_take_the_volume_back_from_another_host(lab: Lab, tmp_path: Path) -> None:
    with attached(lab) as keeper:
        elsewhere = {"socket": tmp_path / "other", "journal": tmp_path / "journal-2"}
        with attached(lab, **elsewhere) as newer:
            os.kill(lab.view().pid, signal.SIGKILL)
            assert gone(keeper) == 1
            assert serving.running(lab.directory / "sock") is None
            found = serving.running(tmp_path / "other")
            assert found is not None
            assert not found.failed
            os.kill(newer, signal.SIGTERM)
            assert gone(newer) == 0


def test_an_older_host_hears_of_it_and_says_so_when_it_detaches(lab: Lab, tmp_path: Path) -> None:
    with attached(lab) as keeper:
        write(lab, b"a" * 4096, 0)
        lab.ask(Flush())
        with attached(lab, socket=tmp_path / "other", journal=tmp_path / "journal-2") as newer:
            write(lab, b"b" * 4096, 0)
            with pytest.raises(ConflictError, match="taken over by another writer"):
                lab.ask(Flush())
            assert "taken over" in lab.view().failed
            with pytest.raises(ConflictError, match="taken over"):
                lab.ask(Detach())
            assert gone(keeper) == 1
            serving.call(tmp_path / "other", Detach())
            assert gone(newer) == 0
    assert content(lab, 0, 4) == b"aaaa"


def test_a_store_that_is_away_holds_up_the_detaching_and_nothing_is_lost(lab: Lab) -> None:
    pool = lab.directory / "pool"
    with attached(lab) as keeper:
        pool.rename(lab.directory / "away")
        write(lab, b"a" * 4096, 0)
        with pytest.raises(UnavailableError):
            lab.ask(Flush(), timeout_s=0.3)
        eventually(lambda: str(pool) in lab.view().trouble)
        os.kill(lab.view().pid, signal.SIGKILL)  # it comes back, and waits for its store
        with pytest.raises((UnavailableError, NotFoundError)):
            lab.ask(Flush(), timeout_s=0.5)
        (lab.directory / "away").rename(pool)
        eventually(lambda: not lab.view().trouble)
        lab.ask(Detach())
        assert gone(keeper) == 0
    assert content(lab, 0, 1) == b"a"


def test_endpoints_come_and_go_while_a_volume_is_served(lab: Lab) -> None:
    first, second = str(lab.directory / "pool"), str(lab.directory / "mirror")
    (lab.directory / "mirror").symlink_to("pool")
    (lab.directory / "empty").mkdir()

    def states() -> dict[str, str]:
        return {one.url: one.state for one in lab.view().mirrors.endpoints}

    with attached(lab) as keeper:
        assert states() == {first: "up"}
        assert lab.view().mirrors.pool == lab.config.pool
        lab.ask(Endpoints(add=[second, str(lab.directory / "empty")]))
        eventually(lambda: states() == {first: "up", second: "up", str(lab.directory / "empty"): "refused"})
        lab.ask(Endpoints(add=[second], remove=[first, str(lab.directory / "empty"), "/never/there"]))
        assert states() == {second: "up"}
        with pytest.raises(ConflictError, match="last endpoint"):
            lab.ask(Endpoints(remove=[second]))
        write(lab, b"m" * 4096, 0)
        lab.ask(Flush())
        assert lab.view().mirrors.endpoints[0].bytes_written > 4096
        lab.ask(Detach())
        assert gone(keeper) == 0
    assert content(lab, 0, 1) == b"m"


def test_a_flush_may_wait_for_the_store(lab: Lab) -> None:
    with attached(lab, durability="store", memory=volumes.Memory(age_s=3600)) as keeper:
        tool("qemu-io", "-f", "raw", "-c", "write -P 7 0 64k", "-c", "flush", lab.uri)
        view = lab.view()
        assert view.stored == view.written > 0
        os.kill(keeper, signal.SIGKILL)
    for path in (lab.directory / "journal").iterdir():
        path.unlink()
    assert content(lab, 0, 1) == b"\7"


def test_what_cannot_be_served_is_said_to_the_starter(lab: Lab) -> None:
    with pytest.raises(NotFoundError, match="no volume"):
        serving.start(lab.task(volume="0" * 32))
    assert not (lab.directory / "sock").exists()
    assert serving.running(lab.directory / "sock") is None


def test_nonsense_on_the_control_socket_is_refused(served: Lab) -> None:
    path = control_path(served.directory / "sock")
    for said, answer in ((b"{}\n", b"InvalidInput"), (b'{"do":"format"}\n', b"InvalidInput")):
        with socket.socket(socket.AF_UNIX) as talk:
            talk.connect(str(path))
            talk.sendall(said)
            assert answer in talk.recv(1 << 16)
    with socket.socket(socket.AF_UNIX) as talk:
        talk.connect(str(path))
        threading.Thread(target=_flood, args=(talk,)).start()
        talk.settimeout(20)
        with suppress(ConnectionResetError):
            assert talk.recv(1) == b""
    assert path.stat().st_mode & 0o777 == 0o600
    assert served.view().length == 64 * MIB


def _flood(talk: socket.socket) -> None:
    with suppress(OSError):
        talk.sendall(b"x" * (4 << 20))


def _answered(connection: socket.socket, cookie: int, offset: int, data: bytes) -> bool:
    head = b"\x25\x60\x95\x13" + (0).to_bytes(2) + (1).to_bytes(2) + cookie.to_bytes(8) + offset.to_bytes(8)
    connection.sendall(head + len(data).to_bytes(4) + data)
    said = connection.recv(16, socket.MSG_WAITALL)
    return said == b"\x67\x44\x66\x98" + bytes(4) + cookie.to_bytes(8)


def write(lab: Lab, data: bytes, offset: int) -> None:
    tool("qemu-io", "-f", "raw", "-c", f"write -P {data[0]} {offset} {len(data)}", lab.uri)


def content_served(lab: Lab, length: int) -> bytes:
    target = lab.directory / "copy"
    tool("qemu-img", "convert", "-f", "raw", "-O", "raw", lab.uri, str(target))
    with target.open("rb") as file:
        return file.read(length)


def content(lab: Lab, offset: int, length: int) -> bytes:
    from log_lab import soon

    from breezeblock.objects.stores.port import Store

    async def read(store: Store) -> bytes:
        device = await volumes.attach(store, VOLUME)
        got = await soon(device.read(offset, length))
        await device.close()
        return b"".join(got) if isinstance(got, list) else bytes(got)

    return lab.store(read)


def test_stores_over_http_work_on_the_loop_that_serves(tmp_path: Path) -> None:
    """Its transports are no asyncio ones."""

    async def run() -> bytes:
        server = CdmiServer(tmp_path)
        store = CdmiStore(f"http://127.0.0.1:{await server.start('127.0.0.1', 0)}")
        await store.put("a/key", b"body" * 50_000)
        body = await store.get("a/key", 4, 199_996)
        await store.close()
        await server.stop()
        return body

    assert uvloop.run(run()) == b"body" * 49_999
