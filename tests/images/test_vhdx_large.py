"""Growing, also when the block table must move, and disks of up to 64 TiB in little memory."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import pyvhdi
import vhdx_judges as judges
from vhdx_crash import Journal, put_back, states
from vhdx_judges import MIB, change, make, make_child, pattern

from breezeblock.errors import InvalidInputError
from breezeblock.images import vhdx
from breezeblock.images.file import opened
from breezeblock.images.layer import Kind, Options
from sevenzip import seven_zip

GIB, TIB = 1 << 30, 1 << 40


def grow(path: Path, virtual_bytes: int) -> None:
    with opened(path, write=True) as file:
        layer = vhdx.open_layer(file)
        layer.grow(virtual_bytes)
        assert layer.virtual_bytes == virtual_bytes
        assert list(layer.check()) == []


def data_of(path: Path) -> list[tuple[int, int]]:
    """Where the disk has data, by us."""
    with opened(path) as file:
        layer = vhdx.open_layer(file)
        parts = layer.extents(0, layer.virtual_bytes)
        return [(one.offset, one.length) for one in parts if one.kind is Kind.DATA]


def read_at(path: Path, *places: int) -> list[bytes]:
    """512 bytes at each place, by us; libvhdi and QEMU must read the same."""
    file = pyvhdi.file()
    file.open(str(path))
    with opened(path) as ours:
        layer = vhdx.open_layer(ours)
        assert file.get_media_size() == layer.virtual_bytes
        found = [judges.read_layers([layer], place, 512) for place in places]
    assert found == [file.read_buffer_at_offset(512, place) for place in places]
    file.close()
    raw = path.with_suffix(".sector")
    for place, content in zip(places, found, strict=True):
        # Here `count` counts from the start of the disk.
        part = [f"skip={place // 512}", f"count={place // 512 + 1}", f"if={path}", f"of={raw}"]
        subprocess.run(["qemu-img", "dd", "-f", "vhdx", "-O", "raw", "bs=512", *part], check=True)
        assert raw.read_bytes() == content
        raw.unlink()
    return found


@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("steps", [(5 * MIB,), (3 * MIB + 4096, 7 * MIB, 20 * MIB - 8192)])
def test_growing_in_place(tmp_path: Path, steps: tuple[int, ...], sector: int, *, fixed: bool) -> None:
    path = make(
        tmp_path / "a.vhdx", 2 * MIB + 4096, Options(fixed=fixed, sector_bytes=sector, block_bytes=MIB)
    )
    expected = pattern(1, 2 * MIB + 4096)
    change(path, (0, expected))
    for number, size in enumerate(steps):
        grow(path, size)
        expected = expected.ljust(size - 4096, b"\0") + pattern(number, 4096)
        change(path, (size - 4096, pattern(number, 4096)))
    assert judges.ours(path) == seven_zip(path) == judges.libvhdi(path) == expected
    if sector == 512:
        assert judges.qemu(path) == expected


def test_bytes_behind_the_end_do_not_come_to_light(tmp_path: Path) -> None:
    path = make(tmp_path / "a.vhdx", MIB + 512, Options(block_bytes=2 * MIB))
    change(path, (0, pattern(1, MIB + 512)))
    data = bytearray(path.read_bytes())
    at = data.index(pattern(1, 512), 4 * MIB)
    data[at + MIB + 512 : at + 2 * MIB] = b"!" * (MIB - 512)
    data[3 * MIB + 8 : 3 * MIB + 800] = b"!" * 792
    path.write_bytes(data)
    grow(path, 6 * MIB)
    judges.agree(pattern(1, MIB + 512).ljust(6 * MIB, b"\0"), path)


def test_growing_a_child_and_writing_there(tmp_path: Path) -> None:
    base = make(tmp_path / "base.vhdx", 3 * MIB + 512, Options(block_bytes=MIB))
    change(base, (0, pattern(1, 3 * MIB + 512)))
    leaf = make_child(tmp_path / "leaf.vhdx", base, Options(block_bytes=2 * MIB))
    change(leaf, (3 * MIB - 512, pattern(2, 1024)))
    grow(leaf, 8 * MIB)
    change(leaf, (3 * MIB + 1024, pattern(3, 512)), (8 * MIB - 512, pattern(4, 512)))
    expected = bytearray(pattern(1, 3 * MIB + 512).ljust(8 * MIB, b"\0"))
    for offset, data in (
        (3 * MIB - 512, pattern(2, 1024)),
        (3 * MIB + 1024, pattern(3, 512)),
        (8 * MIB - 512, pattern(4, 512)),
    ):
        judges.splice(expected, offset, data)
    assert judges.ours(leaf, base) == bytes(expected)
    # Others read a child that is longer than its parent in their own ways: let the parent grow, too.
    grow(base, 8 * MIB)
    judges.agree(bytes(expected), leaf, base)


@pytest.mark.parametrize("bad", [4 * MIB - 512, 5 * MIB + 1, 64 * TIB + 512])
def test_what_growing_refuses(tmp_path: Path, bad: int) -> None:
    path = make(tmp_path / "a.vhdx", 4 * MIB)
    before = path.read_bytes()
    with opened(path, write=True) as file, pytest.raises(InvalidInputError, match="cannot become"):
        vhdx.open_layer(file).grow(bad)
    assert path.read_bytes() == before


def test_moving_the_table(tmp_path: Path) -> None:
    """A BAT of 1 MiB has room for 128 GiB in blocks of 1 MiB."""
    path = make(tmp_path / "a.vhdx", GIB, Options(block_bytes=MIB))
    places = (0, 700 * MIB, GIB - 512)
    change(path, *((place, pattern(place, 512)) for place in places))
    grow(path, 300 * GIB + 512)
    change(path, (300 * GIB, pattern(9, 512)), (200 * GIB, pattern(8, 512)))
    expected = [pattern(place, 512) for place in places] + [pattern(8, 512), bytes(512), pattern(9, 512)]
    assert read_at(path, *places, 200 * GIB, 250 * GIB, 300 * GIB) == expected
    grow(path, 2 * TIB)
    assert read_at(path, *places, 200 * GIB, 250 * GIB, 300 * GIB) == expected


def test_moving_the_table_and_being_stopped(tmp_path: Path) -> None:
    path = make(tmp_path / "a.vhdx", GIB, Options(block_bytes=MIB))
    change(path, (GIB - 512, pattern(1, 512)), (0, pattern(2, 512)))
    before = {path.name: path.read_bytes()}
    journal, there = Journal(), data_of(path)
    with opened(path, write=True) as file:
        vhdx.open_layer(journal.file_type(file.fd, path.name)).grow(300 * GIB)
    sizes = set()
    for number, state in enumerate(states(before, journal, random.Random(1), 3)):
        put_back(tmp_path, state)
        with opened(path) as file:
            layer = vhdx.open_layer(file)
            sizes.add(layer.virtual_bytes)
            assert judges.read_layers([layer], GIB - 512, 512) == pattern(1, 512)
        assert data_of(path) == there
        if number % 4 == 0:
            subprocess.run(["qemu-img", "check", "-q", "-r", "all", "-f", "vhdx", path], check=True)
            assert read_at(path, 0, GIB - 512) == [pattern(2, 512), pattern(1, 512)]
    assert sizes == {GIB, 300 * GIB}


WORK = """
import resource, sys
from pathlib import Path
from breezeblock.images import vhdx
from breezeblock.images.file import opened
from breezeblock.images.layer import Kind, Options

