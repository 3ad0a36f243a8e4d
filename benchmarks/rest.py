"""`python -m benchmarks.rest [--latency 0 5 20] [--seconds 3]`: a volume in an object store beside peers.

All use the same little S3 server with the latency that is set: ours; Debian's s3backer, whose best
configuration counts, work by work; nbdkit's curl plugin, which only reads. Ours flushes to its local journal,
and is measured a second time waiting for the store instead. Then: what snapshots and clones of 1 TiB take,
the memory of a mapped volume of 1 TiB, the processor's time of cached requests, the stall of a killed worker.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks import restparts

MIB = 1 << 20
BYTES = 256 * MIB
WORK: dict[str, tuple[str, str, int, list[str]]] = {
    "flushed write q1": ("randwrite", "4k", 1, ["--fsync=1"]),
    "flushed write q32": ("randwrite", "4k", 32, ["--fsync=1"]),
    "write q1": ("randwrite", "4k", 1, []),
    "write q32": ("randwrite", "4k", 32, []),
    "sequential write q8": ("write", "1M", 8, []),
    "sequential read q1": ("read", "1M", 1, []),
    "sequential read q8": ("read", "1M", 8, []),
    "cold read q1": ("randread", "4k", 1, []),
    "cold read q32": ("randread", "4k", 32, []),
}
READS = [name for name in WORK if "read" in name]
PEERS: dict[str, tuple[int, list[str]]] = {
    "s3backer 4K": (4096, ["--blockCacheSize=0"]),
    "s3backer 128K": (128 << 10, ["--blockCacheSize=0"]),
    "s3backer 128K cached": (128 << 10, ["--blockCacheSize=1000", "--readAhead=16"]),
}


@contextmanager
def started(*argv: str, ready: Path | None = None, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the end of the block; begin when what it is to make is there."""
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *argv], stderr=subprocess.DEVNULL, **{"stdout": -3, **more}
    )
    try:
        while ready is not None and not ready.exists():
            if process.poll() is not None:
                raise SystemExit(f"{argv[0]} does not start")
            time.sleep(0.02)
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.kill()


