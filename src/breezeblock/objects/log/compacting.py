"""Writing the last live pages of a segment anew, so that the segment becomes nobody's."""

import asyncio
from array import array
from collections.abc import Collection

from breezeblock.objects.log.device import LogDevice
from breezeblock.objects.log.format import LEAF_PAGES
from breezeblock.objects.log.pages import Leaf, packed, unpacked

_RUN_PAGES = 256
_AHEAD = 32
"""At least so many runs are being fetched while one is moved."""


async def compact(device: LogDevice, segments: Collection[int]) -> int:
    """Move what these segments of the volume's own still hold; return how many pages that were.

    Only what `collecting.collect` calls sparse is worth it: others may hold the rest. Raises FencedError.
    """
    writer, wanted, moved = device.writer, frozenset(segments), 0
    for number in sorted(writer.pages.refs.keys() | writer.pages.leaves.keys()):
        entries = (await _leaf(device, number)).span(0, LEAF_PAGES)
        runs = await asyncio.to_thread(_runs, entries, writer.own, wanted)
        for at, (start, count) in enumerate(runs):
            for begin, amount in runs[at : at + 2 * _AHEAD] if at % _AHEAD == 0 else ():
                device.reader.expect(writer.volume, unpacked(entries[begin]), amount)
            place = unpacked(entries[start])
            views = await device.reader.pages(writer.volume, place, count)
            data = memoryview(b"".join(views))
            now = await _leaf(device, number)
            # What was written meanwhile stays; nothing waits between this look and the move.
            if now.span(start, count) == entries[start : start + count]:
                writer.move(number * LEAF_PAGES + start, data)
                moved += count
            await writer.room(device.dirty_segments)
    await writer.checkpoint("compaction")
    return moved


async def _leaf(device: LogDevice, number: int) -> Leaf:
    while (leaf := device.writer.pages.at(number)) is None:
        await device.writer.fetcher.bring(number)
    return leaf


def _runs(entries: "array[int]", own: int, wanted: frozenset[int]) -> list[tuple[int, int]]:
    """Return where consecutive pages lie in wanted segments, one after the other."""
    found: list[tuple[int, int]] = []
    low, high = packed(own, min(wanted, default=0), 0), packed(own, max(wanted, default=0) + 1, 0)
    for index, entry in enumerate(entries):
        if not low <= entry < high or (entry >> 16 & 0xFFFFFFFFF) not in wanted:
            continue
        if found:
            start, count = found[-1]
            if start + count == index and entries[start] + count == entry and count < _RUN_PAGES:
                found[-1] = (start, count + 1)
                continue
        found.append((index, 1))
    return found
