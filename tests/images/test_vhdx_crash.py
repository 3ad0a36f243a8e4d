"""A stop at any write leaves the old or the new content, for us and for programs that are not ours."""

import random
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest
import vhdx_judges as judges
from vhdx_crash import SECTOR, Journal, put_back, states
from vhdx_judges import MIB, change, make, make_child, pattern, put

from breezeblock.images import vhdx
from breezeblock.images.file import opened
from breezeblock.images.layer import Options
from breezeblock.images.vhdx import Vhdx
from sevenzip import seven_zip

SIZE = 3 * MIB + 2048
SMALL = Options(block_bytes=MIB)
Action = Callable[[dict[str, Vhdx]], None]
JUDGED = 10
"""How many of the states of each test programs that are not ours look at; we look at all."""


def record(directory: Path, names: list[str], action: Action) -> tuple[dict[str, bytes], Journal]:
    """Run an action on open layers; return the files before it and what it did to them."""
    before = {name: (directory / name).read_bytes() for name in names}
    journal = Journal()
    with ExitStack() as stack:
        files = {name: stack.enter_context(opened(directory / name, write=True)) for name in names}
        layers = {name: vhdx.open_layer(journal.file_type(file.fd, name)) for name, file in files.items()}
        action(layers)
    assert any(one.is_flush for one in journal.changes)
    return before, journal


def explore(
    directory: Path,
    names: list[str],
    action: Action,
    chains: list[list[str]],
    *,
    may_mix: bool = False,
    variants: int = 4,
) -> int:
    """Check every state of an action: each chain reads as before or as after it; return how many."""
    old = [judges.ours(*(directory / name for name in chain)) for chain in chains]
    before, journal = record(directory, names, action)
    new = [judges.ours(*(directory / name for name in chain)) for chain in chains]
    chance = random.Random(1)
    found = list(states(before, journal, chance, variants))
    judged = set(chance.sample(range(len(found)), min(JUDGED, len(found)))) | {len(found) - 1}
    work = directory / "work"
    work.mkdir(exist_ok=True)
    for name in {name for chain in chains for name in chain} - set(names):
        (work / name).write_bytes((directory / name).read_bytes())
    for number, state in enumerate(found):
        put_back(work, state)
        for chain, one, other in zip(chains, old, new, strict=True):
            paths = [work / name for name in chain]
            read = judges.ours(*paths)
            check_content(read, one, other, may_mix=may_mix)
            if number in judged:
                judge(paths, read)
    return len(found)


def check_content(read: bytes, old: bytes, new: bytes, *, may_mix: bool) -> None:
    if read in {old, new}:
        return
    assert may_mix, f"neither old nor new: {judges.first_difference(new, read)}"
    assert len(read) in {len(old), len(new)}
    for at in range(0, len(read), SECTOR):
        sector = read[at : at + SECTOR]
        possible = {(one[at : at + SECTOR]).ljust(len(sector), b"\0") for one in (old, new)}
        assert sector in possible, f"the sector at {at} is neither old nor new"


def judge(paths: list[Path], expected: bytes) -> None:
    """Let QEMU replay the log itself where it can; the others read what our repair leaves."""
    if len(paths) == 1 and len(expected) % 1024 == 0:
        copy = paths[0].with_suffix(".copy.vhdx")
        copy.write_bytes(paths[0].read_bytes())
        mended = subprocess.run(
            ["qemu-img", "check", "-f", "vhdx", "-r", "all", copy], capture_output=True, check=False
        )
        assert mended.returncode == 0, mended
        assert judges.qemu(copy) == expected
        copy.unlink()
    if between_guids(paths):
        return
    originals = [path.read_bytes() for path in paths]
    for path in paths:
        with opened(path, write=True) as file:
            layer = vhdx.open_layer(file)
            layer.repair()
            assert list(layer.check()) == []
    judges.agree(expected, *paths)
    for path, original in zip(paths, originals, strict=True):
        path.write_bytes(original)


def between_guids(paths: list[Path]) -> bool:
    """For two flushes of a merge a child fits only by parent_linkage2: others refuse it there."""
    with ExitStack() as stack:
        layers = [vhdx.open_layer(stack.enter_context(opened(path))) for path in paths]
        for child, parent in pairwise(layers):
            assert child.parent
            child.verify_parent(parent)
            if child.parent.identity != parent.identity:
                with pytest.raises(AssertionError, match="Unsupported Method"):
                    seven_zip(paths[0])
                return True
    return False


def write(name: str, *changes: tuple[int, bytes | int]) -> Action:
    def action(layers: dict[str, Vhdx]) -> None:
        for offset, what in changes:
            if isinstance(what, int):
                layers[name].zero(offset, what)
            else:
                put(layers[name], offset, what)
        layers[name].commit()

    return action


@pytest.fixture
def family(tmp_path: Path) -> Path:
    """base.vhdx, middle.vhdx, leaf.vhdx: a chain in which all have something."""
    base = make(tmp_path / "base.vhdx", SIZE, SMALL)
    change(base, (0, pattern(1, MIB + 4096)), (SIZE - 512, pattern(2, 512)))
    middle = make_child(tmp_path / "middle.vhdx", base, SMALL)
    change(middle, (512, pattern(3, 1536)), (2 * MIB, pattern(4, MIB)))
    leaf = make_child(tmp_path / "leaf.vhdx", middle, SMALL)
    change(leaf, (1024, pattern(5, 512)), (SIZE - 1024, pattern(6, 512)))
    return tmp_path


CHAIN = ["leaf.vhdx", "middle.vhdx", "base.vhdx"]


