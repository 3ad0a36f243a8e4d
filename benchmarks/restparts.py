"""The pieces of `benchmarks.rest` that concern our own volumes."""

import asyncio
import os
import signal
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from breezeblock.errors import BreezeblockError
from breezeblock.objects import serving
from breezeblock.objects.log import volumes
from breezeblock.objects.nbd import client
from breezeblock.objects.stores.opening import StoreConfig, make_pool, open_store
from breezeblock.objects.stores.port import Store

MIB = 1 << 20
TIB = 1 << 40
VOLUME = "be" * 16
_T = TypeVar("_T")
_FILLED: set[str] = set()


def config(url: str) -> StoreConfig:
    return StoreConfig(kind="s3", urls=[f"{url}/bucket"], user="key", password="secret")


def use(url: str, work: Callable[[Store], Awaitable[_T]]) -> _T:
    async def run() -> _T:
        store = await open_store(config(url))
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


def make(_directory: Path, url: str, length: int, volume: str = VOLUME) -> None:
    asyncio.run(make_pool(config(url)))
    use(url, lambda store: volumes.create(store, volume, length))


def target(directory: Path, volume: str = VOLUME) -> list[str]:
    return ["--ioengine=nbd", f"--uri=nbd+unix:///{volume}?socket={directory / 'sock'}"]


def start(directory: Path, url: str, volume: str = VOLUME, **more: Any) -> int:
    task = {
        "store": config(url),
        "volume": volume,
        "socket": directory / "sock",
        "journal": directory / "journal",
        **more,
    }
    return serving.start(msgspec.convert(task, serving.Task))


def stop(directory: Path) -> None:
    if serving.running(directory / "sock") is not None:
        serving.call(directory / "sock", serving.Detach(), timeout_s=300)


def filled(url: str) -> bool:
    return url in _FILLED


def fill(directory: Path, url: str, length: int) -> None:
    """Write noise all over the volume."""
    _FILLED.add(url)
    start(directory, url)
    command = ["fio", "--name=fill", "--rw=write", "--bs=1M", "--iodepth=8", f"--size={length}"]
    subprocess.run([*command, *target(directory), f"--aux-path={directory}"], check=True, capture_output=True)
    stop(directory)


def all_of(directory: Path, url: str) -> list[str]:
    make(directory, url, TIB)
    return [*_terabyte(directory, url), *_processor(directory), *_stall(directory)]


def _terabyte(directory: Path, url: str) -> list[str]:
    """Map 1 TiB: a page in each leaf and more, as if it had been written all over."""
    pid = start(directory, url, memory=volumes.Memory(age_s=3600))
    uri = f"nbd+unix:///{VOLUME}?socket={directory / 'sock'}"
    worker = serving.running(directory / "sock")
    assert worker is not None
    subprocess.run(
        [
            *("fio", "--name=map", "--ioengine=nbd", f"--uri={uri}", "--rw=randwrite", "--bs=4k"),
            *("--iodepth=32", f"--size={TIB}", f"--io_size={128 * MIB}", "--norandommap"),
            *("--randrepeat=0", f"--aux-path={directory}"),
        ],
        check=True,
        capture_output=True,
    )
    serving.call(directory / "sock", serving.Flush(), timeout_s=300)
    resident = _resident_mib(worker.pid)
    taken = []
    for number in range(5):
        began = time.perf_counter()
        serving.call(directory / "sock", serving.Snapshot(f"s{number}"))
        taken.append(time.perf_counter() - began)

    async def clone(store: Store) -> list[float]:
        found = []
        for number in range(5):
            began = time.perf_counter()
            await volumes.clone(store, VOLUME, "s0", f"{number:032x}")
            found.append(time.perf_counter() - began)
        return found

    cloned = use(url, clone)
    return [
        f"1 TiB mapped (32,768 pages in 1,024 leaves): {resident:.0f} MiB resident in the worker",
        f"snapshot of it: {statistics.median(taken) * 1000:.0f} ms, attached and served (keeper {pid})",
        f"clone of the snapshot: {statistics.median(cloned) * 1000:.0f} ms",
    ]


def _processor(directory: Path) -> list[str]:
    """CPU of cached requests, in the worker."""
    worker = serving.running(directory / "sock")
    assert worker is not None
    found = []
    fill = ["fio", "--name=fill", *target(directory), "--rw=write", "--bs=1M", "--size=32M"]
    subprocess.run([*fill, f"--aux-path={directory}"], check=True, capture_output=True)
    # Of 2 MiB, most writes meet their page in the segment that is being filled: hardly anything is uploaded.
    for pattern, mib in (("randread", 32), ("randwrite", 2), ("randwrite", 32)):
        before = _cpu_s(worker.pid)
        output = directory / "cpu.json"
        subprocess.run(
            [
                *("fio", "--name=cpu", *target(directory), f"--rw={pattern}", "--bs=4k", "--iodepth=32"),
                *("--time_based", "--runtime=3", "--norandommap", f"--size={mib}M"),
                f"--aux-path={directory}",
                *("--output-format=json", f"--output={output}"),
            ],
            check=True,
            capture_output=True,
        )
        text = output.read_text()
        job = msgspec.json.decode(text[text.index("{") :])["jobs"][0]
        done = job["read"]["total_ios"] + job["write"]["total_ios"]
        taken = (_cpu_s(worker.pid) - before) / done
        found.append(f"{pattern} 4 KiB, depth 32, {mib} MiB: {taken * 1e6:.1f} CPU-µs each")
    return found


def _stall(directory: Path) -> list[str]:
    """Kill the worker under a client that connects anew and repeats what was not answered."""
    where = client.place(f"nbd+unix:///{VOLUME}?socket={directory / 'sock'}")
    longest, errors, ended = [0.0], [0], threading.Event()

    def write() -> None:
        connection = None
        last = time.perf_counter()
        while not ended.is_set():
            try:
                if connection is None:
                    connection, _ = client.connect(where)
                connection.sendall(_WRITE)
                answer = connection.recv(16, socket.MSG_WAITALL)
            except (OSError, BreezeblockError):
                answer = b""
            if not answer:
                connection = None
                time.sleep(0.005)
                continue
            errors[0] += answer[4:8] != bytes(4)
            now = time.perf_counter()
            longest[0], last = max(longest[0], now - last), now

    thread = threading.Thread(target=write)
    thread.start()
    for _ in range(3):
        time.sleep(1.5)
        worker = serving.running(directory / "sock")
        if worker is not None:
            os.kill(worker.pid, signal.SIGKILL)
    time.sleep(3)
    ended.set()
    thread.join()
    stop(directory)
    return [f"worker killed three times: longest stall {longest[0]:.2f} s, {errors[0]} errors"]


_WRITE = b"\x25\x60\x95\x13" + bytes(2) + b"\0\1" + bytes(8) + bytes(8) + (4096).to_bytes(4) + b"x" * 4096


def _resident_mib(process: int) -> float:
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def _cpu_s(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
