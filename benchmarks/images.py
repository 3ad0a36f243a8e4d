"""Image work beside qemu-img, cp and (if there is one) vhd-util: `python -m benchmarks.images`.

Ours and theirs take turns (small calls by tens), so that what else the machine does meets both. A line is:
what, the median of ours, the median of theirs, how many times as long theirs takes, CPU times for bulk work,
and of how many repeats. Ours runs in this process, theirs is a program, as anybody would use either.

"Durable" means that the file and its name are on storage at the end. `qemu-img` and `cp` leave that to the
kernel: where ours is durable, theirs is followed by the same fsyncs; where theirs is not, ours is told
`durable=False`.
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
from functools import partial
from itertools import count
from pathlib import Path

from breezeblock import images
from breezeblock.images.file import opened
from breezeblock.images.stack import opened_stack
from breezeblock.images.transfer import Batch
from breezeblock.images.vhd import open_layer

GIB, MIB = 1 << 30, 1 << 20
QEMU = {"qcow2": "qcow2", "vhd": "vpc", "vhdx": "vhdx"}
Act = Callable[[], object]
NUMBERS = count()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--directory", type=Path, help="where; default: a temporary directory")
    options.add_argument("--mebibytes", type=int, default=512, help="data that bulk work moves")
    options.add_argument(
        "--repeat", type=int, default=5, help="of bulk work; calls are repeated 20 times as often"
    )
    given = options.parse_args()
    where = Path(tempfile.mkdtemp(prefix="benchmark-", dir=given.directory))
    try:
        day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        print(f"{day}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, {where}")
        calls(where, given.repeat * 20)
        tables(where, given.repeat * 4)
        bulk(where, given.mebibytes, given.repeat)
        print(f"load at the end {os.getloadavg()[0]:.1f}")
    finally:
        shutil.rmtree(where)


def program(*argv: object) -> None:
    subprocess.run([str(one) for one in argv], check=True, capture_output=True)


def shell(command: str) -> None:
    subprocess.run(["sh", "-c", command], check=True)


def flushed(act: Act, path: Path) -> None:
    """Do it, then make the new file and its name durable."""
    act()
    for one in (path, path.parent):
        fd = os.open(one, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def measured(act: Act) -> tuple[float, float]:
    """(wall, CPU with children), in seconds."""
    before, start = cpu(), time.perf_counter()
    act()
    return time.perf_counter() - start, cpu() - before


def cpu() -> float:
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def turns(
    what: str, ours: Act, theirs: Act | None, peer: str, repeats: int, before: Act | None = None
) -> None:
    """Let both do it in turn and tell the medians; `before` prepares each, unmeasured.

    Calls, which have nothing to prepare, take turns by tens.
    """
    found: list[list[tuple[float, float]]] = [[], []]
    for turn in range(repeats if before else -(-repeats // 10)):
        for act, into in zip((ours, theirs), found, strict=True):
            for _ in range(1 if before else min(10, repeats - turn * 10)):
                if act:
                    if before:
                        before()
                    into.append(measured(act))
    (wall, used), *peers = [
        tuple(statistics.median(column) for column in zip(*one, strict=True)) for one in found if one
    ]
    scale, unit = (1, "s ") if wall > 0.05 else (1e3, "ms")
    line = f"{what:46} {wall * scale:9.3f} {unit}"
    for their_wall, their_used in peers:
        line += f" {their_wall * scale:9.3f} {unit} {their_wall / wall:7.2f}x  {peer}"
        if before:
            line += f"; CPU {used:.3f} s, {their_used:.3f} s"
    print(f"{line}  n={repeats}", flush=True)


def calls(where: Path, repeats: int) -> None:
    """Single calls: what takes a process that starts anew each time so much longer."""
    for name in QEMU:
        images.create(where / f"base.{name}", name, 100 * GIB)
    for name, qemu in QEMU.items():
        base = where / f"base.{name}"
        # qemu-img makes children of qcow2 only: beside the others, an image without a parent.
        above = ("-b", base, "-F", "qcow2") if name == "qcow2" else ()
        peer = "qemu-img create" if above else "qemu-img create (no child: it cannot)"

        def ours(durable: bool, name: str = name, base: Path = base) -> None:
            images.create_child(where / f"{next(NUMBERS)}.{name}", base, durable=durable)

        def theirs(durable: bool, qemu: str = qemu, above: tuple[object, ...] = above) -> None:
            path = where / f"{next(NUMBERS)}.q"
            act = partial(program, "qemu-img", "create", "-q", "-f", qemu, *above, path, "100G")
            flushed(act, path) if durable else act()

        for durable in (False, True):
            what = f"{name}: child of 100 GiB{', durable' if durable else ''}"
            turns(what, partial(ours, durable), partial(theirs, durable), peer, repeats)
        one = partial(program, "qemu-img", "info", "--output=json", "-f", qemu, base)
        turns(f"{name}: info of one image", partial(images.info, base), one, "qemu-img info", repeats)
    for depth in (6, 30):
        deep = partial(
            program, "qemu-img", "info", "--output=json", "--backing-chain", chain(where, "qcow2", depth)
        )
        for name in QEMU:
            peer = "qemu-img info --backing-chain" + (" (of qcow2)" if name != "qcow2" else "")
            path = chain(where, name, depth)
            turns(f"{name}: info of a chain of {depth}", partial(images.chain, path), deep, peer, repeats)
    if tool := shutil.which("vhd-util"):
        beside_vhd_util(tool, where, repeats)
    else:
        print("vhd-util is not installed: not compared")


def chain(where: Path, name: str, depth: int) -> Path:
    path = where / f"base.{name}"
    for _ in range(depth - 1):
        above = where / f"{next(NUMBERS)}.{name}"
        images.create_child(above, path, durable=False)
        path = above
    return path


def beside_vhd_util(tool: str, where: Path, repeats: int) -> None:
    base = where / "xen.vhd"
    images.create(base, "vhd", 100 * GIB, images.Options(creator="xen"))
    turns(
        "vhd: child of 100 GiB",
        lambda: images.create_child(where / f"{next(NUMBERS)}.vhd", base, durable=False),
        lambda: program(tool, "snapshot", "-n", where / f"{next(NUMBERS)}.vhd", "-p", base, "-e"),
        "vhd-util snapshot",
        repeats,
    )
    path = chain(where, "vhd", 6)
    theirs = partial(program, tool, "query", "-n", path, "-vpsd")
    turns("vhd: info of a chain of 6", partial(images.chain, path), theirs, "vhd-util query", repeats)


def tables(where: Path, repeats: int) -> None:
    path = where / "large.vhd"
    images.create(path, "vhd", 2040 * GIB)

    def parse() -> None:
        with opened(path) as file:
            assert len(open_layer(file).table.entries) == 1_044_480

    turns("vhd: open, and parse the BAT of 2040 GiB", parse, None, "", repeats)
    images.create(where / "huge.vhdx", "vhdx", 64 << 40)
    images.write(where / "huge.vhdx", (64 << 40) - MIB, [b"x" * MIB])
    script = (
        "import resource,sys;from pathlib import Path;from breezeblock import images\n"
        "p=Path(sys.argv[1]);c=p.with_name('child.vhdx');images.create_child(c,p)\n"
        "images.write(c,1<<40,[b'y'*(1<<20)]);list(images.extents(c));assert not images.check(c)\n"
        "images.merge(c);images.flatten(c)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(where / "huge.vhdx")], check=True, capture_output=True, text=True
    )
    print(f"vhdx of 64 TiB: child, write, map, check, merge, flatten: {int(run.stdout) >> 10} MiB of memory")


def bulk(where: Path, mebibytes: int, repeats: int) -> None:
    """Moving data. The disk is twice as large as its data, which lies in pieces at random places."""
    rng = random.Random(1)
    places = rng.sample(range(2 * mebibytes), mebibytes)
    raw, out, work = where / "data.raw", where / "out", where / "work"
    work.mkdir()
    with raw.open("wb") as file:
        file.truncate(2 * mebibytes * MIB)
        for place in places:
            file.seek(place * MIB)
            file.write(rng.randbytes(MIB))
    print(f"{2 * mebibytes / 1024:.1f} GiB raw, {mebibytes} MiB of it data; all durable at the end")

    def clean() -> None:
        shutil.rmtree(work)
        work.mkdir()
        out.unlink(missing_ok=True)
        os.sync()

    for name, qemu in QEMU.items():
        ours = partial(images.convert, raw, out, name, "raw")
        theirs = partial(shell, f"qemu-img convert -f raw -O {qemu} {raw} {out} && sync {out} {where}")
        turns(f"raw -> {name}", ours, theirs, "qemu-img convert", repeats, clean)
    for name in QEMU:
        base, child = where / f"base-of.{name}", where / f"child-of.{name}"
        images.create(base, name, 2 * mebibytes * MIB)
        fill(base, [(place * MIB, MIB) for place in places[: mebibytes // 2]])
        images.create_child(child, base)
        # Half of what the child holds lies in pieces of 64 KiB, four in each of as many MiB.
        pieces = [(place * MIB, MIB) for place in places[mebibytes // 2 : mebibytes * 3 // 4]]
        small = places[mebibytes * 3 // 4 :]
        fill(
            child, pieces + [(place * MIB + step * 256 * 1024, 65536) for place in small for step in range(4)]
        )

        def copies(base: Path = base, child: Path = child) -> None:
            clean()
            for path in (base, child):
                shutil.copyfile(path, work / path.name)
            os.sync()

        def copied(*paths: Path) -> None:
            names = " ".join(str(work / path.name) for path in paths)
            outs = " ".join(f"{work}/out/{path.name}" for path in paths)
            shell(f"mkdir {work}/out && cp {names} {work}/out && sync {outs} {work}/out")

        top = work / child.name
        used = [path.stat().st_blocks * 512 // MIB for path in (child, base)]
        what = f"{name}: merge a child of {used[0]} MiB"
        turns(what, partial(images.merge, top), partial(copied, child), "cp of it", repeats, copies)
        what = f"{name}: flatten it and its parent of {used[1]} MiB"
        turns(what, partial(images.flatten, top), partial(copied, child, base), "cp of both", repeats, copies)
        for path in (base, child):
            path.unlink()


def fill(path: Path, pieces: list[tuple[int, int]]) -> None:
    rng = random.Random(2)
    with opened_stack(path, write=1) as layers:
        batch = Batch(layers.top)
        for offset, length in sorted(pieces):
            batch.put(offset, rng.randbytes(length))
        batch.commit()


if __name__ == "__main__":
    main()
