"""The back end of object stores held to the contract, in a directory and over CDMI."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from rest_storage import RestStorage

from breezeblock import vault
from breezeblock.backends.rest_config import RestPool
from breezeblock.testing import Case, Ending, Scenario, cases, kill_everywhere, kills
from cdmi_process import PASSWORD, USER, cdmi_server

STRIDE = int(os.environ.get("BREEZEBLOCK_KILL_STRIDE", "8"))
"""BREEZEBLOCK_KILL_STRIDE=1 kills before every line."""


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory where fsync costs nothing: here processes are killed, not machines."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


class DirectoryStorage(RestStorage):
    @property
    def root(self) -> Path:
        return self.state


def directory_storage(path: Path, **options: str) -> DirectoryStorage:
    (path / "store").mkdir()
    pool = RestPool(store="directory", urls=[str(path / "store")])
    return DirectoryStorage(path, pool, options=options)


@pytest.mark.parametrize("case", cases(), ids=str)
def test_rest_in_a_directory(case: Case, memory: Path) -> None:
    case.run(directory_storage(memory))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with cdmi_server(tmp_path_factory.mktemp("cdmi")) as url:
        yield url


def cdmi_storage(url: str, path: Path, **options: str) -> RestStorage:
    vault.at(path).set("cdmi", PASSWORD)
    pool = RestPool(store="cdmi", urls=[f"{url}/{path.name}"], user=USER, secret="cdmi")
    return RestStorage(path, pool, options=options)


@pytest.mark.parametrize("case", cases(), ids=str)
def test_rest_over_cdmi(case: Case, server: str, memory: Path) -> None:
    case.run(cdmi_storage(server, memory))


FEW = [pair for pair in kills() if str(pair[0]) in {"create", "extend", "snapshot_1", "revert_to_oldest"}]
"""The lines are those of a directory; here the requests are real."""


@pytest.mark.crash
@pytest.mark.parametrize(("scenario", "ending"), FEW, ids=str)
def test_rest_over_cdmi_killed(scenario: Scenario, ending: Ending, server: str, memory: Path) -> None:
    report = kill_everywhere(cdmi_storage(server, memory), scenario, ending, repeats=1, stride=STRIDE * 4)
    assert report is not None
    assert report.kills > 1


@pytest.mark.crash
@pytest.mark.parametrize(("scenario", "ending"), kills(), ids=str)
@pytest.mark.parametrize("clone", ["linked", "full"])
def test_rest_killed_anywhere(scenario: Scenario, ending: Ending, clone: str, memory: Path) -> None:
    copies = any(word in scenario.name for word in ("clone", "from"))
    if clone == "full" and not copies:
        return
    storage = directory_storage(memory, clone=clone)
    report = kill_everywhere(storage, scenario, ending)
    if report is None:
        assert not scenario.needs(storage.open().capabilities())
        return
    assert report.states > 1