def test_writing_new_blocks(tmp_path: Path) -> None:
    path = make(tmp_path / "a.vhdx", SIZE, SMALL)
    change(path, (0, pattern(1, 512)))
    action = write(path.name, (MIB - 0, pattern(2, MIB)), (SIZE - 1024, pattern(3, 1024)))
    assert explore(tmp_path, [path.name], action, [[path.name]]) > 15


def test_writing_where_blocks_were_given_up(tmp_path: Path) -> None:
    path = make(tmp_path / "a.vhdx", SIZE, SMALL)
    change(path, (0, pattern(9, 3 * MIB)))
    change(path, (0, 2 * MIB))
    length = path.stat().st_size
    action = write(path.name, (512, pattern(7, 512)), (MIB, pattern(8, MIB)))
    assert explore(tmp_path, [path.name], action, [[path.name]]) > 12
    assert path.stat().st_size == length


def test_writing_over_what_is_there(tmp_path: Path) -> None:
    path = make(tmp_path / "a.vhdx", SIZE, SMALL)
    change(path, (0, pattern(1, SIZE)))
    action = write(path.name, (512, pattern(2, 8192)), (MIB, MIB), (2 * MIB + 512, 512))
    explore(tmp_path, [path.name], action, [[path.name]], may_mix=True)


def test_writing_sectors_into_a_child(family: Path) -> None:
    action = write("leaf.vhdx", (0, pattern(7, 512)), (MIB, pattern(8, 1536)), (2 * MIB + 512, 9 * 512))
    assert explore(family, ["leaf.vhdx"], action, [CHAIN]) > 15


def test_growing(family: Path) -> None:
    def action(layers: dict[str, Vhdx]) -> None:
        layers["leaf.vhdx"].grow(SIZE + 5 * MIB)

    # 7-Zip clips a child that is longer than its parent; ours is the judge of the chain.
    before, journal = record(family, ["leaf.vhdx"], action)
    paths = [family / name for name in CHAIN]
    put_back(family, before)
    short = judges.ours(*paths)
    for state in states(before, journal, random.Random(2), 4):
        put_back(family, state)
        assert judges.ours(*paths) in {short, short + bytes(5 * MIB)}


@pytest.mark.parametrize("fixed", [False, True])
def test_growing_an_image_that_stands_alone(tmp_path: Path, *, fixed: bool) -> None:
    path = make(tmp_path / "a.vhdx", SIZE, Options(block_bytes=MIB, fixed=fixed))
    change(path, (SIZE - 1024, pattern(1, 1024)))
    explore(tmp_path, [path.name], lambda layers: layers[path.name].grow(SIZE + 3 * MIB), [[path.name]])


def test_relinking(family: Path) -> None:
    def action(layers: dict[str, Vhdx]) -> None:
        layers["leaf.vhdx"].reparent(layers["middle.vhdx"], "another-name-that-is-longer.vhdx")

    before, journal = record(family, ["leaf.vhdx", "middle.vhdx"], action)
    expected = judges.ours(*(family / name for name in CHAIN))
    (family / "another-name-that-is-longer.vhdx").write_bytes((family / "middle.vhdx").read_bytes())
    chance = random.Random(3)
    for state in states(before, journal, chance, 4):
        put_back(family, state)
        paths = [family / name for name in CHAIN]
        assert judges.ours(*paths) == expected
        if chance.random() < 0.2:
            judge(paths, expected)


@pytest.mark.parametrize("adopt", [False, True])
def test_merging_and_going_on_after_a_stop(family: Path, *, adopt: bool) -> None:
    """The leaf reads the same at any moment, and a second run always ends right."""

    def action(layers: dict[str, Vhdx]) -> None:
        judges.merge(layers["middle.vhdx"], layers["base.vhdx"])
        if adopt:
            layers["base.vhdx"].adopt(layers["middle.vhdx"])

    names = ["middle.vhdx", "base.vhdx"]
    expected = judges.ours(*(family / name for name in CHAIN))
    middle = judges.ours(family / "middle.vhdx", family / "base.vhdx")
    before, journal = record(family, names, action)
    chance = random.Random(4)
    count = 0
    for state in states(before, journal, chance, 3):
        count += 1
        put_back(family, state)
        assert judges.ours(*(family / name for name in CHAIN)) == expected
        if chance.random() < 0.1:
            judge([family / name for name in CHAIN], expected)
            put_back(family, state)
        if chance.random() < 0.2:
            record(family, names, action)
            assert judges.ours(family / "base.vhdx") == middle
            if adopt:
                assert judges.ours(family / "leaf.vhdx", family / "base.vhdx") == expected
                judges.agree(middle, family / "base.vhdx")
    assert count > 25


def test_replaying_a_log_can_be_stopped_too(family: Path) -> None:
    action = write("leaf.vhdx", (0, pattern(7, 512)), (MIB, pattern(8, 1536)))
    before, journal = record(family, ["leaf.vhdx"], action)
    paths = [family / name for name in CHAIN]
    dirty = 0
    for state in states(before, journal, random.Random(5), 2):
        put_back(family, state)
        with opened(paths[0]) as file:
            if vhdx.open_layer(file).image.view.replay is None:
                continue
        dirty += 1
        expected = judges.ours(*paths)
        again, mending = record(family, ["leaf.vhdx"], lambda layers: void(layers["leaf.vhdx"].repair()))
        for inner in states(again, mending, random.Random(6), 1):
            put_back(family, inner)
            assert judges.ours(*paths) == expected
    assert dirty > 3


def void(_: object) -> None:
    return None
