"""The local back end, raw and qcow2, held to the contract."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from file_storage import FileStorage

from breezeblock.backends.local import LocalConfig, open_local
from breezeblock.testing import Case, Ending, Scenario, cases, kill_everywhere, kills

FORMATS = ("raw", "qcow2")
STRIDE = int(os.environ.get("KILL_STRIDE", "8"))
"""A round costs 10 to 200 ms, and there are some 6,000 lines: KILL_STRIDE=1 takes them all."""


def storage(path: Path, image_format: str) -> FileStorage:
    pool = path / "pool"
    config = LocalConfig(path=str(pool))
    return FileStorage(pool, lambda: open_local("here", config, path), options={"format": image_format})


@pytest.mark.parametrize("case", cases(), ids=str)
@pytest.mark.parametrize("image_format", FORMATS)
def test_local(case: Case, image_format: str, tmp_path: Path) -> None:
    case.run(storage(tmp_path, image_format))


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory where fsync costs nothing: here processes are killed, not machines."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


@pytest.mark.crash
@pytest.mark.parametrize(("scenario", "ending"), kills(), ids=str)
@pytest.mark.parametrize("image_format", FORMATS)
def test_local_killed_anywhere(scenario: Scenario, ending: Ending, image_format: str, memory: Path) -> None:
    report = kill_everywhere(storage(memory, image_format), scenario, ending, repeats=1, stride=STRIDE)
    assert report is not None
    assert report.kills > 1
