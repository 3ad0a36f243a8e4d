"""The local back end, raw and qcow2, held to the contract."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from file_storage import FileStorage
from vhd_storage import VhdStorage

from breezeblock.backends.local import LocalConfig, open_local
from breezeblock.testing import Case, Ending, Scenario, cases, kill_everywhere, kills

KINDS = {
    "raw": {"format": "raw"},  # and full clones, as nothing else can be raw
    "qcow2": {"format": "qcow2"},  # and linked clones
    "linked": {},  # linked clones of raw volumes
    "vhd": {"format": "vhd"},
    "vhdx": {"format": "vhdx"},
}
EVERY_LINE = "BREEZEBLOCK_KILL_EVERY_LINE" in os.environ
"""Kill before each of the lines, some 500,000, although most find the disk as the line before found it."""


def storage(path: Path, kind: str) -> FileStorage:
    pool = path / "pool"
    config = LocalConfig(path=str(pool))
    options = KINDS[kind]
    extension = options.get("format", "") if "vhd" in kind else ""
    made = VhdStorage if extension else FileStorage
    return made(pool, lambda: open_local("here", config, path), options=options, extension=extension)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory where fsync costs nothing: here processes are killed, not machines."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


@pytest.mark.parametrize("case", cases(), ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_local(case: Case, kind: str, memory: Path) -> None:
    case.run(storage(memory, kind))


@pytest.mark.crash
@pytest.mark.parametrize(("scenario", "ending"), kills(), ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_local_killed_anywhere(scenario: Scenario, ending: Ending, kind: str, memory: Path) -> None:
    place = storage(memory, kind)
    if isinstance(place, VhdStorage):
        place.by_others = False
    report = kill_everywhere(place, scenario, ending, every_line=EVERY_LINE)
    assert report is not None
    assert report.lines > 150
    assert report.states >= (2 if scenario.name == "shorten_related" else 4)  # which finds nothing to shorten


@pytest.mark.crash
def test_no_line_in_between_leaves_anything_else(memory: Path) -> None:
    """What the test above leaves out by: the lines that find no change, killed at one by one."""
    scenario = next(scenario for scenario, _ending in kills() if scenario.name == "create")
    changes = kill_everywhere(storage(memory / "changes", "raw"), scenario, "rerun")
    lines = kill_everywhere(storage(memory / "lines", "raw"), scenario, "rerun", every_line=True)
    assert changes is not None
    assert lines is not None
    assert changes.states == lines.states
    assert 10 * changes.kills < lines.kills == lines.lines == changes.lines
