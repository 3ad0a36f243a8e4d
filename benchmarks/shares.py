"""Clones and statistics of a back end of files beside `cp` and `du`: `python -m benchmarks.shares`.

Clones are durable at the end (theirs by the same fsyncs). Cinder's NFS driver copies the whole volume for a
clone, and asks `du` for a share's allocated bytes in each round of statistics.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Backend, Volume
from breezeblock.backends.local import LocalConfig, open_local

GIB, MIB = 1 << 30, 1 << 20


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--directory", type=Path, help="where; default: a temporary directory")
    options.add_argument("--gibibytes", type=int, default=4, help="data in the volume of 10 GiB")
    options.add_argument("--volumes", type=int, default=10_000)
    given = options.parse_args()
    where = Path(tempfile.mkdtemp(prefix="benchmark-", dir=given.directory))
    try:
        day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        print(f"{day}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, {where}")
        clones(where, given.gibibytes)
        stats(where, given.volumes)
        print(f"load at the end {os.getloadavg()[0]:.1f}")
    finally:
        shutil.rmtree(where)


def attempt() -> Attempt:
    return Attempt(operation_id=str(uuid4()), token="one")


def took(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def median(act: Callable[[], object], times: int) -> float:
    return statistics.median(took(act) for _ in range(times))


def opened(path: Path) -> Backend:
    backend = open_local("here", LocalConfig(path=str(path)), path)
    backend.start()
    return backend


def new(gib: int, **options: str) -> Volume:
    return Volume(id=str(uuid4()), virtual_bytes=gib * GIB, pool="here", options=options, depth=1)


def clones(where: Path, gib: int) -> None:
    pool = where / "clones"
    backend = opened(pool)
    source = new(10)
    backend.create(source, attempt())
    image = pool / f"volume-{source.id}"
    with image.open("r+b") as file:
        for _ in range(gib * GIB // (16 * MIB)):
            file.write(os.urandom(16 * MIB))
        os.fsync(file.fileno())

    def copied() -> None:
        target = pool / "copy"
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", image, target], check=True)
        subprocess.run(["sync", target, pool], check=True)
        target.unlink()

    def converted() -> None:
        target = pool / "copy"
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "raw", image, target], check=True)
        subprocess.run(["sync", target, pool], check=True)
        target.unlink()

    def full() -> None:
        volume = new(10, clone="full")
        backend.clone(source, volume, attempt())
        backend.delete(volume, attempt())

    def linked() -> None:
        backend.clone(source, new(10), attempt())

    print(f"volume of 10 GiB with {gib} GiB of data:")
    print(f"  cp --sparse, and sync                {took(copied):10.3f} s")
    print(f"  qemu-img convert, as Cinder, and sync{took(converted):10.3f} s")
    print(f"  full clone (and its deletion)        {took(full):10.3f} s")
    print(f"  linked clone, median of 20           {median(linked, 20):10.4f} s")


def stats(where: Path, many: int) -> None:
    for number in (10, many):
        pool = where / f"of-{number}"
        backend = opened(pool)
        for _ in range(number):
            with (pool / f"volume-{uuid4()}").open("wb") as file:
                file.truncate(GIB)
        verb, looked = new(1), median(backend.stats, 20)
        made = took(lambda verb=verb, backend=backend: backend.create(verb, attempt()))  # type: ignore[misc]
        argv = ["du", "-sb", "--apparent-size", "--exclude", "*snapshot*", str(pool)]
        asked = median(lambda argv=argv: subprocess.run(argv, check=True, capture_output=True), 5)  # type: ignore[misc]
        print(f"share of {number} volumes:")
        print(f"  stats                                {looked * 1000:10.2f} ms")
        print(f"  create                               {made * 1000:10.2f} ms")
        print(f"  du, as Cinder's NFS driver           {asked * 1000:10.2f} ms")


if __name__ == "__main__":
    main()
