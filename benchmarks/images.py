"""Image work beside qemu-img, vhd-util (if there is one) and cp: `python -m benchmarks.images`.

Each line: what, ours, theirs, how many times as fast, of how many repeats. Small operations give the
median; bulk ones the best of N, each after a `sync`, all in one run and on one file system.
"""

import argparse
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from breezeblock import images
from breezeblock.images.file import opened
from breezeblock.images.vhd import open_layer

GIB, MIB = 1 << 30, 1 << 20


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--directory", type=Path, help="where; default: a temporary directory")
    options.add_argument("--mebibytes", type=int, default=1024, help="size of the bulk image")
    options.add_argument("--repeat", type=int, default=5)
    given = options.parse_args()
    where = Path(tempfile.mkdtemp(prefix="benchmark-", dir=given.directory))
    try:
        print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, {where}")
        small(where, given.repeat)
        tables(where, given.repeat)
        bulk(where, given.mebibytes * MIB, given.repeat)
    finally:
        shutil.rmtree(where)


def once(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def program(*argv: object) -> Callable[[], object]:
    return lambda: subprocess.run([str(one) for one in argv], check=True, capture_output=True)


def overlay(base: Path, child: Path) -> None:
    program("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, child)()


def xen_child(tool: str, base: Path, child: Path) -> None:
    program(tool, "snapshot", "-n", child, "-p", base, "-e")()


def tell(what: str, ours: float, theirs: float | None, peer: str, repeats: int) -> None:
    beside = f"{theirs * 1e3:10.3f} ms {peer:10} {theirs / ours:8.2f}x" if theirs else ""
    print(f"{what:52} {ours * 1e3:10.3f} ms {beside}  n={repeats}")


def small(where: Path, repeat: int) -> None:
    count = repeat * 20
    for name in ("qcow2", "vhd", "vhdx"):
        images.create(where / f"base.{name}", name, 100 * GIB)
    numbers = iter(range(1 << 30))

    def median(act: Callable[[], object], times: int = count) -> float:
        return statistics.median(once(act) for _ in range(times))

    def child(name: str) -> Callable[[], object]:
        return lambda: images.create_child(where / f"{next(numbers)}.{name}", where / f"base.{name}")

    qemu = median(
        lambda: overlay(where / "base.qcow2", where / f"{next(numbers)}.q"),
        repeat * 4,
    )
    info = median(program("qemu-img", "info", "--output=json", where / "base.qcow2"), repeat * 4)
    for name in ("qcow2", "vhd", "vhdx"):
        tell(f"{name}: child of 100 GiB, durable", median(child(name)), qemu, "qemu-img", count)
        path = where / f"base.{name}"
        for _ in range(5):
            above = where / f"{next(numbers)}.{name}"
            images.create_child(above, path)
            path = above
        tell(
            f"{name}: info of one image",
            median(lambda n=name: images.info(where / f"base.{n}")),
            info,
            "qemu-img",
            count,
        )
        tell(f"{name}: info of a chain of six", median(lambda p=path: images.chain(p)), None, "", count)
    durable = os.fsync
    os.fsync = lambda _fd: None  # type: ignore[assignment]
    try:
        for name in ("qcow2", "vhd", "vhdx"):
            tell(f"{name}: child of 100 GiB, without fsync", median(child(name)), qemu, "qemu-img", count)
    finally:
        os.fsync = durable
    tool = shutil.which("vhd-util")
    if tool:
        images.create(where / "x.vhd", "vhd", 100 * GIB, images.Options(creator="xen"))
        theirs = median(
            lambda: xen_child(tool, where / "x.vhd", where / f"{next(numbers)}"),
            repeat * 4,
        )
        tell("vhd: child of 100 GiB, durable", median(child("vhd")), theirs, "vhd-util", count)


def tables(where: Path, repeat: int) -> None:
    path = where / "large.vhd"
    images.create(path, "vhd", 2040 * GIB)

    def parse() -> None:
        with opened(path) as file:
            assert len(open_layer(file).table.entries) == 1_044_480

    tell("vhd: BAT of 2040 GiB", min(once(parse) for _ in range(repeat * 4)), None, "", repeat * 4)
    images.create(where / "huge.vhdx", "vhdx", 64 << 40)
    images.write(where / "huge.vhdx", (64 << 40) - MIB, [b"x" * MIB])
    script = (
        "import resource,sys;from pathlib import Path;from breezeblock import images\n"
        "p=Path(sys.argv[1]);print(sum(1 for _ in images.extents(p)),len(images.check(p)),"
        "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(where / "huge.vhdx")], check=True, capture_output=True, text=True
    )
    print(f"vhdx of 64 TiB, map and check: {int(run.stdout.split()[2]) / 1024:.0f} MiB of memory in all")


def data_file(path: Path, virtual_bytes: int) -> None:
    """Half data in pieces of 1 MiB, at random."""
    rng = random.Random(1)
    with path.open("wb") as file:
        file.truncate(virtual_bytes)
        for at in range(0, virtual_bytes, MIB):
            if rng.random() < 0.5:
                file.seek(at)
                file.write(rng.randbytes(MIB))


def best(act: Callable[[], object], clean: Callable[[], object], repeat: int) -> tuple[float, float]:
    """(wall, CPU with children) of the fastest."""
    found = []
    for _ in range(repeat):
        clean()
        os.sync()
        used = cpu()
        wall = once(act)
        found.append((wall, cpu() - used))
    return min(found)


def cpu() -> float:
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def bulk(where: Path, virtual_bytes: int, repeat: int) -> None:
    raw, out = where / "data.raw", where / "out"
    data_file(raw, virtual_bytes)
    print(f"{virtual_bytes / GIB:.1f} GiB raw, {raw.stat().st_blocks * 512 / GIB:.2f} GiB of it data")

    def clean() -> None:
        out.unlink(missing_ok=True)

    def report(what: str, act: Callable[[], object], before: Callable[[], object] = clean) -> None:
        wall, used = best(act, before, repeat)
        print(f"{what:52} {wall:7.3f} s wall {used:7.3f} s CPU  n={repeat}")

    # cp, then the data made durable, as ours is when it returns.
    report("cp, then fsync", program("sh", "-c", f"cp {raw} {out} && sync {out}"))
    for name, theirs in (("vhd", "vpc"), ("vhdx", "vhdx"), ("qcow2", "qcow2")):
        report(f"raw -> {name}", lambda n=name: images.convert(raw, out, n, "raw"))
        argv = f"qemu-img convert -f raw -O {theirs} {raw} {out} && sync {out}"
        report(f"raw -> {name}: qemu-img, then fsync", program("sh", "-c", argv))
    for name in ("vhd", "vhdx", "qcow2"):
        base, child = where / f"b.{name}", where / f"c.{name}"
        base.unlink(missing_ok=True)

        def chain(base: Path = base, child: Path = child, name: str = name) -> None:
            for path in (base, child, out):
                path.unlink(missing_ok=True)
            images.create(base, name, virtual_bytes)
            images.create_child(child, base)
            with raw.open("rb") as file:
                images.write(child, 0, iter(lambda: file.read(8 * MIB), b""))

        report(f"{name}: merge of a full child, durable", lambda c=child: images.merge(c), chain)
        report(f"{name}: flatten, durable", lambda c=child: images.flatten(c), chain)
        chain()
        report(f"cp of that {name} child, then fsync", program("sh", "-c", f"cp {child} {out} && sync {out}"))
        for path in (base, child):
            path.unlink()


if __name__ == "__main__":
    main()
