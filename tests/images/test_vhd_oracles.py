"""VHD as programs that are not ours see it, and the other way round. Every sector is compared."""

import random
import subprocess
from pathlib import Path

import oracles
import pytest

from breezeblock import images
from breezeblock.errors import InvalidInputError
from sevenzip import seven_zip

MIB = 1 << 20
ODD_BYTES = 9 * MIB + 3 * 512
"""No multiple of the block, the cluster or the page."""


def content(path: Path) -> bytes:
    return b"".join(images.read(path, 0, images.info(path).virtual_bytes))


def scribble(path: Path, model: bytearray, rng: random.Random, times: int, unit: int) -> None:
    """Write at random places, in runs that end anywhere in `unit` steps."""
    for _ in range(times):
        length = rng.choice([unit, 3 * unit, 9 * unit, 40 * unit, 300 * 1024]) // unit * unit
        offset = rng.randrange(0, len(model) - length) // unit * unit
        data = rng.randbytes(length)
        assert images.write(path, offset, [data]) == length
        model[offset : offset + length] = data


def grown_chain(directory: Path, depth: int, unit: int, virtual_bytes: int = ODD_BYTES) -> list[Path]:
    """Make a chain with writes in every layer; the topmost is first. The model is beside it."""
    rng = random.Random(depth * unit)
    model = bytearray(virtual_bytes)
    paths = [directory / "base.vhd"]
    images.create(paths[0], "vhd", virtual_bytes)
    scribble(paths[0], model, rng, 6, unit)
    for level in range(1, depth):
        paths.insert(0, directory / f"child-{level}.vhd")
        images.create_child(paths[0], paths[1])
        scribble(paths[0], model, rng, 6, unit)
    (directory / "model").write_bytes(model)
    return paths


@pytest.mark.parametrize("unit", [1, 512])
def test_7zip_and_fattools_read_our_chain_with_runs_that_end_anywhere(tmp_path: Path, unit: int) -> None:
    paths = grown_chain(tmp_path, 4, unit)
    expected = (tmp_path / "model").read_bytes()
    assert content(paths[0]) == expected
    assert seven_zip(paths[0]) == expected
    assert oracles.fattools("read", paths[0]) == expected
    assert images.check(paths[0]) == []


def test_libvhdi_reads_our_chain(tmp_path: Path) -> None:
    # In runs of 8 sectors: within a bitmap's byte libvhdi 20260901 reads the rest of the byte wrong.
    paths = grown_chain(tmp_path, 4, 4096, 9 * MIB)
    expected = (tmp_path / "model").read_bytes()
    assert oracles.libvhdi(*paths) == expected == seven_zip(paths[0])


def test_a_chain_thirty_deep(tmp_path: Path) -> None:
    paths = grown_chain(tmp_path, 30, 512)
    expected = (tmp_path / "model").read_bytes()
    assert content(paths[0]) == expected
    assert seven_zip(paths[0]) == expected
    assert len(images.chain(paths[0])) == 30


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("creator", ["windows", "xen"])
def test_all_read_images_without_a_parent(tmp_path: Path, fixed: bool, creator: str) -> None:
    virtual_bytes = ODD_BYTES if creator == "windows" else 8 * MIB
    path, model = tmp_path / "one.vhd", bytearray(virtual_bytes)
    images.create(path, "vhd", virtual_bytes, images.Options(fixed=fixed, creator=creator))
    scribble(path, model, random.Random(5), 10, 512)
    assert content(path) == model
    assert oracles.qemu(path, "vpc") == model, "QEMU takes the geometry for the size of unknown creators"
    assert seven_zip(path) == model
    assert oracles.libvhdi(path) == model
    if creator == "windows":  # FATtools takes no creator's system but Windows and Mac
        assert oracles.fattools("read", path) == model


def test_we_read_what_qemu_wrote(tmp_path: Path) -> None:
    raw, model = tmp_path / "m.raw", bytearray(8 * MIB)
    random.Random(2).shuffle(model)
    model[3 * MIB : 4 * MIB] = random.Random(1).randbytes(MIB)
    raw.write_bytes(model)
    for kind in ("dynamic", "fixed"):
        path = tmp_path / f"{kind}.vhd"
        options = f"subformat={kind},force_size=on"
        argv = ["qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", options, str(raw), str(path)]
        subprocess.run(argv, check=True)
        assert images.info(path).virtual_bytes == len(model)
        assert content(path) == model
        images.write(path, 5 * MIB - 100, [b"x" * 200])
        model[5 * MIB - 100 : 5 * MIB + 100] = b"x" * 200
        assert oracles.qemu(path, "vpc") == model == content(path)
        raw.write_bytes(model)


