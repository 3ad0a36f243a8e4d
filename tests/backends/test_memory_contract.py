"""The memory back end, whole and with verbs hidden, and what stands in for them, held to the contract."""

from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
from memory_storage import MemoryStorage
from prometheus_client import CollectorRegistry

from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Backend, Volume
from breezeblock.backends.copying import Copying, with_copies
from breezeblock.backends.decorators import wrap
from breezeblock.backends.memory import MemoryBackend, MemoryConfig, open_memory
from breezeblock.testing import Case, Ending, Scenario, cases, kill_everywhere, kills

WHOLE = MemoryConfig()
COPIES = MemoryConfig(lacks=("clone", "create_from_snapshot"), revert="latest")
BARE = MemoryConfig(lacks=("extend", "snapshots", "clone", "create_from_snapshot", "data"))
CONFIGS = {
    "whole": WHOLE,
    "latest": MemoryConfig(revert="latest"),
    "no-data": MemoryConfig(lacks=("data",)),
    "no-snapshots": MemoryConfig(lacks=("snapshots",)),
    "bare": BARE,
}


@dataclass
class CopyingStorage(MemoryStorage):
    """Seen through `with_copies`."""

    def open(self) -> Backend:
        return with_copies(super().open())


@dataclass
class WrappedStorage(MemoryStorage):
    """Seen through everything that the service puts around a back end."""

    def open(self) -> Backend:
        return wrap(super().open(), registry=CollectorRegistry())


def at(config: MemoryConfig, path: Path) -> MemoryConfig:
    return msgspec.structs.replace(config, path=str(path))


@pytest.mark.parametrize("case", cases(), ids=str)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_memory(case: Case, config: MemoryConfig, tmp_path: Path) -> None:
    case.run(MemoryStorage(at(config, tmp_path)))


@pytest.mark.parametrize("case", cases(), ids=str)
def test_missing_verbs_by_copying(case: Case, tmp_path: Path) -> None:
    case.run(CopyingStorage(at(COPIES, tmp_path)))


@pytest.mark.parametrize("case", cases(), ids=str)
def test_wrapped_as_the_service_does(case: Case, tmp_path: Path) -> None:
    case.run(WrappedStorage(at(COPIES, tmp_path)))


@pytest.mark.crash
@pytest.mark.parametrize(("scenario", "ending"), kills(), ids=str)
def test_memory_killed_anywhere(scenario: Scenario, ending: Ending, tmp_path: Path) -> None:
    storage = MemoryStorage(at(WHOLE, tmp_path))
    report = kill_everywhere(storage, scenario, ending)
    if report is None:
        assert not scenario.needs(storage.open().capabilities())
        return
    assert report.states >= 4


@pytest.mark.crash
@pytest.mark.parametrize(("scenario", "ending"), kills(), ids=str)
def test_copying_killed_anywhere(scenario: Scenario, ending: Ending, tmp_path: Path) -> None:
    storage = CopyingStorage(at(COPIES, tmp_path))
    report = kill_everywhere(storage, scenario, ending)
    if report is None:
        assert not scenario.needs(storage.open().capabilities())
        return
    assert report.states >= 3


@pytest.mark.crash
@pytest.mark.parametrize("name", ["create", "extend_with_snapshots", "clone"])
def test_no_line_in_between_leaves_anything_else(name: str, tmp_path: Path) -> None:
    """Killed before lines that found no change the schedule would learn nothing."""
    scenario = next(scenario for scenario, _ending in kills() if scenario.name == name)
    changes = kill_everywhere(MemoryStorage(at(WHOLE, tmp_path / "changes")), scenario, "rerun")
    lines = kill_everywhere(MemoryStorage(at(WHOLE, tmp_path / "lines")), scenario, "rerun", every_line=True)
    assert changes is not None
    assert lines is not None
    assert changes.states == lines.states
    assert lines.kills == lines.lines == changes.lines > 4 * changes.kills


def test_settings_name_their_kind(tmp_path: Path) -> None:
    section = {"kind": "memory", "path": str(tmp_path), "lacks": ["clone"], "revert": "latest"}
    config = msgspec.convert(section, MemoryConfig)
    backend = open_memory("ram", config, tmp_path)
    assert (backend.name, backend.capabilities().clone) == ("ram", False)
    with pytest.raises(msgspec.ValidationError, match="kind"):
        msgspec.convert({"kind": "local"}, MemoryConfig)


def test_a_private_directory_goes_with_the_back_end() -> None:
    backend = MemoryBackend("ram", MemoryConfig())
    backend.start()
    volume = Volume(id=str(uuid4()), virtual_bytes=512, pool="ram")
    backend.create(volume, Attempt(operation_id="one", token="first"))
    path = Path(backend.connection_info(volume, {}).data["device_path"])
    assert path.stat().st_size == 512
    backend.stop()
    assert not path.parent.parent.exists()


def test_nothing_is_put_before_a_back_end_that_lacks_nothing(tmp_path: Path) -> None:
    backend = MemoryBackend("ram", at(WHOLE, tmp_path))
    assert with_copies(backend) is backend
    bare = MemoryBackend("ram", at(BARE, tmp_path))
    assert with_copies(bare) is bare
    copies = with_copies(MemoryBackend("ram", at(COPIES, tmp_path)))
    assert isinstance(copies, Copying)
    able = copies.capabilities()
    assert (able.clone, able.create_from_snapshot, able.revert) == (True, True, "any")