path, block, last = Path(sys.argv[1]), int(sys.argv[2]), (64 << 40) - 4096
def child(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
start = child()
path.touch()
with opened(path, write=True) as file:
    vhdx.create(file, 64 << 40, Options(block_bytes=block))
    layer = vhdx.open_layer(file)
    for offset in (0, 1 << 40, 33 << 40, last):
        for at, length in layer.place(offset, 4096):
            file.write(at, b"x" * length)
    layer.commit()
    layer.zero(1 << 40, 4096)
    layer.commit()
    assert list(layer.check()) == []
    found = [one for one in layer.extents(0, 64 << 40) if one.kind is Kind.DATA]
    assert len(found) == 4, found
leaf = path.with_name("leaf.vhdx")
leaf.touch()
with opened(path) as file, opened(leaf, write=True) as other:
    vhdx.create_child(other, vhdx.open_layer(file), path.name, Options(block_bytes=block))
    layer = vhdx.open_layer(other)
    for at, length in layer.place(last, 512):
        other.write(at, b"y" * length)
    layer.commit()
    assert [one.kind for one in layer.extents(0, 64 << 40)] == [Kind.PARENT, Kind.DATA, Kind.PARENT]
    layer.repair()
print(child() - start)
"""


@pytest.mark.parametrize("block_bytes", [MIB, 2 * MIB, 32 * MIB])
def test_memory_for_64_tib(tmp_path: Path, block_bytes: int) -> None:
    """A process of its own, so that nothing else counts."""
    done = subprocess.run(
        [sys.executable, "-c", WORK, tmp_path / "big.vhdx", str(block_bytes)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(done.stdout) < 32 * MIB
    told = subprocess.run(
        ["qemu-img", "info", "-f", "vhdx", "--output=json", tmp_path / "big.vhdx"],
        check=block_bytes == 32 * MIB,  # QEMU reads the whole table into memory
        capture_output=True,
    )
    if told.returncode == 0:
        assert json.loads(told.stdout)["virtual-size"] == 64 * TIB
