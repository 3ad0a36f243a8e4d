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
STRIDE = int(os.environ.get("KILL_STRIDE", "8"))
"""A round costs 10 to 200 ms, and there are some 6,000 lines: KILL_STRIDE=1 takes them all."""
SLOWER = {"vhdx": 10, "vhd": 20}
"""Our own code does what qemu-img does for the others, so there are ten times as many lines. Each state that
they leave on disk is tried in tests/chains, and each write within a file in tests/images."""


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
    report = kill_everywhere(place, scenario, ending, repeats=1, stride=STRIDE * SLOWER.get(kind, 1))
    assert report is not None
    assert report.kills > 1
