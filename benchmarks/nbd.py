"""`python -m benchmarks.nbd [--seconds 3]`: our NBD server beside nbdkit and qemu-nbd, in the same run.

fio's `nbd` engine over a Unix socket, 256 MiB of memory behind each server. Ratios are of operations a second
to `nbdkit memory` (written in C); the processor's time is the server's own, for each operation.
"""

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MIB = 1 << 20
BYTES = 256 * MIB
PLUGIN = f"""
import nbdkit
API_VERSION = 2
disk = bytearray({BYTES})
def open(readonly): return 1
def get_size(h): return len(disk)
def pread(h, buf, offset, flags): buf[:] = disk[offset:offset+len(buf)]
def pwrite(h, buf, offset, flags): disk[offset:offset+len(buf)] = buf
def flush(h, flags): pass
"""
WORK = [("randread", "4k", 1), ("randread", "4k", 32), ("randwrite", "4k", 1), ("randwrite", "4k", 32)]
LARGE = [("read", "1M", 4), ("write", "1M", 4)]


def ours(socket: str) -> None:
    import uvloop

    from breezeblock.objects.nbd import MemoryDevice, Server

    async def main() -> None:
        await Server({"": MemoryDevice(BYTES)}).listen_unix(Path(socket))
        await asyncio.Event().wait()

    uvloop.run(main())


def relayed(socket: str) -> None:
    """Serve from a child, and relay it from here, whose processor time is the one that counts."""
    from breezeblock.app import nbd

    back = Path(f"{socket}-back")
    back.unlink(missing_ok=True)
    child = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "benchmarks.nbd", "--serve", str(back)]
    )
    while not back.exists():
        assert child.poll() is None
        time.sleep(0.05)
    nbd.relay(f"nbd+unix:///?socket={back}", unix=Path(socket))


def servers(directory: Path) -> dict[str, list[str]]:
    plugin, image = directory / "plugin.py", directory / "image"
    plugin.write_text(PLUGIN)
    with image.open("wb") as file:
        file.truncate(BYTES)
    breezeblock = Path(sys.executable).parent / "breezeblock"
    nbdkit = ["nbdkit", "--foreground", "--unix", "SOCKET"]
    return {
        "nbdkit memory": [*nbdkit, "memory", str(BYTES)],
        "nbdkit python": [*nbdkit, "python", str(plugin)],
        "qemu-nbd, cached file": ["qemu-nbd", "-f", "raw", "-t", "-e", "8", "-k", "SOCKET", str(image)],
        "ours, memory": [sys.executable, "-m", "benchmarks.nbd", "--serve", "SOCKET"],
        "ours, memory, behind a relay": [sys.executable, "-m", "benchmarks.nbd", "--relay", "SOCKET"],
        "ours, cached file": [str(breezeblock), "nbd", "serve", str(image), "--socket", "SOCKET"],
    }


def measured(command: list[str], directory: Path, seconds: float) -> dict[str, tuple[float, float]]:
    socket = directory / "socket"
    socket.unlink(missing_ok=True)
    process = subprocess.Popen(
        [word.replace("SOCKET", str(socket)) for word in command],
        # nbdkit embeds the distribution's Python, which must not see this one's path.
        env={**os.environ, "PATH": f"/usr/bin:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not socket.exists():
            assert process.poll() is None, command
            time.sleep(0.05)
        fio(socket, directory, "write", "1M", 4, None)
        found = {}
        for pattern, block, depth in WORK + LARGE:
            before = cpu_s(process.pid)
            operations, rate = fio(socket, directory, pattern, block, depth, seconds)
            found[f"{pattern} {block} q{depth}"] = (rate, (cpu_s(process.pid) - before) / operations * 1e6)
        return found
    finally:
        process.terminate()
        process.wait()


def fio(
    socket: Path, directory: Path, pattern: str, block: str, depth: int, seconds: float | None
) -> tuple[int, float]:
    """Return operations, and operations a second."""
    output = directory / "fio.json"
    limit = ["--time_based", f"--runtime={seconds}"] if seconds else []
    command = [
        *("fio", "--name=nbd", "--ioengine=nbd", f"--uri=nbd+unix:///?socket={socket}", f"--rw={pattern}"),
        *(f"--bs={block}", f"--iodepth={depth}", f"--size={BYTES}", "--randrepeat=1", *limit),
        *("--output-format=json", f"--output={output}"),
    ]
    subprocess.run(command, check=True, capture_output=True, cwd=directory)
    text = output.read_text()
    job = json.loads(text[text.index("{") :])["jobs"][0]
    side = job["read"] if job["read"]["total_ios"] else job["write"]
    return side["total_ios"], side["iops"]


def cpu_s(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nbd", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=2, help="the best of so many counts")
    parser.add_argument("--only", help="servers whose names contain this")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--relay", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        ours(chosen.serve)
        return
    if chosen.relay:
        relayed(chosen.relay)
        return
    missing = [name for name in ("fio", "nbdkit", "qemu-nbd") if shutil.which(name) is None]
    if missing:
        raise SystemExit(f"install {', '.join(missing)}")
    best: dict[str, dict[str, tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="nbd-benchmark-") as directory:
        for _ in range(chosen.rounds):
            for name, command in servers(Path(directory)).items():
                if chosen.only and chosen.only not in name:
                    continue
                found, old = measured(command, Path(directory), chosen.seconds), best.get(name, {})
                best[name] = {
                    work: (max(rate, old.get(work, (0, 0))[0]), min(cost, old.get(work, (0, cost))[1]))
                    for work, (rate, cost) in found.items()
                }
    names = list(next(iter(best.values())))
    print(f"load {os.getloadavg()[0]:.1f}; cells: ratio to the first row, server's CPU-µs an operation")
    print(f"| server | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}")
    base = next(iter(best.values()))
    for name, row in best.items():
        cells = (f"{row[work][0] / base[work][0]:.2f}, {row[work][1]:.1f}" for work in names)
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"{next(iter(best))}: " + ", ".join(f"{work} {base[work][0]:.0f}/s" for work in names))


if __name__ == "__main__":
    main()
