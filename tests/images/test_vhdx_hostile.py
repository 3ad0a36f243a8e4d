"""Files made to harm: bounded time and memory, and one error that says what is wrong at which offset."""

import os
import re
import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
import vhdx_judges as judges
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vhdx_judges import change, make, make_child, pattern

from breezeblock.errors import CorruptError, InvalidInputError
from breezeblock.images import vhdx
from breezeblock.images.file import File, opened
from breezeblock.images.layer import Options
from breezeblock.images.vhdx import layout
from breezeblock.images.vhdx.layout import MIB, seal

HEADERS, TABLES = (64 << 10, 128 << 10), (192 << 10, 256 << 10)
METADATA, BAT = 2 * MIB, 3 * MIB
ITEMS = METADATA + (64 << 10)
SIZE = 4 * MIB + 1024
Mutation = Callable[[bytearray], None]


def reseal(data: bytearray) -> None:
    """Make all checksums right again."""
    for offset in HEADERS:
        data[offset : offset + 4096] = seal(data[offset : offset + 4096])
    for offset in TABLES:
        data[offset : offset + (64 << 10)] = seal(data[offset : offset + (64 << 10)])


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A differencing image with partial blocks, and its parent beside it."""
    directory = tmp_path_factory.mktemp("hostile")
    base = make(directory / "base.vhdx", SIZE, Options(block_bytes=MIB))
    change(base, (0, pattern(1, SIZE)))
    leaf = make_child(directory / "leaf.vhdx", base, Options(block_bytes=MIB))
    change(leaf, (512, pattern(2, 512)), (MIB, pattern(3, MIB)), (3 * MIB, MIB))
    change(leaf, (SIZE - 512, pattern(4, 512)))
    return base, leaf.read_bytes()


def item(number: int) -> int:
    """Where in the file the offset of a metadata entry is."""
    return METADATA + 32 + 32 * number + 16


def value(data: bytearray, number: int) -> int:
    """Where in the file a metadata item is."""
    return METADATA + int(struct.unpack_from("<I", data, item(number))[0])


def poke(where: int | tuple[int, ...], form: str, *values: object) -> Mutation:
    def mutate(data: bytearray) -> None:
        for offset in (where,) if isinstance(where, int) else where:
            struct.pack_into(form, data, offset, *values)

    return mutate


def poke_item(number: int, form: str, *values: object, at: int = 0) -> Mutation:
    def mutate(data: bytearray) -> None:
        struct.pack_into(form, data, value(data, number) + at, *values)

    return mutate


def cut(length: int) -> Mutation:
    def mutate(data: bytearray) -> None:
        del data[length:]

    return mutate


def break_both(*offsets: int) -> Mutation:
    """Flip a bit, with the checksum left wrong."""

    def mutate(data: bytearray) -> None:
        reseal(data)
        for offset in offsets:
            data[offset + 20] ^= 1

    return mutate


def bat(*entries: int, first: int = 0) -> Mutation:
    return poke(BAT + 8 * first, f"<{len(entries)}Q", *entries)


def both(*offsets_in_header: int) -> tuple[int, ...]:
    return tuple(header + offset for header in HEADERS for offset in offsets_in_header)


def regions(offset: int) -> tuple[int, ...]:
    return tuple(table + 16 + offset for table in TABLES)


def locator(old: str, new: str) -> Mutation:
    def mutate(data: bytearray) -> None:
        before, after = old.encode("utf-16-le"), new.encode("utf-16-le")
        assert len(before) == len(after)
        at = data.index(before, METADATA)
        data[at : at + len(before)] = after

    return mutate


def two_current_headers(data: bytearray) -> None:
    poke(both(8), "<Q", 9)(data)
    data[HEADERS[1] + 16] ^= 1


FILES: list[tuple[str, Mutation, str]] = [
    ("empty", cut(0), r"no VHDX signature \(at byte 0\)"),
    ("only the signature", cut(8), "neither of the two headers"),
    ("cut in the headers", cut(100 << 10), "a log of 1048576 bytes at 1048576 cannot be"),
    ("cut in the metadata", cut(METADATA + 100), "a region of 1048576 bytes at 3145728 cannot be"),
    ("cut in the blocks", cut(5 * MIB), r"block \d at \d+ is outside the file"),
    ("no header is right", break_both(*HEADERS), r"neither of the two headers is valid \(at byte 65536\)"),
    ("no table is right", break_both(*TABLES), r"neither copy of the region table .*\(at byte 196608\)"),
    ("two current headers", two_current_headers, "both headers say 9, but differ"),
    ("sequence at its end", poke(both(8)[0], "<Q", (1 << 64) - 1), "sequence number"),
    ("version 2", poke(both(66), "<H", 2), r"version 2 of VHDX .*\(at byte 131138\)"),
    ("unknown log version", poke(both(48), "<16sH", b"x" * 16, 1), "version 1 of the log"),
    ("log in the headers", poke(both(72), "<Q", 0), "a log of 1048576 bytes at 0"),
    ("log behind the end", poke(both(72), "<Q", 1 << 50), "a log of 1048576 bytes at 1125899906842624"),
    ("log without length", poke(both(68), "<I", 0), "a log of 0 bytes"),
    ("log of 4 GiB", poke(both(68), "<I", 0xFFF00000), "a log of 4293918720 bytes"),
    ("log over the metadata", poke(both(68), "<I", 2 * MIB), "two regions overlap at 2097152"),
    ("log that is not there", poke(both(48), "<16s", b"x" * 16), "no unbroken line of entries"),
    ("2048 regions", poke(regions(-8), "<I", 2048), r"2048 regions, at most 2047 .*\(at byte 196616\)"),
    ("20 regions", poke(regions(-8), "<I", 20), r"a region of 0 bytes at 0 .*\(at byte 196688\)"),
    ("no regions", poke(regions(-8), "<I", 0), "the BAT or the metadata region is missing"),
    ("region twice", poke(regions(32), "<16s", layout.BAT_REGION), "same GUID"),
    ("unknown region", poke(regions(32), "<16s", b"x" * 16), "the required region .* is unknown"),
    ("regions overlap", poke(regions(16), "<Q", METADATA), "two regions overlap at 2097152"),
    ("region in the header", poke(regions(16), "<Q", 0), "a region of 1048576 bytes at 0"),
    ("region at odd offset", poke(regions(16), "<Q", BAT + 512), "a region of 1048576 bytes at 3146240"),
    (
        "region behind the end",
        poke(regions(16), "<Q", 1 << 60),
        "a region of 1048576 bytes at 1152921504606846976",
    ),
    ("region without length", poke(regions(24), "<I", 0), "a region of 0 bytes"),
    ("metadata unsigned", poke(METADATA, "<8s", b"METADATA"), "no signature"),
    ("2048 items", poke(METADATA + 10, "<H", 2048), "2048 metadata items, at most 2047"),
    ("no items", poke(METADATA + 10, "<H", 0), f"{layout.guid_text(layout.FILE_PARAMETERS)} is missing"),
    ("item in the table", poke(item(0), "<I", 32), "a metadata item of 8 bytes at 32 cannot be"),
    ("item behind the region", poke(item(1), "<I", 0xFFFFFFF8), "a metadata item of 8 bytes at 4294967288"),
    ("item of 4 GiB", poke(item(5) + 4, "<I", 0xFFFFFFFF), "a metadata item of 4294967295 bytes"),
    ("items overlap", poke(item(1), "<I", (64 << 10) + 4), "two metadata items overlap"),
    ("item twice", poke(item(1) - 16, "<16s", layout.FILE_PARAMETERS), "is there twice"),
    ("unknown item", poke(item(4) - 16, "<16s", b"x" * 16), "the required metadata item .* is unknown"),
    ("item too short", poke(item(1) + 4, "<I", 4), "has 4 bytes, not 8"),
    ("unfinished", poke(item(4) - 16, "<16s", layout.INCOMPLETE_FILE), "never finished"),
    ("blocks of 0", poke_item(0, "<I", 0), "blocks of 0 bytes cannot be"),
    ("blocks of 3", poke_item(0, "<I", 3), "blocks of 3 bytes cannot be"),
    ("blocks of 2 GiB", poke_item(0, "<I", 1 << 31), "blocks of 2147483648 bytes cannot be"),
    ("disk of nothing", poke_item(1, "<Q", 0), "a disk of 0 bytes"),
    ("disk of 16 EiB", poke_item(1, "<Q", (1 << 64) - 512), "a disk of 18446744073709551104 bytes"),
    ("disk of half a sector", poke_item(1, "<Q", 4 * MIB + 256), "a disk of 4194560 bytes"),
    ("disk of 64 TiB", poke_item(1, "<Q", 64 << 40), "the BAT has room for 131072 of 67125248 entries"),
    ("sectors of 513", poke_item(3, "<I", 513), "sectors of 513 bytes"),
    ("physical sectors of 0", poke_item(4, "<I", 0), "sectors of 0 bytes"),
    ("locator of another type", poke_item(5, "<16s", b"x" * 16), "the parent locator's type"),
    ("locator of 60000 pairs", poke_item(5, "<H", 60000, at=18), "a parent locator of 60000 pairs"),
    ("text outside the locator", poke_item(5, "<I", 0xFFFFFFFF, at=20), "a text of 28 bytes at 4294967295"),
    ("text of odd length", poke_item(5, "<H", 27, at=28), "a text of 27 bytes"),
    ("no linkage", locator("parent_linkage", "parent_linkagE"), "no parent_linkage"),
    ("linkage is no GUID", locator("{", "["), "no GUID"),
    ("no locator", poke(METADATA + 10, "<H", 5), "there is a parent, but no parent locator"),
    ("block behind the end", bat(6 | 1 << 40), "block 0 at 1099511627776 is outside the file"),
    ("block in the headers", bat(6), "block 0 at 0 is outside the file or in its tables"),
    ("block in the BAT", bat(6 | BAT), "block 0 at 3145728 is outside the file or in its tables"),
    ("state 4", bat(4 | 4 * MIB), r"block 0 has the impossible state 4 \(at byte 3145728\)"),
    ("state 5", bat(5 | 4 * MIB), "block 0 has the impossible state 5"),
    ("no bitmap", bat(0, first=4096), "block 0 needs a sector bitmap, but there is none"),
    ("bitmap behind the end", bat(6 | 1 << 50, first=4096), "the sector bitmap of block 0 at"),
]


def use(path: Path, parent: Path) -> None:
    """Everything that reads, then everything that writes. Must end, or raise one of our errors."""
    with opened(path) as file, opened(parent) as parent_file:
        layer = vhdx.open_layer(file)
        assert layer.details
        list(layer.check())
        if layer.parent:
            layer.verify_parent(vhdx.open_layer(parent_file))
        judges.read_layers([layer, vhdx.open_layer(parent_file)], 0, min(layer.virtual_bytes, 16 * MIB))
        for extent in layer.extents(0, layer.virtual_bytes):
            assert extent.length > 0
            assert extent.at + extent.length <= max(file.size(), extent.length)


def harm(path: Path, _parent: Path) -> None:
    with opened(path, write=True) as file:
        layer = vhdx.open_layer(file)
        end = layer.virtual_bytes
        judges.put(layer, 0, b"x" * layer.sector_bytes)
        layer.zero(0, min(end, 2 * MIB))
        layer.commit()
        layer.grow(min(end + MIB // 2, 64 << 40) // 4096 * 4096 + layer.sector_bytes)
        layer.repair()
        list(layer.check())


@pytest.mark.parametrize(("mutation", "says"), [case[1:] for case in FILES], ids=[case[0] for case in FILES])
def test_a_file_that_is_wrong(
    tmp_path: Path, healthy: tuple[Path, bytes], mutation: Mutation, says: str
) -> None:
    base, good = healthy
    data = bytearray(good)
    mutation(data)
    if "break_both" not in mutation.__qualname__ and len(data) > 320 << 10:
        reseal(data)
    path = tmp_path / "bad.vhdx"
    path.write_bytes(data)
    with pytest.raises(CorruptError, match=r"bad\.vhdx: ") as caught:
        use(path, base)
    assert re.search(says, caught.value.message), caught.value.message
    assert re.search(r"\(at byte \d+\)\.$", caught.value.message)
    assert caught.value.remedy
    assert path.read_bytes() == data


def test_the_good_file_is_good(tmp_path: Path, healthy: tuple[Path, bytes]) -> None:
    base, good = healthy
    path = tmp_path / "good.vhdx"
    path.write_bytes(good)
    use(path, base)
    harm(path, base)


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ((6 | 4 * MIB, 6 | 4 * MIB), "is used twice"),
        ((7 | 4 * MIB, 6 | 5 * MIB, 6 | 6 * MIB, 6 | 5 * MIB), "is used twice"),
    ],
)
def test_blocks_that_overlap_are_found_before_anything_is_written(
    tmp_path: Path, healthy: tuple[Path, bytes], entries: tuple[int, ...], says: str
) -> None:
    data = bytearray(healthy[1])
    bat(*entries)(data)
    bat(0, 0, 0, first=len(entries))(data)
    path = tmp_path / "bad.vhdx"
    path.write_bytes(data)
    with opened(path, write=True) as file:
        layer = vhdx.open_layer(file)
        assert [problem for problem in layer.check() if says in problem.text and not problem.repairable]
        with pytest.raises(CorruptError, match=says):
            list(layer.place(4 * MIB, 512))
    assert path.read_bytes()[METADATA:] == data[METADATA:]


@pytest.mark.parametrize("which", [HEADERS[0], HEADERS[1], TABLES[0], TABLES[1]])
def test_one_copy_that_is_wrong_is_repaired(tmp_path: Path, which: int) -> None:
    path = make(tmp_path / "a.vhdx", 4 * MIB, Options(block_bytes=MIB))
    change(path, (0, pattern(1, 512)))
    data = bytearray(path.read_bytes())
    data[which + 100] ^= 1
    path.write_bytes(data)
    expected = pattern(1, 512).ljust(4 * MIB, b"\0")
    assert judges.ours(path) == expected
    with opened(path, write=True) as file:
        layer = vhdx.open_layer(file)
        assert [problem.repairable for problem in layer.check()] == [True]
        assert len(layer.repair()) == 1
        assert list(layer.check()) == []
        assert layer.repair() == []
    judges.agree(expected, path)


def test_a_path_in_a_locator_is_told_and_not_followed(tmp_path: Path, healthy: tuple[Path, bytes]) -> None:
    data = bytearray(healthy[1])
    locator(".\\base.vhdx", "..\\etc\\pass")(data)
    path = tmp_path / "leaf.vhdx"
    path.write_bytes(data)
    with opened(path) as file:
        parent = vhdx.open_layer(file).parent
    assert parent
    assert parent.paths == ("..\\etc\\pass",)


def test_a_sparse_file_of_many_terabytes(tmp_path: Path) -> None:
    """Tables for 64 TiB in small blocks, in a file that claims to be as long."""
    path = make(tmp_path / "big.vhdx", 64 << 40, Options(block_bytes=MIB))
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with opened(path, write=True) as file:
        file.truncate(15 << 40)
        layer = vhdx.open_layer(file)
        assert [extent.length for extent in layer.extents(0, layer.virtual_bytes)] == [64 << 40]
        assert [problem.repairable for problem in layer.check()] == [True]
        judges.put(layer, (64 << 40) - 512, b"x" * 512)
        layer.commit()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
    assert time.monotonic() - start < 60  # it takes one second: this only tells that it ends


def test_a_file_longer_than_any_disk_needs(tmp_path: Path) -> None:
    """No file system here has so much room: the length is all that is made up."""

    class Endless(File):
        def size(self) -> int:
            return 1 << 62

    path = make(tmp_path / "a.vhdx", 4 * MIB)
    with opened(path) as file, pytest.raises(CorruptError, match="a file of 4611686018427387904 bytes"):
        vhdx.open_layer(Endless(file.fd, path.name))


FIELDS = (
    *((header + at, 8) for header in HEADERS for at in (8, 48, 72)),
    *((header + at, 2) for header in HEADERS for at in (64, 66, 68, 70)),
    *((table + at, 8) for table in TABLES for at in (16, 32, 48, 64)),
    *((table + at, 4) for table in TABLES for at in (8, 40, 44, 72, 76)),
    (METADATA + 10, 2),
    *((item(number) + at, 4) for number in range(6) for at in (-16, 0, 4, 8)),
    *((ITEMS + at, 4) for at in range(0, 200, 4)),
    *((BAT + at, 8) for at in (0, 8, 16, 24, 32, 4096 * 8)),
)
NUMBERS = st.one_of(
    st.integers(0, 8),
    st.integers(0, 64).map(lambda bit: (1 << bit) - 1),
    st.integers(0, 63).map(lambda bit: 1 << bit),
    st.builds(lambda mib, low: mib * MIB | low, st.integers(0, 16), st.integers(0, 7)),
    st.integers(0, (1 << 64) - 1),
)


@settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "150")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(changes=st.lists(st.tuples(st.sampled_from(FIELDS), NUMBERS), min_size=1, max_size=4))
def test_resealed_fields_of_any_value(
    tmp_path: Path, healthy: tuple[Path, bytes], changes: list[tuple[tuple[int, int], int]]
) -> None:
    base, good = healthy
    data = bytearray(good)
    for (offset, size), number in changes:
        data[offset : offset + size] = (number & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    reseal(data)
    path = tmp_path / f"{uuid4()}.vhdx"
    path.write_bytes(data)
    for action in (use, harm):
        told = path.name
        try:
            action(path, base)
        except (CorruptError, InvalidInputError) as error:
            told = error.message
        assert path.name in told
    assert path.stat().st_blocks * 512 < 64 * MIB
    path.unlink()
