"""What can be wrong in a VHD, and mending what can be mended without loss."""

from collections.abc import Iterator
from itertools import islice, pairwise
from typing import TYPE_CHECKING

from breezeblock.errors import CorruptError
from breezeblock.images.layer import Problem, corrupt
from breezeblock.images.vhd import batmap
from breezeblock.images.vhd.records import HEADER_BYTES, SECTOR, Type, parse_footer
from breezeblock.images.vhd.table import ABSENT, padded

if TYPE_CHECKING:
    from breezeblock.images.vhd.vhd import Vhd

_MOST = 50
"""Problems with blocks that are told: each takes a search, and a hostile file has millions."""


def check(image: "Vhd") -> Iterator[Problem]:
    """Yield what is wrong in one file."""
    file, footer = image.file, image.footer
    size = file.size()
    if image.header is None:
        if size != footer.current_bytes + SECTOR:
            yield Problem("the file is longer than the disk and its footer", footer.current_bytes, False)
        return
    expected = footer.pack()
    for where, at in (("start", 0), ("end", size - SECTOR)):
        if not _same(image, at, expected):
            yield Problem(f"the footer at the {where} is missing or differs from the other", at, True)
    yield from islice(_blocks(image), _MOST)
    used = end_of_use(image)
    if size - SECTOR - used >= image.table.stride:
        yield Problem(f"{size - SECTOR - used} bytes at the end belong to nothing", used, True)
    yield from _batmap(image)


def _same(image: "Vhd", at: int, expected: bytes) -> bool:
    try:
        return parse_footer(image.file, image.file.peek(at, SECTOR), at).pack() == expected
    except CorruptError:
        return False


def require_sound(image: "Vhd") -> None:
    """Raise CorruptError if writing could destroy something: blocks that overlap or lie on tables."""
    problem = next(_blocks(image), None)
    if problem:
        raise corrupt(image.file, problem.text, problem.offset)


def _blocks(image: "Vhd") -> Iterator[Problem]:
    """Yield BAT entries that point to impossible places. Sorted numbers: 100 ms for 2040 GiB."""
    table, size = image.table, image.file.size()
    length = table.bitmap_bytes + table.header.block_bytes
    places = sorted(entry for entry in table.entries if entry != ABSENT)
    regions = sorted(_regions(image))
    for before, after in pairwise(places):
        if after * SECTOR < before * SECTOR + length:
            index = table.entries.index(after)
            text = f"block {index} at {after * SECTOR} overlaps another at {before * SECTOR}"
            yield Problem(text, table.header.bat_offset + index * 4, False)
    for entry in places:
        if entry * SECTOR + length <= size and entry * SECTOR >= regions[-1][1]:
            break  # sorted, and beyond all tables: only the end of the file is left to look at
        yield from _block(image, entry, length, size, regions)
    for entry in reversed(places):
        if entry * SECTOR + length <= size:
            break
        yield from _block(image, entry, length, size, [])


def _block(
    image: "Vhd", entry: int, length: int, size: int, regions: list[tuple[int, int, str]]
) -> Iterator[Problem]:
    index = image.table.entries.index(entry)
    at, place = entry * SECTOR, image.table.header.bat_offset + index * 4
    if at + length > size:
        yield Problem(f"block {index} at {at} is not inside the file of {size} bytes", place, False)
    for start, end, what in regions:
        if at < end and start < at + length:
            yield Problem(f"block {index} at {at} lies on {what} at {start}", place, False)


def _regions(image: "Vhd") -> Iterator[tuple[int, int, str]]:
    """Yield (start, end, what) of everything that is not a block, except the footer at the end."""
    header, at = image.table.header, image.footer.data_offset
    yield 0, SECTOR, "the footer"
    yield at, at + HEADER_BYTES, "the header"
    yield header.bat_offset, header.bat_offset + padded(header.entries), "the BAT"
    for one in header.locators if image.footer.type is Type.DIFFERENCING else ():
        yield one.offset, one.offset + one.length, "a parent locator"
    found = batmap.read(image.file, header) if batmap.expected(image.footer) else None
    if found:
        yield found.offset, found.offset + SECTOR, "the batmap's header"
        yield found.map_offset, found.map_offset + len(found.map), "the batmap"


def end_of_use(image: "Vhd") -> int:
    """Return where the last thing in the file ends, not counting the footer behind it."""
    table = image.table
    ends = [end for _start, end, _what in _regions(image)]
    places = [entry for entry in table.entries if entry != ABSENT]
    if places:
        ends.append(max(places) * SECTOR + table.bitmap_bytes + table.header.block_bytes)
    return max(ends)


def _batmap(image: "Vhd") -> Iterator[Problem]:
    if not batmap.expected(image.footer):
        return
    table = image.table
    found = batmap.read(image.file, table.header)
    if found is None:
        at = table.header.bat_offset + padded(table.header.entries)
        yield Problem("XenServer's batmap is missing", at, False)
        return
    if not found.intact:
        yield Problem("the batmap's checksum is wrong", found.offset, True)
        return
    for index in range(table.header.entries):
        if found.map[index // 8] >> (7 - index % 8) & 1 and not _is_full(image, index):
            text = f"the batmap calls block {index} full, but it is not"
            yield Problem(text, found.map_offset + index // 8, True)


def _is_full(image: "Vhd", index: int) -> bool:
    at = image.table.block(index)
    if at is None:
        return False
    data = image.file.read(at, image.table.bitmap_bytes)
    return data.count(0xFF) == len(data)


def repair(image: "Vhd") -> list[str]:
    """Mend footers, space at the end that belongs to nothing, and the batmap; return what was done."""
    if image.header is None or any(not one.repairable for one in check(image)):
        return []
    done, file = [], image.file
    for problem in list(check(image)):
        if "batmap" in problem.text:
            found = batmap.read(file, image.table.header)
            if found:
                file.write(found.offset, batmap.pack(image.table.header.entries, found.offset))
        done.append(f"{problem.text} (at byte {problem.offset})")
    if done:
        end = end_of_use(image)
        if file.size() - SECTOR - end < image.table.stride:
            end = max(end, file.size() - SECTOR)
        file.write(end, image.footer.pack())
        file.flush()
        file.truncate(end + SECTOR)
        file.write(0, image.footer.pack())
        file.flush()
    return done
