"""Files that we write, read by programs that are not ours."""

import random
from pathlib import Path

import pytest
import vhdx_judges as judges
from vhdx_judges import MIB, change, make, make_child, pattern, splice

from breezeblock import images
from breezeblock.errors import CorruptError, InvalidInputError
from breezeblock.images import vhdx
from breezeblock.images.file import opened
from breezeblock.images.layer import Options
from sevenzip import seven_zip

SECTORS = (512, 4096)


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("block_bytes", [None, 1 * MIB, 32 * MIB])
@pytest.mark.parametrize("virtual_bytes", [1 * MIB, 33 * MIB + 1024, 40 * MIB - 4096])
def test_what_is_written_is_read_by_all(
    tmp_path: Path, virtual_bytes: int, block_bytes: int | None, *, fixed: bool
) -> None:
    path = make(tmp_path / "a.vhdx", virtual_bytes, Options(fixed=fixed, block_bytes=block_bytes))
    expected = bytearray(virtual_bytes)
    changes = [
        (0, pattern(1, 512)),
        (virtual_bytes // 2 // 512 * 512, pattern(2, 70 * 512)),
        (virtual_bytes - 1024, pattern(3, 1024)),
    ]
    for offset, data in changes:
        splice(expected, offset, data)
    change(path, *changes)
    # FATtools leaves out the blocks of a dynamic image that are not there.
    judges.agree(bytes(expected), path, by=("seven_zip", "libvhdi", *(["fattools"] if fixed else [])))


def test_an_odd_number_of_sectors(tmp_path: Path) -> None:
    path = make(tmp_path / "a.vhdx", 3 * MIB + 512)
    change(path, (3 * MIB, pattern(1, 512)))
    # 7-Zip refuses an odd number of sectors, whoever wrote the file.
    judges.agree(bytes(3 * MIB) + pattern(1, 512), path, by=("libvhdi",))


@pytest.mark.parametrize("fixed", [False, True])
def test_sectors_of_4096(tmp_path: Path, *, fixed: bool) -> None:
    size = 9 * MIB + 8192
    path = make(tmp_path / "a.vhdx", size, Options(sector_bytes=4096, fixed=fixed))
    expected = bytearray(size)
    for offset in (4096, 5 * MIB - 4096, size - 4096):
        splice(expected, offset, pattern(offset, 4096))
        change(path, (offset, pattern(offset, 4096)))
    # QEMU only knows sectors of 512 bytes.
    assert judges.ours(path) == seven_zip(path) == judges.libvhdi(path) == bytes(expected)
    with opened(path, write=True) as file, pytest.raises(InvalidInputError, match="whole sectors of 4096"):
        list(vhdx.open_layer(file).place(512, 512))


@pytest.mark.parametrize("sector", SECTORS)
def test_a_chain_of_thirty_with_unaligned_runs(tmp_path: Path, sector: int) -> None:
    chance = random.Random(sector)
    size = 21 * MIB + 2 * sector
    paths = [make(tmp_path / "0.vhdx", size, Options(sector_bytes=sector, fixed=True))]
    expected = bytearray(size)
    for number in range(30):
        changes: list[tuple[int, bytes | int]] = []
        for turn in range(6):
            length = chance.choice([1, 1, 2, 3, 5, 9, 40, 4200 if number < 3 else 7]) * sector
            offset = chance.randrange((size - length) // sector + 1) * sector
            if turn == 5:
                changes.append((offset, length))
            else:
                changes.append((offset, pattern(number * 10 + turn, length)))
        for offset, what in changes:
            splice(expected, offset, what)
        change(paths[0], *changes)
        if number < 29:
            paths.insert(0, make_child(tmp_path / f"{number + 1}.vhdx", paths[0]))
    judges.agree(bytes(expected), *paths, by=("seven_zip", "libvhdi", "fattools"))


def test_whole_blocks_and_zeroed_blocks_hide_the_parent(tmp_path: Path) -> None:
    size = 10 * MIB
    base = make(tmp_path / "base.vhdx", size)
    change(base, (0, pattern(1, size)))
    leaf = make_child(tmp_path / "leaf.vhdx", base)
    change(leaf, (2 * MIB, pattern(2, 2 * MIB)), (4 * MIB, 2 * MIB), (6 * MIB + 512, 1024))
    change(leaf, (4 * MIB + 1024, pattern(3, 512)), (0, pattern(4, 512)))
    change(leaf, (0, 2 * MIB), (2 * MIB, 512))
    expected = bytearray(pattern(1, size))
    splice(expected, 0, 2 * MIB)
    splice(expected, 2 * MIB, pattern(2, 2 * MIB))
    splice(expected, 2 * MIB, 512)
    splice(expected, 4 * MIB, 2 * MIB)
    splice(expected, 4 * MIB + 1024, pattern(3, 512))
    splice(expected, 6 * MIB + 512, 1024)
    # libvhdi reads the file's first bytes where a differencing image has zeroed blocks.
    judges.agree(bytes(expected), leaf, base, by=("seven_zip", "fattools"))


def test_space_that_was_given_up_is_used_again(tmp_path: Path) -> None:
    path = make(tmp_path / "a.vhdx", 8 * MIB, Options(block_bytes=MIB))
    change(path, (0, pattern(1, 8 * MIB)))
    length = path.stat().st_size
    expected = bytearray(pattern(1, 8 * MIB))
    for turn in range(4):
        for offset, what in ((turn * MIB, 3 * MIB), (turn * MIB + 512, pattern(turn, MIB)), (5 * MIB, 512)):
            change(path, (offset, what))
            splice(expected, offset, what)
    assert path.stat().st_size <= length
    judges.agree(bytes(expected), path)


def test_a_parent_that_was_written_to_is_refused(tmp_path: Path) -> None:
    base = make(tmp_path / "base.vhdx", 4 * MIB)
    leaf = make_child(tmp_path / "leaf.vhdx", base)
    judges.ours(leaf, base)
    change(base, (0, pattern(1, 512)))
    with pytest.raises(CorruptError, match=r"leaf\.vhdx: it was made for a parent with the DataWriteGuid"):
        judges.ours(leaf, base)


def test_a_child_is_of_its_parents_disk(tmp_path: Path) -> None:
    base = make(tmp_path / "base.vhdx", 4 * MIB, Options(sector_bytes=4096))
    leaf = make_child(tmp_path / "leaf.vhdx", base)
    with opened(base) as base_file, opened(leaf) as leaf_file:
        above, below = vhdx.open_layer(leaf_file), vhdx.open_layer(base_file)
        assert above.details["disk_id"] == below.details["disk_id"]
        assert above.sector_bytes == below.sector_bytes == 4096
        assert above.parent
        assert above.parent.paths == (".\\base.vhdx",)
        assert above.parent.identity == below.identity != above.identity


@pytest.mark.parametrize(
    ("virtual_bytes", "options", "says"),
    [
        (0, Options(), "at most 70368744177664"),
        (513, Options(), "multiple of its sector"),
        (512, Options(sector_bytes=4096), "multiple of its sector"),
        ((64 << 40) + 512, Options(), "64 TiB"),
        (MIB, Options(sector_bytes=1024), "512 or 4096"),
        (MIB, Options(block_bytes=MIB // 2), "from 1 to 256 MiB"),
        (MIB, Options(block_bytes=3 * MIB), "power of two"),
        (MIB, Options(block_bytes=512 * MIB), "from 1 to 256 MiB"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(
    tmp_path: Path, virtual_bytes: int, options: Options, says: str
) -> None:
    with pytest.raises(InvalidInputError, match=says):
        make(tmp_path / "a.vhdx", virtual_bytes, options)


def test_reading_writes_nothing(tmp_path: Path) -> None:
    path = make(tmp_path / "a.vhdx", 4 * MIB)
    change(path, (0, pattern(1, 512)))
    before = path.read_bytes()
    judges.ours(path)
    path.chmod(0o444)
    judges.ours(path)
    assert path.read_bytes() == before


def test_damage_where_a_region_table_holds_nothing_is_reported_and_mended(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhdx"
    images.create(path, "vhdx", 16 * MIB)
    told = images.info(path)
    with path.open("r+b") as file:
        file.seek((192 << 10) + 50_000)
        file.write(b"x")
    assert images.info(path).details == told.details, "the entries are what their checksum says"
    (found,) = images.check(path)
    assert (found.repairable, found.offset) == (True, 192 << 10)
    assert images.repair(path)
    assert images.check(path) == []
