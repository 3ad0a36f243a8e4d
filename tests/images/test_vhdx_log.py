"""Rings of log entries, made by hand: which of them are replayed, and that QEMU agrees."""

import struct
import subprocess
from pathlib import Path
from uuid import UUID, uuid4

import google_crc32c
import pytest
import vhdx_judges as judges
from hypothesis import given, settings
from hypothesis import strategies as st
from vhdx_judges import make, pattern

from breezeblock.errors import CorruptError
from breezeblock.images import vhdx
from breezeblock.images.file import opened
from breezeblock.images.layer import Options
from breezeblock.images.vhdx import log
from breezeblock.images.vhdx.layout import LOG_DATA, LOG_ENTRY, LOG_SECTOR, LOG_ZERO, MIB, PAGE

RING = MIB
Write = tuple[int, bytes | int]


def entry(guid: UUID, sequence: int, tail: int, writes: list[Write], file_bytes: int) -> bytes:
    """One entry, encoded from the specification and not by the code under test."""
    front = bytearray(-(-(64 + 32 * len(writes)) // PAGE) * PAGE)
    sectors = b""
    for number, (offset, what) in enumerate(writes):
        if isinstance(what, int):
            LOG_ZERO.pack_into(front, 64 + 32 * number, b"zero", 0, what, offset, sequence)
        else:
            LOG_DATA.pack_into(front, 64 + 32 * number, b"desc", what[-4:], what[:8], offset, sequence)
            sectors += LOG_SECTOR.pack(b"data", sequence >> 32, what[8:-4], sequence & 0xFFFFFFFF)
    data = bytearray(front + sectors)
    LOG_ENTRY.pack_into(
        data, 0, b"loge", 0, len(data), tail, sequence, len(writes), 0, guid.bytes_le, file_bytes, file_bytes
    )
    struct.pack_into("<I", data, 4, google_crc32c.value(bytes(data)))
    return bytes(data)


def lay(path: Path, guid: UUID, parts: list[tuple[int, bytes]]) -> None:
    """Put bytes into the ring, which wraps, and let both headers name the log."""
    data = bytearray(path.read_bytes())
    for at, part in parts:
        for start in range(0, len(part), PAGE):
            where = MIB + (at + start) % RING
            data[where : where + PAGE] = part[start : start + PAGE]
    for offset in (64 << 10, 128 << 10):
        data[offset + 48 : offset + 64] = guid.bytes_le
        data[offset + 4 : offset + 8] = bytes(4)
        struct.pack_into("<I", data, offset + 4, google_crc32c.value(bytes(data[offset : offset + PAGE])))
    path.write_bytes(data)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A disk of three blocks, all present, whose bytes tell which is which."""
    path = make(tmp_path / "a.vhdx", 3 * MIB, Options(block_bytes=MIB))
    judges.change(path, (0, pattern(1, 3 * MIB)))
    return path


def bat_page(places: list[int], order: list[int]) -> bytes:
    """A first page of the BAT in which the blocks lie in another order."""
    return struct.pack("<3Q", *(places[number] for number in order)).ljust(PAGE, b"\0")


def look(path: Path) -> tuple[int, list[int]]:
    """Where the BAT is, and its entries."""
    with opened(path) as file:
        image = vhdx.open_layer(file).image
        return image.regions.bat.offset, [image.entry(index) for index in range(3)]


def block_order(path: Path) -> list[int]:
    data = judges.ours(path)
    whole = pattern(1, 3 * MIB)
    return [
        next(n for n in range(3) if whole[n * MIB : n * MIB + 99] == data[b * MIB : b * MIB + 99])
        for b in range(3)
    ]


def replayed_by_all(path: Path) -> bytes:
    """What the disk reads as through the log, replayed by QEMU, and replayed by us: all the same."""
    through = judges.ours(path)
    copy = path.with_name("copy.vhdx")
    copy.write_bytes(path.read_bytes())
    subprocess.run(["qemu-img", "check", "-q", "-r", "all", "-f", "vhdx", copy], check=True)
    with opened(path, write=True) as file:
        vhdx.open_layer(file).repair()
    assert through == judges.ours(path) == judges.qemu(path) == judges.qemu(copy)
    return through


@pytest.mark.parametrize("start", [0, 40 * PAGE, RING - 3 * PAGE, RING - PAGE])
def test_a_line_of_entries_that_wraps(disk: Path, start: int) -> None:
    (bat, places), guid, size = look(disk), uuid4(), disk.stat().st_size
    at = start
    parts = []
    for sequence, order in enumerate(([1, 0, 2], [2, 1, 0], [1, 2, 0]), start=7):
        parts.append((at, entry(guid, sequence, start, [(bat, bat_page(places, order))], size)))
        at += 2 * PAGE
    lay(disk, guid, [(one % RING, data) for one, data in parts])
    assert block_order(disk) == [1, 2, 0]
    replayed_by_all(disk)


def test_a_torn_newest_entry_does_not_count(disk: Path) -> None:
    (bat, places), guid, size = look(disk), uuid4(), disk.stat().st_size
    torn = bytearray(entry(guid, 2, 0, [(bat, bat_page(places, [2, 1, 0]))], size))
    torn[-100] ^= 1
    lay(
        disk,
        guid,
        [(0, entry(guid, 1, 0, [(bat, bat_page(places, [1, 0, 2]))], size)), (2 * PAGE, bytes(torn))],
    )
    assert block_order(disk) == [1, 0, 2]
    replayed_by_all(disk)


def test_an_entry_whose_tail_was_overwritten_does_not_count(disk: Path) -> None:
    (bat, places), guid, size = look(disk), uuid4(), disk.stat().st_size
    parts = [
        (0, entry(guid, 5, 0, [(bat, bat_page(places, [1, 0, 2]))], size)),
        # Its line would begin with entry 6, which is not there.
        (10 * PAGE, entry(guid, 7, 8 * PAGE, [(bat, bat_page(places, [2, 1, 0]))], size)),
    ]
    lay(disk, guid, parts)
    assert block_order(disk) == [1, 0, 2]


def test_entries_of_an_earlier_time_do_not_count(disk: Path) -> None:
    (bat, places), guid, size = look(disk), uuid4(), disk.stat().st_size
    parts = [
        (0, entry(guid, 1, 0, [(bat, bat_page(places, [1, 0, 2]))], size)),
        (2 * PAGE, entry(uuid4(), 2, 0, [(bat, bat_page(places, [2, 1, 0]))], size)),
    ]
    lay(disk, guid, parts)
    assert block_order(disk) == [1, 0, 2]
    replayed_by_all(disk)


def test_zero_descriptors_and_the_order_of_writes(disk: Path) -> None:
    (bat, places), guid, size = look(disk), uuid4(), disk.stat().st_size
    first: list[Write] = [(bat, bat_page(places, [1, 0, 2])), (bat + PAGE, b"x" * PAGE)]
    second: list[Write] = [(bat, 2 * PAGE)]
    third: list[Write] = [(bat, bat_page(places, [0, 2, 1]))]
    parts, at = [], 0
    for sequence, writes in enumerate((first, second, third), start=1):
        part = entry(guid, sequence, 0, writes, size)
        parts.append((at, part))
        at += len(part)
    lay(disk, guid, parts)
    assert block_order(disk) == [0, 2, 1]
    assert replayed_by_all(disk)
    data = disk.read_bytes()
    assert data[bat + 24 : bat + 2 * PAGE] == bytes(2 * PAGE - 24)


@pytest.mark.parametrize("count", [126, 127, 200])
def test_as_many_descriptors_as_the_first_sector_holds_and_more(disk: Path, count: int) -> None:
    (bat, places), guid, size = look(disk), uuid4(), disk.stat().st_size
    writes: list[Write] = [(2 * MIB + PAGE * (32 + n), bytes([n + 1]) * PAGE) for n in range(count - 1)]
    lay(disk, guid, [(0, entry(guid, 1, 0, [(bat, bat_page(places, [2, 0, 1])), *writes], size))])
    assert block_order(disk) == [2, 0, 1]
    if count <= log.MAX_PAGES:  # QEMU cannot do more
        replayed_by_all(disk)
    with opened(disk, write=True) as file:
        vhdx.open_layer(file).repair()
    assert block_order(disk) == [2, 0, 1]
    data = disk.read_bytes()
    for offset, what in writes:
        assert data[offset : offset + PAGE] == what


def test_the_log_grows_the_file(disk: Path) -> None:
    (bat, places), guid, size = look(disk), uuid4(), disk.stat().st_size
    page = struct.pack("<3Q", *places[:2], size | 6).ljust(PAGE, b"\0")
    lay(disk, guid, [(0, entry(guid, 1, 0, [(bat, page)], size + MIB - 512))])
    with opened(disk) as file, pytest.raises(CorruptError, match="cut short: its log knows"):
        vhdx.open_layer(file)
    data = bytearray(entry(guid, 1, 0, [(bat, page)], size + MIB - 512))  # QEMU only heeds odd lengths
    data[48:56] = struct.pack("<Q", size)
    data[4:8] = bytes(4)
    struct.pack_into("<I", data, 4, google_crc32c.value(bytes(data)))
    lay(disk, guid, [(0, bytes(data))])
    assert replayed_by_all(disk)[2 * MIB :] == bytes(MIB)


@pytest.mark.parametrize(
    ("writes", "says"),
    [
        ([(0, PAGE)], "a log entry writes 4096 bytes at 0"),
        ([(128 << 10, b"x" * PAGE)], "a log entry writes 4096 bytes at 131072"),
        ([(MIB + PAGE, b"x" * PAGE)], "a log entry writes 4096 bytes at 1052672"),
        ([(3 * MIB + 512, b"x" * PAGE)], "a log entry writes"),
        ([(3 * MIB, 1 << 50)], "a log entry writes 1125899906842624 bytes"),
        ([(1 << 40, b"x" * PAGE)], "a log entry writes 4096 bytes at 1099511627776"),
    ],
)
def test_logs_that_write_where_they_must_not(disk: Path, writes: list[Write], says: str) -> None:
    guid = uuid4()
    lay(disk, guid, [(0, entry(guid, 1, 0, writes, disk.stat().st_size))])
    with opened(disk) as file, pytest.raises(CorruptError, match=says):
        vhdx.open_layer(file)


def test_a_log_that_is_named_but_not_there(disk: Path) -> None:
    lay(disk, uuid4(), [])
    with opened(disk) as file, pytest.raises(CorruptError, match="no unbroken line of entries"):
        vhdx.open_layer(file)


def test_entries_made_to_stall_us(disk: Path) -> None:
    """Every sector claims to begin an entry as long as the ring: the checksums are not all computed."""
    guid = uuid4()
    head = bytearray(PAGE)
    LOG_ENTRY.pack_into(head, 0, b"loge", 0, RING, 0, 1, 1, 0, guid.bytes_le, 0, 0)
    lay(disk, guid, [(at, bytes(head)) for at in range(0, RING, PAGE)])
    with opened(disk) as file, pytest.raises(CorruptError, match="overlap"):
        vhdx.open_layer(file)


def test_many_entries_with_broken_lines(disk: Path) -> None:
    """Each names a tail far behind it, and the line back is broken just before it."""
    guid, size = uuid4(), disk.stat().st_size
    bat = 3 * MIB
    parts = []
    for number in range(100):
        broken = number % 10 == 5
        sequence = 1000 - number if broken else number + 1
        parts.append((number * 2 * PAGE, entry(guid, sequence, 0, [(bat, b"\0" * PAGE)], size)))
    lay(disk, guid, parts)
    with opened(disk) as file:
        replay = vhdx.open_layer(file).image.view.replay
    assert replay
    assert [order for order, _ in replay.pages.values()] == [4]


@settings(max_examples=40, deadline=None)
@given(
    pages=st.dictionaries(
        st.integers(0, 300).map(lambda page: 3 * MIB + page * PAGE),
        st.binary(min_size=1, max_size=64).map(lambda data: (data * PAGE)[:PAGE]),
        min_size=1,
        max_size=log.MAX_PAGES,
    )
)
def test_what_is_built_is_what_the_specification_says(pages: dict[int, bytes]) -> None:
    guid = uuid4()
    assert log.build(pages, guid, 9 * MIB) == entry(guid, 1, 0, sorted(pages.items()), 9 * MIB)