def test_we_read_and_go_on_with_chains_that_fattools_wrote(tmp_path: Path) -> None:
    base, child, model = tmp_path / "base.vhd", tmp_path / "child.vhd", bytearray(8 * MIB)
    rng = random.Random(9)
    oracles.fattools("dynamic", base, len(model))
    for path in (base, child):
        for _ in range(4):
            offset, data = rng.randrange(0, 7 * MIB) // 512 * 512, rng.randbytes(512 * 700)
            oracles.fattools("write", path, offset, data=data)
            model[offset : offset + len(data)] = data
        assert content(path) == model
        if path == base:
            oracles.fattools("child", child, base.name)
    scribble(child, model, rng, 5, 512)
    assert oracles.fattools("read", child) == model == seven_zip(child)
    grandchild = tmp_path / "grandchild.vhd"
    images.create_child(grandchild, child)
    scribble(grandchild, model, rng, 5, 512)
    assert oracles.fattools("read", grandchild) == model == seven_zip(grandchild)


def test_after_every_verb_7zip_still_reads_the_whole_chain(tmp_path: Path) -> None:
    paths = grown_chain(tmp_path, 5, 512)
    expected = (tmp_path / "model").read_bytes()
    top = paths[0]
    images.merge(paths[2])
    images.reparent(paths[1], paths[3])
    paths[2].unlink()
    assert seven_zip(top) == expected
    assert images.merge(paths[1], replace_child=True) == paths[1]
    assert not paths[3].exists()
    assert seven_zip(top) == expected
    images.grow(top, 300 * MIB)
    assert seven_zip(top) == expected + bytes(300 * MIB - len(expected))
    images.flatten(top)
    assert len(images.chain(top)) == 1
    assert seven_zip(top) == content(top) == expected + bytes(300 * MIB - len(expected))
    assert oracles.qemu(top, "vpc") == content(top)
    assert images.check(top) == []


def test_a_raw_parent_as_xenserver_has_it(tmp_path: Path) -> None:
    raw, child = tmp_path / "base.raw", tmp_path / "child.vhd"
    model = bytearray(random.Random(4).randbytes(6 * MIB))
    raw.write_bytes(model)
    images.create_child(child, raw, "vhd", "raw", images.Options(creator="xen"))
    scribble(child, model, random.Random(6), 8, 512)
    assert content(child) == model
    images.merge(child)
    assert raw.read_bytes() == model


def test_xenserver_images_keep_a_sound_batmap(tmp_path: Path) -> None:
    base, child = tmp_path / "base.vhd", tmp_path / "child.vhd"
    images.create(base, "vhd", 64 * MIB, images.Options(creator="xen"))
    images.create_child(child, base)
    assert images.info(child).details["creator"] == "tap"
    images.write(child, MIB, [b"z" * 5 * MIB])
    images.grow(child, 4096 * MIB)
    assert images.check(child) == []
    with child.open("r+b") as file:
        data = file.read()
        at = data.rindex(b"tdbatmap")
        file.seek(at + 512)
        file.write(b"\xff")
    (found,) = images.check(child)
    assert "batmap" in found.text
    assert found.repairable
    assert len(images.repair(child)) == 1
    assert images.check(child) == []


@pytest.mark.parametrize("virtual_bytes", [0, 1, 513, (2040 << 30) + 512])
def test_sizes_that_vhd_cannot_hold_are_refused(tmp_path: Path, virtual_bytes: int) -> None:
    with pytest.raises(InvalidInputError, match="2040 GiB"):
        images.create(tmp_path / "x.vhd", "vhd", virtual_bytes)
    assert list(tmp_path.iterdir()) == []


def test_the_largest_vhd(tmp_path: Path) -> None:
    path = tmp_path / "large.vhd"
    images.create(path, "vhd", 2040 << 30)
    images.write(path, (2040 << 30) - 512, [b"e" * 512])
    assert b"".join(images.read(path, (2040 << 30) - 1024, 1024)) == bytes(512) + b"e" * 512
    assert images.check(path) == []
    subprocess.run(["qemu-img", "info", "-f", "vpc", str(path)], check=True, capture_output=True)