@contextmanager
def object_store(latency_ms: float, block_bytes: int = 0) -> Iterator[str]:
    """Serve objects; give the URL."""
    argv = [sys.executable, "-m", "benchmarks.objectstore", f"--latency-ms={latency_ms}"]
    with started(*argv, f"--block-bytes={block_bytes}", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"


def fio(directory: Path, target: list[str], name: str, seconds: float, size: int = BYTES) -> float:
    """Return operations a second, or bytes for large ones."""
    pattern, block, depth, more = WORK[name]
    output = directory / "fio.json"
    spread = [f"--numjobs={depth}", "--group_reporting", "--ioengine=psync", "--thread"]
    if block == "1M" and "--ioengine=nbd" not in target:  # each job its own part
        size //= depth
        spread.append(f"--offset_increment={size}")
    command = [
        *(
            "fio",
            "--name=rest",
            f"--rw={pattern}",
            f"--bs={block}",
            f"--size={size}",
            "--allow_file_create=0",
        ),
        *(target if "--ioengine=nbd" in target else target + spread),
        *([f"--iodepth={depth}"] if "--ioengine=nbd" in target else []),
        *("--randrepeat=0", "--norandommap", "--time_based", f"--runtime={seconds}", *more),
        *("--output-format=json", f"--output={output}", f"--aux-path={directory}"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=directory, timeout=300, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
    text = output.read_text()
    jobs = json.loads(text[text.index("{") :])["jobs"]
    side = [job["write" if "write" in name else "read"] for job in jobs]
    return float(sum(one["bw_bytes" if block == "1M" else "iops"] for one in side))


def ours(directory: Path, url: str, seconds: float, durability: str) -> dict[str, float]:
    found: dict[str, float] = {}
    target = restparts.target(directory)
    names = [name for name in WORK if durability == "local" or "flushed" in name]
    for name in names:
        # Reads begin with nothing in memory.
        cold = name in READS
        if cold or name == names[0]:
            restparts.stop(directory)
            if cold and not restparts.filled(url):
                restparts.fill(directory, url, 1024 * MIB)
            restparts.start(directory, url, durability=durability)
        found[name] = fio(directory, target, name, seconds, 1024 * MIB if cold else BYTES)
    restparts.stop(directory)
    return found


def s3backer(directory: Path, latency_ms: float, seconds: float, peer: str) -> dict[str, float]:
    block_bytes, more = PEERS[peer]
    found: dict[str, float] = {}
    mount = directory / "mount"
    mount.mkdir(exist_ok=True)
    with object_store(latency_ms, block_bytes) as url:
        argv = [
            *("s3backer", "-f", f"--baseURL={url}/", "--accessId=key", "--accessKey=secret", "--directIO"),
            *(f"--blockSize={block_bytes}", f"--size={1024 * MIB}", "--prefix=blocks", "--timeout=60"),
            *(
                "--md5CacheSize=0",
                "--md5CacheTime=0",
                "--minWriteDelay=0",
                "--force",
                "--quiet",
                *more,
                "bucket",
                str(mount),
            ),
        ]
        for name in WORK:
            with started(*argv, ready=mount / "file"):
                try:
                    size = 1024 * MIB if name in READS else BYTES
                    found[name] = fio(directory, [f"--filename={mount / 'file'}"], name, seconds, size)
                finally:
                    subprocess.run(["fusermount", "-u", "-z", str(mount)], check=False)
    return found


def nbdkit(directory: Path, latency_ms: float, seconds: float) -> dict[str, float]:
    socket = directory / "nbdkit"
    found = {}
    with object_store(latency_ms) as url:
        for name in READS:
            socket.unlink(missing_ok=True)
            argv = ["nbdkit", "--foreground", "--unix", str(socket), "curl", f"url={url}/bucket/flat"]
            with started(*argv, ready=socket):
                target = ["--ioengine=nbd", f"--uri=nbd+unix:///?socket={socket}"]
                found[name] = fio(directory, target, name, seconds)
    return found


def table(latency_ms: float, chosen: argparse.Namespace, directory: Path) -> None:
    rows: dict[str, dict[str, float]] = {}
    with object_store(latency_ms) as url:
        restparts.make(directory, url, 1024 * MIB)
        rows["ours"] = ours(directory, url, chosen.seconds, "local")
        rows["ours, flush waits for the store"] = ours(directory, url, chosen.seconds, "store")
    if not chosen.alone:
        for peer in PEERS:
            rows[peer] = s3backer(directory, latency_ms, chosen.seconds, peer)
        rows["nbdkit curl"] = nbdkit(directory, latency_ms, chosen.seconds)
    print(f"\nObjects take {latency_ms:g} ms; load {os.getloadavg()[0]:.1f}; operations a second, or MB/s\n")
    print(f"| | {' | '.join(WORK)} |\n|{'---|' * (len(WORK) + 1)}")
    for who, row in rows.items():
        cells = [(row.get(one, 0) / (1e6 if WORK[one][1] == "1M" else 1)) for one in WORK]
        print(f"| {who} | {' | '.join(f'{cell:,.0f}' if cell else '' for cell in cells)} |")
    peers = [row for who, row in rows.items() if who.startswith("s3backer")]
    if peers:
        best = {one: max(row[one] for row in peers) for one in WORK}
        ratios = [f"**{rows['ours'][one] / best[one]:.1f}**" for one in WORK]
        print(f"| ours to the best s3backer | {' | '.join(ratios)} |")


def parts(latency_ms: float, directory: Path) -> None:
    with object_store(latency_ms) as url:
        lines = restparts.all_of(directory, url)
    print(f"\nObjects take {latency_ms:g} ms; load {os.getloadavg()[0]:.1f}\n")
    print("\n".join(f"- {line}" for line in lines))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rest", description=__doc__)
    parser.add_argument("--latency", type=float, nargs="*", default=[0, 5, 20], help="milliseconds")
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--alone", action="store_true", help="without the peers")
    parser.add_argument("--parts", action="store_true", help="only what is no table")
    chosen = parser.parse_args()
    missing = [name for name in ("fio", "nbdkit", "s3backer", "fusermount") if shutil.which(name) is None]
    if missing and not chosen.alone:
        raise SystemExit(f"install {', '.join(missing)}")
    for latency in chosen.latency:
        with tempfile.TemporaryDirectory(prefix="rest-benchmark-") as directory:
            if not chosen.parts:
                table(latency, chosen, Path(directory))
    with tempfile.TemporaryDirectory(prefix="rest-benchmark-") as directory:
        parts(chosen.latency[-1], Path(directory))


if __name__ == "__main__":
    main()
