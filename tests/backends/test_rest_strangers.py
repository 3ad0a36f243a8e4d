"""Objects of others in a pool's store: somebody's notes, a file system's own. Nothing stumbles over them."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from rest_storage import RestStorage, key

from breezeblock.app.rest import Rest
from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Volume
from breezeblock.backends.rest import RestBackend, open_rest
from breezeblock.backends.rest_config import RestPool
from breezeblock.config import Config, ServiceSection
from breezeblock.errors import CorruptError

MIB = 1 << 20
STRANGE = (
    "v/notes",
    f"v/{'z' * 32}/root/000000000000-00000000",
    f"v/{'z' * 32}/seg/000000000000",
    f"v/{'0' * 31}/x/y",
    f"draft/{'q' * 32}/operation",
    "name/one",
    "gc/zz",
    "readme",
)


@pytest.fixture
def storage() -> Iterator[RestStorage]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        (Path(directory) / "store").mkdir()
        yield RestStorage(Path(directory), RestPool(store="directory", urls=[f"{directory}/store"]))


@pytest.fixture
def backend(storage: RestStorage) -> RestBackend:
    return open_rest("rest", storage.config, storage.state)


def attempt() -> Attempt:
    return Attempt(operation_id=str(uuid4()), token=uuid4().hex)


def strange(storage: RestStorage, *names: str) -> None:
    for name in names:
        path = storage.state / "store" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\xff/etc/passwd")


def test_they_are_foreign_and_in_nobodys_way(storage: RestStorage, backend: RestBackend) -> None:
    one, gone = (Volume(id=str(uuid4()), virtual_bytes=8 * MIB, pool="gold") for _ in range(2))
    for volume in (one, gone):
        backend.create(volume, attempt())
        storage.write(volume, 0, b"a" * MIB)
    strange(storage, *STRANGE, *(f"v/{key(one)}/{part}/core" for part in ("seg", "leaf")))
    backend.delete(gone, attempt())
    for _ in range(3):
        backend.collect()
    assert not (storage.state / "store" / "v" / key(gone) / "seg").exists() or not list(
        (storage.state / "store" / "v" / key(gone) / "seg").iterdir()
    ), "the room of what was deleted came back"
    assert storage.read(one)[:MIB] == b"a" * MIB
    assert backend.sweep(frozenset()) == []
    assert {found.name for found in backend.inventory() if found.kind == "foreign"} >= {"v/notes", "readme"}
    for name in STRANGE:
        assert (storage.state / "store" / name).exists(), "what is not ours is not removed"


def test_a_name_that_stands_for_no_volume_leads_nowhere(storage: RestStorage, backend: RestBackend) -> None:
    backend.stats()
    one = Volume(id=str(uuid4()), virtual_bytes=8 * MIB, pool="gold")
    backend.create(one, attempt())
    strange(storage, "name/one", f"v/{'z' * 32}/root/000000000000-00000000")
    section = {
        "kind": "rest",
        "run_dir": str(storage.state / "run"),
        "journal_dir": str(storage.state / "log"),
        "pools": {"gold": {"store": "directory", "urls": storage.pool.urls}},
    }
    rest = Rest(Config(service=ServiceSection(state_dir=str(storage.state)), backends={"rest": section}))
    assert [found.id for found in rest.volumes()] == [key(one)]
    for verb in (rest.destroy, rest.data):
        with pytest.raises(CorruptError, match="names no volume"):
            verb("one")
