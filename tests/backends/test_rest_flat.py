"""Pools in the layout flat held to the contract: directory, CDMI in both dialects, Azure's page blobs."""

import asyncio
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from flat_storage import FlatStorage

import zoo
from breezeblock import vault
from breezeblock.backends.rest_config import RestPool
from breezeblock.objects.stores.azure import AzureStore
from breezeblock.testing import Case, Ending, Scenario, cases, kill_everywhere, kills
from cdmi_process import PASSWORD, USER, cdmi_server

STRIDE = int(os.environ.get("KILL_STRIDE", "8"))
"""KILL_STRIDE=1 kills before every line."""


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory where fsync costs nothing: here processes are killed, not machines."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


class DirectoryStorage(FlatStorage):
    @property
    def root(self) -> Path:
        return self.state


def directory_storage(path: Path) -> DirectoryStorage:
    (path / "store").mkdir()
    pool = RestPool(store="directory", urls=[str(path / "store")], layout="flat")
    return DirectoryStorage(path, pool)


@pytest.mark.parametrize("case", cases(), ids=str)
def test_flat_in_a_directory(case: Case, memory: Path) -> None:
    case.run(directory_storage(memory))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with cdmi_server(tmp_path_factory.mktemp("cdmi")) as url:
        yield url


def cdmi_storage(url: str, path: Path, dialect: Literal["standard", "scality"]) -> FlatStorage:
    vault.at(path).set("cdmi", PASSWORD)
    urls = [f"{url}/{path.name}"]
    pool = RestPool(store="cdmi", urls=urls, user=USER, secret="cdmi", dialect=dialect, layout="flat")
    return FlatStorage(path, pool)


@pytest.mark.parametrize("dialect", ["standard", "scality"])
@pytest.mark.parametrize("case", [case for case in cases() if "snapshots" not in case.needs], ids=str)
def test_flat_over_cdmi(
    case: Case, dialect: Literal["standard", "scality"], server: str, memory: Path
) -> None:
    case.run(cdmi_storage(server, memory, dialect))


@pytest.fixture(scope="module")
def azure() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as home, zoo.running(zoo.azurite, Path(home)) as url:
        container = f"{url}/{zoo.AZURE_ACCOUNT}/pool"
        asyncio.run(make_container(container))
        yield container


async def make_container(url: str) -> None:
    store = AzureStore(url, user=zoo.AZURE_ACCOUNT, password=zoo.AZURE_KEY)
    await store._send("PUT", store._container, {"restype": "container"})
    await store.close()


def azure_storage(url: str, path: Path) -> FlatStorage:
    vault.at(path).set("azure", zoo.AZURE_KEY)
    urls = [f"{url}/{path.name}"]
    pool = RestPool(store="azure", urls=urls, user=zoo.AZURE_ACCOUNT, secret="azure", layout="flat")
    return FlatStorage(path, pool)


@pytest.mark.parametrize("case", [case for case in cases() if "snapshots" in case.needs], ids=str)
def test_flat_in_page_blobs(case: Case, azure: str, memory: Path) -> None:
    case.run(azure_storage(azure, memory))


NATIVE = {"snapshot_1", "delete_with_snapshots", "revert_to_oldest", "create_from_snapshot"}
"""What only page blobs have."""


@pytest.mark.crash
@pytest.mark.parametrize(("scenario", "ending"), [one for one in kills() if one[0].name in NATIVE], ids=str)
def test_page_blobs_killed(scenario: Scenario, ending: Ending, azure: str, memory: Path) -> None:
    report = kill_everywhere(azure_storage(azure, memory), scenario, ending, repeats=1, stride=STRIDE * 4)
    assert report is not None
    assert report.kills > 1


@pytest.mark.crash
@pytest.mark.parametrize(("scenario", "ending"), kills(), ids=str)
def test_flat_killed_anywhere(scenario: Scenario, ending: Ending, memory: Path) -> None:
    storage = directory_storage(memory)
    report = kill_everywhere(storage, scenario, ending)
    if report is None:
        assert not scenario.needs(storage.open().capabilities())
        return
    assert report.states > 1
