import os
import random
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from breezeblock.images import clusters, overlays, qcow2

MIB, CLUSTER = 1 << 20, 65536


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_overlay_holds_the_ranges_and_its_base_the_rest(data: st.DataObject) -> None:
    directory = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        virtual_bytes = data.draw(st.integers(1, 40)) * 33 * 512
        base = os.urandom(virtual_bytes)
        (directory / "base").write_bytes(base)
        ranges = [
            (
                offset := data.draw(st.integers(0, virtual_bytes - 1)),
                data.draw(st.integers(1, virtual_bytes - offset)),
            )
            for _number in range(data.draw(st.integers(0, 4)))
        ]
        covered = overlays.cover(ranges, virtual_bytes)
        expected = bytearray(base)
        path = directory / "image"
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        for place in overlays.create(fd, virtual_bytes, "base", "raw", covered):
            fill = os.urandom(place.length)
            os.pwrite(fd, fill, place.host_offset)
            length = min(place.length, virtual_bytes - place.offset)
            expected[place.offset : place.offset + length] = fill[:length]
        header = qcow2.parse(fd)
        found = [(run.offset, run.length) for run in clusters.runs(fd, header)]
        os.close(fd)
        assert found == [(at, min(length, virtual_bytes - at)) for at, length in covered]
        for offset, length in ranges:
            assert any(at <= offset and offset + length <= at + size for at, size in covered)
        subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", path], check=True)
        subprocess.run(
            ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, directory / "flat"], check=True
        )
        assert (directory / "flat").read_bytes() == expected
    finally:
        shutil.rmtree(directory)


@pytest.mark.parametrize("gibibytes", [1, 3, 5, 1500])
def test_large_overlays_count_every_cluster(tmp_path: Path, gibibytes: int) -> None:
    """Beyond 2 GiB of file more than one refcount block is needed, beyond 512 MiB of disk more tables."""
    virtual_bytes = gibibytes << 30
    path = tmp_path / "image"
    with (tmp_path / "base").open("wb") as base:
        base.truncate(virtual_bytes)
    chance = random.Random(gibibytes)
    ranges = [(0, virtual_bytes)]
    if gibibytes > 100:
        ranges = [(chance.randrange(virtual_bytes // CLUSTER) * CLUSTER, MIB) for _number in range(200)]
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    overlays.create(fd, virtual_bytes, "base", "raw", overlays.cover(ranges, virtual_bytes))
    os.close(fd)
    subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", path], check=True)
