"""Volumes of object stores served to this host, and used by QEMU over their sockets."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from breezeblock.app import attaching
from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Snapshot, Volume
from breezeblock.backends.rest import open_rest
from breezeblock.config import Config, ServiceSection
from breezeblock.connect import Attached
from breezeblock.connect.linux import HERE, LinuxConnector
from breezeblock.connect.served import ServedConnector
from breezeblock.errors import ConfigError, ConflictError, UnsupportedError
from breezeblock.objects import serving
from breezeblock.objects.flat import volumes
from breezeblock.objects.flat.lock import Lock
from breezeblock.objects.stores.opening import open_store

MIB = 1 << 20


def attempt() -> Attempt:
    return Attempt(operation_id=str(uuid4()), token=uuid4().hex)


@dataclass
class Host:
    """A host with its own sockets, journals and records, over the same store."""

    directory: Path
    store: Path
    layout: str = "log"

    def __post_init__(self) -> None:
        section = {
            "kind": "rest",
            "run_dir": str(self.directory / "run"),
            "journal_dir": str(self.directory / "journals"),
            "pools": {"gold": {"store": "directory", "urls": [str(self.store)], "layout": self.layout}},
        }
        self.config = Config(
            service=ServiceSection(state_dir=str(self.directory / "state")), backends={"rest": section}
        )
        self.backend = open_rest("rest", attaching.rest_config(self.config, "rest"), self.directory / "state")

    def connector(self, *, discard: bool = False, kernel: LinuxConnector | None = None) -> ServedConnector:
        records = self.directory / "records"
        return attaching.connector(self.config, records, discard=discard, kernel=kernel)

    def left(self) -> list[str]:
        places = [self.directory / name for name in ("run", "journals", "records")]
        return [
            path.name
            for place in places
            for path in place.rglob("*")
            if path.is_file() and not path.name.endswith(".lock")
        ]

    def kill(self, data: Mapping[str, Any]) -> None:
        """End the process that serves and its keeper, as the end of the host does."""
        view = serving.running(attaching.task(self.config, data).socket)
        assert view is not None
        keeper = int(Path(f"/proc/{view.pid}/stat").read_text().rpartition(")")[2].split()[1])
        for number in (keeper, view.pid):
            os.kill(number, signal.SIGKILL)
        until = time.monotonic() + 10
        while Path(f"/proc/{view.pid}").exists() and time.monotonic() < until:
            time.sleep(0.01)
        shutil.rmtree(self.directory / "run")  # it is in memory


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="b", dir="/dev/shm") as directory:  # sockets have short names
        (Path(directory) / "store").mkdir()
        yield Path(directory)


@pytest.fixture
def host(place: Path) -> Host:
    return Host(place / "one", place / "store")


def made(host: Host) -> tuple[Volume, dict[str, Any]]:
    volume = Volume(id=str(uuid4()), virtual_bytes=64 * MIB, pool="gold")
    host.backend.create(volume, attempt())
    return volume, host.backend.connection_info(volume, {}).data


def qemu_io(uri: str, *commands: str) -> str:
    words = [word for command in commands for word in ("-c", command)]
    done = subprocess.run(
        ["qemu-io", "-f", "raw", *words, uri], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Pattern verification failed" not in done.stdout, done.stdout
    return done.stdout


def test_a_process_that_ends_is_missed_at_once_and_brought_back(host: Host) -> None:
    _, data = made(host)
    connector = host.connector()
    connector.attach(data)
    assert not connector.restore()
    assert not connector.lost()
    host.kill(data)
    assert connector.lost()
    assert not connector.restore()
    assert not connector.lost()
    connector.detach(data)
    assert host.left() == []


class Deviceless(LinuxConnector):
    """A kernel that makes no device."""

    def attach(self, data: Mapping[str, Any], consumer: str = HERE, *, read_only: bool = False) -> Attached:
        raise UnsupportedError("This kernel has no NBD driver loaded.")


def test_what_gets_no_device_is_not_served_either(host: Host) -> None:
    _, data = made(host)
    connector = host.connector(kernel=Deviceless(host.directory / "records"))
    with pytest.raises(UnsupportedError, match="no NBD driver"):
        connector.attach(data)
    assert host.left() == []
    assert connector.records() == []
    host.connector().attach(data)
    with pytest.raises(UnsupportedError, match="no NBD driver"):
        connector.attach(data)
    assert host.connector().find(data), "what was served before is served on"
    host.connector().detach(data)


def test_what_cannot_be_brought_back_is_said_and_stops_nothing_else(host: Host) -> None:
    connector = host.connector()
    lame, well = made(host)[1], made(host)[1]
    for data in (lame, well):
        connector.attach(data)
        host.kill(data)
    log = attaching.task(host.config, lame).socket.with_suffix(".log")
    log.mkdir()  # as a full disk would, it stops the process from being started
    (host.directory / "records" / "served" / "0.json").write_bytes(b"{")
    (failure,) = connector.restore()
    assert str(attaching.task(host.config, lame).volume) in str(failure)
    assert connector.find(lame) is None
    assert connector.find(well) is not None
    log.rmdir()
    assert connector.restore() == []
    for data in (lame, well):
        connector.detach(data)


def test_qemu_uses_it_and_the_back_end_goes_on_meanwhile(host: Host) -> None:
    volume, data = made(host)
    connector = host.connector()
    uri = connector.attach(data).device
    assert uri == data["uri"]
    assert connector.attach(data).device == uri
    found = connector.find(data)
    assert found is not None
    assert found.device == uri
    qemu_io(uri, "write -P 1 0 1M")
    snapshot = Snapshot(id=str(uuid4()), volume_id=volume.id, virtual_bytes=volume.virtual_bytes)
    host.backend.snapshot(volume, snapshot, attempt())
    qemu_io(uri, "write -P 2 0 1M")
    host.backend.extend(volume, 80 * MIB, attempt())
    assert "80 MiB" in qemu_io(uri, "length")
    clone = Volume(id=str(uuid4()), virtual_bytes=80 * MIB, pool="gold")
    host.backend.clone(volume, clone, attempt())
    for refused in (
        lambda: host.backend.delete(volume, attempt()),
        lambda: host.backend.revert(volume, snapshot, attempt()),
        lambda: host.backend.release(volume, attempt()),
    ):
        with pytest.raises(ConflictError, match="attached to this host"):
            refused()
    with host.backend.open_data(volume, snapshot) as held, host.backend.open_data(clone) as cloned:
        assert held.read(0, MIB) == b"\1" * MIB
        assert (cloned.read(0, MIB), cloned.virtual_bytes) == (b"\2" * MIB, 80 * MIB)
    connector.detach(data)
    assert host.left() == []
    assert connector.find(data) is None
    connector.detach(data)
    host.backend.revert(volume, snapshot, attempt())
    with host.backend.open_data(volume) as now:
        assert (now.read(0, MIB), now.virtual_bytes) == (b"\1" * MIB, 80 * MIB)


def test_what_was_flushed_comes_back_after_the_host(host: Host) -> None:
    _volume, data = made(host)
    connector = host.connector()
    uri = connector.attach(data).device
    qemu_io(uri, "write -P 7 4k 1M", "flush")
    host.kill(data)
    assert connector.find(data) is None
    assert connector.records() == [data]
    assert connector.restore() == []
    assert connector.restore() == []
    qemu_io(uri, "read -P 7 4k 1M", "write -P 8 2M 64k", "flush")
    host.kill(data)
    connector.detach(data)  # what the journal holds reaches the store first
    assert host.left() == []
    uri = connector.attach(data).device
    qemu_io(uri, "read -P 7 4k 1M", "read -P 8 2M 64k")
    connector.detach(data)


def test_a_host_that_comes_back_does_not_take_a_volume_from_another(host: Host, place: Path) -> None:
    volume, data = made(host)
    here = host.connector()
    qemu_io(here.attach(data).device, "write -P 1 0 64k", "flush")
    host.kill(data)
    other = Host(place / "two", place / "store")
    there = other.connector()
    theirs = other.backend.connection_info(volume, {}).data
    uri = there.attach(theirs).device
    qemu_io(uri, "write -P 2 1M 64k", "flush")
    (failure,) = here.restore()
    assert isinstance(failure, ConflictError)
    with pytest.raises(ConflictError, match="in use elsewhere"):
        here.attach(data)
    qemu_io(uri, "write -P 3 2M 64k", "flush")
    with pytest.raises(ConflictError, match="in use elsewhere"):
        here.detach(data)
    host.connector(discard=True).detach(data)
    assert host.left() == []
    qemu_io(uri, "write -P 4 3M 64k", "flush")

    taken = here.attach(data).device
    with pytest.raises(ConflictError, match="taken over"):
        there.detach(theirs)
    other.connector(discard=True).detach(theirs)
    assert other.left() == []
    qemu_io(taken, "write -P 5 4M 64k", "flush")
    host.kill(data)
    host.connector(discard=True).detach(data)  # nobody else had it: nothing is given up
    assert host.left() == []
    qemu_io(here.attach(data).device, "read -P 5 4M 64k")
    here.detach(data)


def test_what_cannot_be_served_is_refused_and_leaves_nothing(host: Host) -> None:
    _volume, data = made(host)
    connector = host.connector()
    with pytest.raises(UnsupportedError, match="serve to themselves"):
        connector.attach({"export": "/vol", "name": "volume-1"})
    with pytest.raises(ConfigError, match="not configured on this host"):
        connector.attach(data | {"backend": "elsewhere"})
    with pytest.raises(ConflictError, match="instead of"):
        connector.attach(data | {"pool_uuid": str(uuid4())})
    assert host.left() == []
    assert msgspec.json.encode(connector.records()) == b"[]"


def keys(place: Path) -> set[str]:
    """What is in the store besides the pool's own objects, without the volumes' names."""
    files = [path for path in (place / "store").rglob("*") if path.is_file()]
    return {path.relative_to(place / "store").parts[0] for path in files} - {"pool"}


def wait_for_another(path: Path, process: int) -> None:
    until = time.monotonic() + 10
    while Path(f"/proc/{process}").exists() and time.monotonic() < until:
        time.sleep(0.01)
    while time.monotonic() < until:
        with socket.socket(socket.AF_UNIX) as client:
            if client.connect_ex(str(path)) == 0:
                return
        time.sleep(0.01)
    raise AssertionError("nobody serves it")


def test_a_flat_volume_is_served_and_comes_back_after_the_host(place: Path) -> None:
    host = Host(place / "one", place / "store", "flat")
    volume, data = made(host)
    assert data["durability"] == "store"
    connector = host.connector()
    uri = connector.attach(data).device
    qemu_io(uri, "write -P 7 4k 1M", "flush")
    host.backend.extend(volume, 80 * MIB, attempt())
    assert "80 MiB" in qemu_io(uri, "length")
    for refused in (
        lambda: host.backend.delete(volume, attempt()),
        lambda: host.backend.open_data(volume, writable=True),
    ):
        with pytest.raises(ConflictError, match="attached to this host"):
            refused()
    path = attaching.task(host.config, data).socket
    before = serving.running(path)
    assert before is not None
    os.kill(before.pid, signal.SIGKILL)  # its keeper goes on
    wait_for_another(path, before.pid)
    qemu_io(uri, "read -P 7 4k 1M", "write -P 8 2M 64k")
    after = serving.running(path)
    assert after is not None
    assert after.pid != before.pid
    host.kill(data)
    assert connector.restore() == []
    qemu_io(uri, "read -P 8 2M 64k")
    host.kill(data)
    assert keys(place) == {"flat", "lock"}
    connector.detach(data)
    assert (host.left(), keys(place)) == ([], {"flat"})
    object_itself = place / "store" / "flat" / data["export"]
    assert object_itself.read_bytes()[4096 : 4096 + MIB] == b"\7" * MIB
    host.backend.delete(volume, attempt())
    assert keys(place) == set()


def test_a_flat_volume_of_another_host_is_left_to_it(place: Path) -> None:
    host = Host(place / "one", place / "store", "flat")
    volume, data = made(host)
    connector = host.connector()
    task = attaching.task(host.config, data)

    async def elsewhere(work: str) -> None:
        store = await open_store(task.store)
        if work == "give up":
            await volumes.unlock(store, task.volume)
        else:
            await Lock(store, volumes.lock_key(task.volume), "another", f"flat/{task.volume}").take()
        await store.close()

    asyncio.run(elsewhere("take"))
    with pytest.raises(ConflictError, match="another has it"):
        connector.attach(data)
    with pytest.raises(ConflictError, match="attached by another"):
        host.backend.delete(volume, attempt())
    assert host.left() == []
    asyncio.run(elsewhere("give up"))
    connector.attach(data)
    host.kill(data)
    asyncio.run(elsewhere("give up"))
    (failure,) = connector.restore()
    assert isinstance(failure, ConflictError)
    asyncio.run(elsewhere("take"))
    (failure,) = connector.restore()
    assert "another has it" in str(failure)
    connector.detach(data)
    assert (host.left(), keys(place)) == ([], {"flat", "lock"})
