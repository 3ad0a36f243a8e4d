"""Snapshots of differencing images beside qemu-img: `python -m benchmarks.chains`.

For VHD and VHDX volumes of a local pool: taking a snapshot, deleting it, reverting to it, cloning. What
they cost should follow what was written, not the size of the disk. qemu-img cannot do it with these
formats; beside stand what it must do in their place (a full copy), and the same work on QCOW2.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from breezeblock import chains, images
from breezeblock.attempt import Attempt

GIB, MIB = 1 << 30, 1 << 20
NAMING = chains.Naming(extensions=("vhd", "vhdx"))
QEMU_NAMES = {"vhd": "vpc", "vhdx": "vhdx", "qcow2": "qcow2"}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--directory", type=Path, help="where; default: a temporary directory")
    options.add_argument("--gibibytes", type=int, nargs="+", default=[1, 100])
    options.add_argument("--mebibytes", type=int, nargs="+", default=[0, 1, 64], help="written in between")
    options.add_argument("--repeat", type=int, default=5)
    given = options.parse_args()
    where = Path(tempfile.mkdtemp(prefix="benchmark-", dir=given.directory))
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; milliseconds, median of {given.repeat}")
    try:
        for kind in ("vhdx", "vhd"):
            for size in given.gibibytes:
                for written in given.mebibytes:
                    volume(where, kind, size * GIB, written * MIB, given.repeat)
        for kind in ("vhdx", "vhd", "qcow2"):
            theirs(where, kind, max(given.mebibytes) * MIB, given.repeat)
    finally:
        shutil.rmtree(where)


def attempt() -> Attempt:
    return Attempt(operation_id=str(uuid.uuid4()), token="1")


def milliseconds(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return (time.perf_counter() - start) * 1000


def volume(where: Path, kind: str, virtual_bytes: int, written: int, repeat: int) -> None:
    """Measure the verbs on one volume that holds 256 MiB already."""
    naming, one = NAMING.of_format(kind), str(uuid.uuid4())
    chains.create(where, naming, one, virtual_bytes, attempt(), format=kind)
    scatter(where / naming.volume(one), kind, virtual_bytes, 256 * MIB)
    took: dict[str, list[float]] = {"snapshot": [], "revert": [], "clone": [], "delete snapshot": []}
    for _ in range(repeat):
        first, second, clone = (str(uuid.uuid4()) for _ in range(3))

        def snapshot(snapshot_id: str = first) -> None:
            chains.snapshot(where, naming, one, snapshot_id, virtual_bytes, attempt(), format=kind)

        def active() -> Path:
            return where / chains.active(where, naming, one, kind)[0]

        took["snapshot"].append(milliseconds(snapshot))
        scatter(active(), kind, virtual_bytes, written)
        snapshot(second)
        revert = lambda first=first: chains.revert(  # noqa: E731 - it is timed
            where, naming, one, first, virtual_bytes, attempt(), format=kind
        )
        took["revert"].append(milliseconds(revert))
        copy = lambda first=first, clone=clone: chains.clone(  # noqa: E731 - it is timed
            where, naming, one, first, clone, virtual_bytes, attempt(), source_format=kind
        )
        took["clone"].append(milliseconds(copy))
        chains.delete(where, naming, clone, attempt())
        chains.delete_snapshot(where, naming, one, second, attempt(), format=kind)
        forget = lambda first=first: chains.delete_snapshot(  # noqa: E731 - it is timed
            where, naming, one, first, attempt(), format=kind
        )
        scatter(active(), kind, virtual_bytes, written)
        took["delete snapshot"].append(milliseconds(forget))
    told = ", ".join(f"{verb} {statistics.median(times):.1f}" for verb, times in took.items())
    print(f"{kind}, {virtual_bytes // GIB} GiB, {written // MIB} MiB written since: {told}")
    chains.delete(where, naming, one, attempt())


def scatter(path: Path, kind: str, virtual_bytes: int, written: int) -> None:
    """Write that many bytes, a MiB at a time, spread over the first GiB."""
    step = min(virtual_bytes, GIB) // max(1, written // MIB)
    for index in range(written // MIB):
        images.write(path, index * step // MIB * MIB, [os.urandom(MIB)], kind)


def theirs(where: Path, kind: str, written: int, repeat: int) -> None:
    """Measure what qemu-img does in place of a snapshot: QCOW2 overlays, or a copy of all 256 MiB."""
    base, copy = where / f"base.{kind}", where / f"copy.{kind}"
    images.create(base, kind, GIB if kind == "qcow2" else 100 * GIB)
    scatter(base, kind, GIB, 256 * MIB)
    name = QEMU_NAMES[kind]

    def run(*argv: object) -> None:
        subprocess.run(["qemu-img", *(str(one) for one in argv)], check=True, capture_output=True)

    if kind != "qcow2":
        took = [
            milliseconds(lambda: (run("convert", "-f", name, "-O", name, base, copy), os.sync()))
            for _ in range(repeat)
        ]
        print(f"qemu-img, {kind}, 100 GiB dynamic, copy of 256 MiB in it: {statistics.median(took):.1f}")
        return
    made, committed = [], []
    for _ in range(repeat):
        copy.unlink(missing_ok=True)
        made.append(milliseconds(lambda: run("create", "-f", name, "-F", name, "-b", base.name, copy)))
        scatter(copy, kind, GIB, written)
        committed.append(milliseconds(lambda: (run("commit", "-d", "-f", name, copy), os.sync())))
    print(
        f"qemu-img, qcow2: overlay {statistics.median(made):.1f}, "
        f"commit of {written // MIB} MiB {statistics.median(committed):.1f}"
    )


if __name__ == "__main__":
    main()
