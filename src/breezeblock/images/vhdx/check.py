"""Looking for damage, and mending what can be mended without losing anything."""

from collections.abc import Iterator
from itertools import chain, islice

from breezeblock.errors import CorruptError
from breezeblock.images.layer import Problem
from breezeblock.images.vhdx import edit, header, regions, space
from breezeblock.images.vhdx.image import Image
from breezeblock.images.vhdx.layout import HEADER_OFFSETS, REGION_TABLE_BYTES, REGION_TABLE_OFFSETS, State

_MAX_PROBLEMS = 1000


def check(image: Image) -> Iterator[Problem]:
    """Yield what is wrong, at most a thousand things."""
    yield from islice(_check(image), _MAX_PROBLEMS)


def _check(image: Image) -> Iterator[Problem]:
    if image.view.replay is not None:
        text = "the log was not replayed: a writer was stopped"
        yield Problem(text, HEADER_OFFSETS[image.header.slot], repairable=True)
    if not image.header.other_is_valid:
        where = HEADER_OFFSETS[1 - image.header.slot]
        yield Problem("one of the two headers is not valid", where, repairable=True)
    for table in regions.wrong_copies(image.view):
        yield Problem("one of the two region tables is not valid", table, repairable=True)
    sound = True
    for problem in chain(_check_blocks(image), _check_overlaps(image)):
        sound = False
        yield problem
    if sound:
        end = space.survey(image).end
        if image.file.size() > end:
            spare = image.file.size() - end
            yield Problem(f"nothing refers to the last {spare} bytes", end, repairable=True)


def _check_overlaps(image: Image) -> Iterator[Problem]:
    for where, text in space.overlaps(image):
        yield Problem(text, where, repairable=False)


def _check_blocks(image: Image) -> Iterator[Problem]:
    for placed in space.blocks(image):
        where = image.entry_offset(placed.entry)
        states = set(State) if image.grid.differencing else set(State) - {State.PARTIAL}
        if placed.is_bitmap:
            states = {State.NOT_PRESENT, State.FULL}
        if placed.state not in states:
            yield Problem(f"a BAT entry has the impossible state {placed.state}", where, repairable=False)
            continue
        try:
            if placed.in_use:
                space.check(image, placed)
            if placed.state == State.PARTIAL:
                image.check_bitmap(placed.block, image.entry(image.grid.bitmap(placed.block)))
        except CorruptError as error:
            yield Problem(error.message, where, repairable=False)


def repair(image: Image) -> list[str]:
    """Mend what `check` calls repairable; return what was done."""
    done = []
    if image.view.replay is not None:
        image = edit.replay(image)
        done.append("the log was replayed")
    if not image.header.other_is_valid:
        header.update(image.file, image.header, new_file_write=True)
        done.append("the header that was not valid was written anew")
    for bad in regions.wrong_copies(image.view):
        good = next(offset for offset in REGION_TABLE_OFFSETS if offset != bad)
        image.file.write(bad, image.file.read(good, REGION_TABLE_BYTES))
        image.file.flush()
        done.append("the region table that was not valid was written anew")
    if not any(_check_blocks(image)):
        end = space.survey(image).end
        spare = image.file.size() - end
        if spare > 0:
            image.file.truncate(end)
            image.file.flush()
            done.append(f"the last {spare} bytes, which nothing referred to, were cut off")
    return done
