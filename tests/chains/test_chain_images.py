"""Images into volumes and out: content by QEMU's tools, hostile ones refused before anything is written."""

import os
import struct
import subprocess
from pathlib import Path

import pytest
from chainlab import MIB, NAMING, Volume, attempt, content, is_clean, new_id, qemu_io
from hypothesis import given, settings
from hypothesis import strategies as st

from breezeblock import chains
from breezeblock.errors import BreezeblockError
from breezeblock.testing import run_killed_at, trace_lines

SIZE = 4 * MIB


def image(path: Path, image_format: str, *options: str) -> bytes:
    """Make an image with something in it; return what it reads as."""
    flat = path.with_name("flat")
    data = bytearray(2 * MIB)
    data[:65536] = os.urandom(65536)
    data[MIB : MIB + 4096] = os.urandom(4096)
    flat.write_bytes(data)
    known_to_qemu = {"vhd": "vpc"}.get(image_format, image_format)
    if image_format == "vhd":
        options = (*options, "-o", "force_size=on")  # it would round the size up else
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", known_to_qemu, *options, flat, path], check=True
    )
    flat.unlink()
    return bytes(data)


def bring_in(pool: Path, path: Path, image_format: str, volume_format: str, volume_id: str = "") -> Path:
    volume_id = volume_id or new_id()
    chains.import_image(pool, NAMING, volume_id, SIZE, path, image_format, attempt(), format=volume_format)
    return pool / NAMING.volume(volume_id)


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    (tmp_path / "pool").mkdir()
    return tmp_path / "pool"


@pytest.mark.parametrize("volume_format", ["raw", "qcow2"])
@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("raw", ()),
        ("qcow2", ()),
        ("qcow2", ("-c",)),
        ("qcow2", ("-o", "cluster_size=4096,compat=0.10")),
        ("vhd", ()),
        ("vhdx", ()),
    ],
)
def test_a_volume_reads_as_its_image(
    pool: Path, tmp_path: Path, volume_format: str, image_format: str, options: tuple[str, ...]
) -> None:
    held = image(tmp_path / "image", image_format, *options)
    made = bring_in(pool, tmp_path / "image", image_format, volume_format)
    assert content(made, volume_format) == held + bytes(SIZE - len(held))
    assert {path.name for path in pool.iterdir()} == {made.name}
    assert volume_format == "raw" or is_clean(made)


@pytest.mark.parametrize("volume_format", ["raw", "qcow2"])
@pytest.mark.parametrize("target_format", ["raw", "qcow2", "vhd", "vhdx"])
def test_volumes_and_snapshots_go_out(
    pool: Path, tmp_path: Path, volume_format: str, target_format: str
) -> None:
    volume = Volume(pool, volume_format, MIB).create()
    qemu_io(*volume.active, "write -P 1 0 64k")
    snapshot_id = new_id()
    chains.snapshot(pool, NAMING, volume.id, snapshot_id, MIB, attempt(), format=volume_format)
    qemu_io(*volume.active, "write -P 2 0 4k")
    for wanted, start in ((None, b"\2" * 4096 + b"\1" * 61440), (snapshot_id, b"\1" * 65536)):
        chains.export_image(
            pool, NAMING, volume.id, wanted, tmp_path / "out", target_format, attempt(), format=volume_format
        )
        read = content(tmp_path / "out", {"vhd": "vpc"}.get(target_format, target_format))
        assert read == start + bytes(MIB - len(start))
        assert {path.name for path in tmp_path.iterdir()} == {"out", "pool"}


def hostile(path: Path, name: str) -> str:
    """Write an image that must not be read; return the format it is said to have."""
    create = ["qemu-img", "create", "-q"]
    linked = [*create, "-u", "-f", "qcow2", "-F", "raw", "-b"]
    if name == "backing file":
        subprocess.run([*linked, "/etc/passwd", path, "1M"], check=True)
    elif name == "bare backing name":
        subprocess.run([*linked, "passwd", path, "1M"], check=True)
    elif name == "json backing name":
        spec = 'json:{"driver":"raw","file":{"driver":"file","filename":"/etc/passwd"}}'
        subprocess.run([*linked, spec, path, "1M"], check=True)
    elif name == "data file":
        data = path.with_name("data")
        subprocess.run([*create, "-f", "qcow2", "-o", f"data_file={data}", path, "1M"], check=True)
    elif name == "larger than the volume":
        subprocess.run([*create, "-f", "qcow2", path, "1T"], check=True)
    elif name == "cut short":
        image(path, "qcow2")
        path.write_bytes(path.read_bytes()[:200_000])
    elif name == "tables outside":
        image(path, "qcow2")
        with path.open("r+b") as file:
            file.seek(40)
            file.write(struct.pack(">Q", 1 << 40))
    elif name == "empty":
        path.write_bytes(b"")
    else:
        kind = name.removeprefix("raw that is ")
        if kind == "vpc fixed":
            image(path, "vpc", "-o", "subformat=fixed")
        else:
            image(path, kind)
        return "raw"
    return "qcow2"


@pytest.mark.parametrize("volume_format", ["raw", "qcow2"])
@pytest.mark.parametrize(
    "name",
    ["backing file", "bare backing name", "json backing name", "data file", "larger than the volume"]
    + ["cut short", "tables outside", "empty"]
    + [f"raw that is {kind}" for kind in ("qcow2", "vmdk", "vhdx", "vpc", "vpc fixed", "vdi", "qed")],
)
def test_hostile_images_are_refused_before_anything_is_written(
    pool: Path, tmp_path: Path, name: str, volume_format: str
) -> None:
    said = hostile(tmp_path / "image", name)
    with pytest.raises(BreezeblockError) as refused:
        bring_in(pool, tmp_path / "image", said, volume_format)
    assert "qemu-img" not in refused.value.message
    assert list(pool.iterdir()) == []


@settings(max_examples=60, deadline=None)
@given(damage=st.lists(st.tuples(st.integers(0, 199), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_header_is_refused_or_harmless(
    damage: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("damaged")
    pool = directory / "pool"
    pool.mkdir()
    path = directory / "image"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=True)
    content_of = bytearray(path.read_bytes())
    for offset, value in damage:
        content_of[offset] = value
    path.write_bytes(content_of)
    try:
        made = bring_in(pool, path, "qcow2", "raw")
    except BreezeblockError:
        assert list(pool.iterdir()) == []
    else:
        assert made.stat().st_size == SIZE
        assert not any(made.read_bytes())


@pytest.mark.crash
@pytest.mark.parametrize("volume_format", ["raw", "qcow2"])
def test_killed_anywhere_it_completes_when_run_again(tmp_path: Path, volume_format: str) -> None:
    held = image(tmp_path / "image", "qcow2")
    packages = ("breezeblock.chains", "breezeblock.images", "breezeblock.shares")
    moments = None
    for place in range(10_000):
        pool = tmp_path / f"pool{place}"
        pool.mkdir()
        volume_id = new_id()

        def work() -> object:
            return bring_in(pool, tmp_path / "image", "qcow2", volume_format, volume_id)  # noqa: B023

        moments = moments or trace_lines(work, packages)[::23]
        if place == 0:
            (pool / NAMING.volume(volume_id)).unlink()
        if place == len(moments):
            break
        run_killed_at(work, packages, moments[place])
        made = bring_in(pool, tmp_path / "image", "qcow2", volume_format, volume_id)
        assert content(made, volume_format) == held + bytes(SIZE - len(held))
        chains.sweep(pool, ())
        assert {path.name for path in pool.iterdir()} == {made.name}
    else:
        pytest.fail("it never ended")
