"""Volumes from an image that the pool keeps, beside `cp` and qemu-img: `python -m benchmarks.cached_images`.

A service of its own is asked over HTTP, until the volume is available; everything is durable then. The first
volume from an image has it brought in; the others are clones of what the pool keeps. Beside: the same bytes
copied by `cp`, and converted by qemu-img as Cinder's NFS driver does, then synced.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from benchmarks.deployment import Deployment, free_port, load

GIB, MIB = 1 << 30, 1 << 20
POLL_S = 0.002


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--directory", type=Path, help="where; default: a temporary directory")
    options.add_argument("--mebibytes", type=int, default=1024, help="data in the image")
    options.add_argument("--repeat", type=int, default=20, help="of the volumes that are clones")
    given = options.parse_args()
    where = Path(tempfile.mkdtemp(prefix="benchmark-", dir=given.directory))
    deployment = Deployment(where / "service", free_port())
    deployment.prepare()
    with (deployment.directory / "breezeblock.toml").open("a") as file:
        file.write(f'[images]\nschemes = ["file"]\ndirectories = ["{where}"]\n')
    deployment.run()
    try:
        day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        print(f"{day}, {os.cpu_count()} CPUs, load {load()}, {where}")
        measure(deployment, where, given.mebibytes, given.repeat)
        print(f"load at the end {load()}")
    finally:
        deployment.end()
        shutil.rmtree(where)


def measure(deployment: Deployment, where: Path, mebibytes: int, repeat: int) -> None:
    raw, image, out = where / "image.raw", where / "image.qcow2", where / "out"
    gib = -(-2 * mebibytes * MIB // GIB)
    with raw.open("wb") as file:
        file.truncate(gib * GIB)
        for number in range(mebibytes):
            file.seek(2 * number * MIB)
            file.write(os.urandom(MIB))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image], check=True)
    os.sync()
    print(f"image of {gib} GiB with {mebibytes} MiB of data:")
    copied = synced(f"cp --sparse=always {raw} {out}", out)
    told("cp, and sync", copied, copied)
    converted = synced(f"qemu-img convert -f qcow2 -O raw {image} {out}", out)
    told("qemu-img convert, and sync", converted, copied)
    told("first volume", took(lambda: volume(deployment, image, gib)), copied)
    times = [took(lambda: volume(deployment, image, gib)) for _ in range(repeat)]
    told(f"volume from the kept image, median of {repeat}", statistics.median(times), copied)


def told(what: str, seconds: float, copied: float) -> None:
    print(f"  {what:45} {seconds:10.4f} s  {copied / seconds:8.1f} times as fast as cp", flush=True)


def took(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def synced(command: str, out: Path) -> float:
    """Return the median time that a command takes to write a new file durably."""
    argv = ["sh", "-c", f"rm -f {out}; {command} && sync {out} {out.parent}"]
    return statistics.median(took(lambda: subprocess.run(argv, check=True)) for _ in range(3))


def volume(deployment: Deployment, image: Path, gib: int) -> None:
    """Make a volume from the image, and wait until it can be used."""
    asked = {"image": {"url": f"file://{image}", "format": "qcow2"}, "volume": {"size": gib}}
    made = call(deployment, "/volume_imports", {"volume_import": asked})["volume"]
    while made["status"] != "available":
        if made["status"].startswith("error"):
            raise SystemExit(f"the volume is {made['status']}: see {deployment.directory}/log")
        time.sleep(POLL_S)
        made = call(deployment, f"/volumes/{made['id']}")["volume"]


def call(deployment: Deployment, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    with urlopen(Request(f"{deployment.endpoint}{path}", data, headers), timeout=30) as answer:
        return json.load(answer)


if __name__ == "__main__":
    main()
