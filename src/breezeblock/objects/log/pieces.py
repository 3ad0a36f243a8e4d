"""Bytes and pages: which pages a piece touches, and the bytes that were asked for among whole pages."""

import re
from collections.abc import Iterable

from breezeblock.objects.log.format import PAGE
from breezeblock.objects.log.pages import Leaf, PageMap, parts
from breezeblock.objects.nbd.device import Data, Extent

_RUNS = re.compile(rb"\x00+|\x01+")


def runs(leaf: Leaf, start: int, amount: int) -> list[tuple[int, int]]:
    """Return places and how many pages follow there; 0 for holes."""
    found: list[tuple[int, int]] = []
    begin, count = 0, 0
    for entry in leaf.span(start, amount):
        # Runs end with their segment, as the index of the next is not one more.
        if count and entry == (begin + count if begin else 0):
            count += 1
            continue
        if count:
            found.append((begin, count))
        begin, count = entry, 1
    found.append((begin, count))
    return found


def mapped(pages: PageMap, first: int, count: int, limit: int) -> list[tuple[bool, int]]:
    """Tell in turn how many pages lie somewhere and how many are holes; a leaf that is not here is no hole.

    Ends after so many runs, or behind a leaf that was looked through: more would hold up everybody else.
    """
    found: list[tuple[bool, int]] = []
    states: Iterable[tuple[bool, int]]
    for number, start, amount in parts(first, count):
        leaf = pages.leaves.get(number)
        if leaf is None or not leaf.ready:
            states = [(leaf is not None or number in pages.refs, amount)]
        elif leaf.empty:
            states = [(False, amount)]
        else:
            flags = bytes(map(bool, leaf.span(start, amount)))
            states = ((flags[run.start()] > 0, run.end() - run.start()) for run in _RUNS.finditer(flags))
        for state, some in states:
            if found and found[-1][0] == state:
                found[-1] = (state, found[-1][1] + some)
            elif len(found) == limit:
                return found
            else:
                found.append((state, some))
        if leaf is not None and leaf.ready and not leaf.empty:
            break
    return found


def edges(offset: int, length: int) -> list[int]:
    """Return the pages that a write covers in part."""
    pages = [offset // PAGE] if offset % PAGE else []
    last = (offset + length) // PAGE
    return [*pages, last] if (offset + length) % PAGE and last not in pages else pages


def cut(views: list[memoryview], skip: int, length: int) -> Data | list[Data]:
    """Return so many bytes of whole pages."""
    if skip:
        views[0] = views[0][skip:]
    spare = sum(map(len, views)) - length
    if spare:
        views[-1] = views[-1][: len(views[-1]) - spare]
    return views[0] if len(views) == 1 else list[Data](views)


def trimmed(found: list[Extent], offset: int) -> list[Extent]:
    """Return extents of whole pages as they are from an offset in the first page on."""
    first = found[0]
    return [Extent(first.length - offset % PAGE, first.state), *found[1:]]
