"""Pools in the layout flat held to the contract: directory, CDMI in both dialects, Azure's page blobs."""

import asyncio
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from uuid import UUID, uuid4

import msgspec
import pytest
from flat_storage import FlatStorage

import zoo
from breezeblock import vault
from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Snapshot, Volume
from breezeblock.backends.registry import read_config
from breezeblock.backends.rest import RestBackend, open_rest
from breezeblock.backends.rest_config import RestConfig, RestPool, store_config
from breezeblock.errors import (
    CancelledOperationError,
    ConfigError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    UnsupportedError,
)
from breezeblock.objects import serving
from breezeblock.objects.stores.azure import AzureStore
from breezeblock.objects.stores.port import Snapshots, Store
from breezeblock.testing import Case, Ending, Scenario, cases, kill_everywhere, kills
from cdmi_process import PASSWORD, USER, cdmi_server

STRIDE = int(os.environ.get("BREEZEBLOCK_KILL_STRIDE", "8"))
"""BREEZEBLOCK_KILL_STRIDE=1 kills before every line."""


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


def in_dialects() -> Iterator[tuple[Case, str]]:
    """Both dialects where parts are written; else the dialect makes no difference."""
    for case in cases():
        if "snapshots" not in case.needs:
            yield case, "scality"
            if case.needs in {("extend",), ("data",)}:
                yield case, "standard"


@pytest.mark.parametrize(("case", "dialect"), tuple(in_dialects()), ids=str)
def test_flat_over_cdmi(
    case: Case, dialect: Literal["standard", "scality"], server: str, memory: Path
) -> None:
    case.run(cdmi_storage(server, memory, dialect))


@pytest.fixture(scope="module")
def apache() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as home, zoo.running(zoo.apache, Path(home)) as url:
        yield url


@pytest.mark.parametrize("case", [case for case in cases() if case.needs == ("data",)], ids=str)
def test_flat_on_apache(case: Case, apache: str, memory: Path) -> None:
    case.run(FlatStorage(memory, RestPool(store="webdav", urls=[apache], layout="flat")))


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


def test_a_page_blob_is_served_grown_and_snapshotted_under_its_lease(azure: str, memory: Path) -> None:
    storage = azure_storage(azure, memory)
    backend = storage.open()
    one = volume("gold", MIB)
    backend.create(one, attempt())
    (memory / "run").mkdir()
    info = backend.connection_info(one, {}).data
    task = serving.Task(
        store=store_config(storage.pool, info["pool_uuid"], memory, wait=True),
        volume=info["export"],
        socket=memory / "run" / info["export"],
        journal=memory / "log",
    )
    serving.start(task)
    try:
        qemu_io(info["uri"], "write -P 1 0 64k")
        held = Snapshot(id=str(uuid4()), volume_id=one.id, virtual_bytes=MIB)
        backend.snapshot(one, held, attempt())
        backend.extend(one, 2 * MIB, attempt())
        qemu_io(info["uri"], "write -P 2 0 64k", "write -P 3 1M 64k", "discard 32k 4k", "read -P 0 32k 4k")
        with pytest.raises(ConflictError, match="attached to this host"):
            backend.revert(one, held, attempt())
    finally:
        serving.call(task.socket, serving.Detach())
    one = msgspec.structs.replace(one, virtual_bytes=2 * MIB)
    later = msgspec.structs.replace(held, id=str(uuid4()), virtual_bytes=2 * MIB)
    backend.snapshot(one, later, attempt())
    adopted = backend.adopt(one, f"volume-{one.id}", attempt()).snapshots
    assert [(each.id, each.virtual_bytes) for each in adopted] == [(held.id, MIB), (later.id, 2 * MIB)]
    assert storage.read(one, held) == (b"\1" * 65536).ljust(MIB, b"\0")
    backend.revert(one, held, attempt())
    assert storage.read(one) == (b"\1" * 65536).ljust(2 * MIB, b"\0")
    backend.delete(one, attempt())


def qemu_io(uri: str, *commands: str) -> None:
    words = [word for command in commands for word in ("-c", command)]
    command = ["qemu-io", "-d", "unmap", "-f", "raw", *words, uri]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stdout, done.stdout


def test_a_snapshot_that_was_cut_off_does_not_keep_its_page_blob(azure: str, memory: Path) -> None:
    storage = azure_storage(azure, memory)
    backend = storage.open()
    one = volume("gold", MIB)
    backend.create(one, attempt())

    async def cut_off(store: Store) -> None:
        assert isinstance(store, Snapshots)
        await store.snapshot(f"flat/{UUID(one.id).hex}")

    storage.run(cut_off)
    assert backend.check(one, ()) == []
    backend.delete(one, attempt())
    assert list(backend.inventory()) == []


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


# --- what the suite does not ask ------------------------------------------------------------------

MIB = 1 << 20


def attempt(operation: str = "") -> Attempt:
    return Attempt(operation_id=operation or str(uuid4()), token=uuid4().hex)


def volume(pool: str, length: int = 8 * MIB, **options: str) -> Volume:
    return Volume(id=str(uuid4()), virtual_bytes=length, pool=pool, options=options)


def section(**pool: object) -> dict[str, object]:
    return {"kind": "rest", "pools": {"one": {"urls": ["https://store.example.org/x"], **pool}}}


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        ({"store": "s3", "layout": "flat"}, "s3 writes no parts of objects"),
        ({"store": "webdav"}, 'layout = "flat"'),
        ({"store": "webdav", "layout": "round"}, "layout"),
        ({"store": "web", "layout": "flat"}, "store"),
    ],
)
def test_a_layout_that_the_store_cannot_have_is_refused(pool: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_config(section(**pool), "[backends.x]")


def test_passwords_are_not_sent_to_webdav_in_the_clear() -> None:
    pool = {"store": "webdav", "layout": "flat", "user": "u", "secret": "s", "urls": ["http://192.0.2.1/x"]}
    with pytest.raises(ConfigError, match="use https"):
        read_config(section(**pool), "[backends.x]")


@pytest.fixture
def both(memory: Path) -> RestBackend:
    """A back end with a pool of each layout."""
    pools = {}
    for layout in ("log", "flat"):
        (memory / layout).mkdir()
        pools[layout] = RestPool(store="directory", urls=[str(memory / layout)], layout=layout)
    return open_rest("rest", RestConfig(pools=pools, run_dir=str(memory / "run")), memory)


def test_each_pool_says_what_its_layout_can_do(both: RestBackend) -> None:
    able = {pool.name: pool.capabilities for pool in both.stats()}
    log, flat = able["log"], able["flat"]
    assert log is not None
    assert flat is not None
    assert (log.snapshots, log.revert, log.facts["layout"]) == (True, "any", "log")
    assert (flat.snapshots, flat.revert, flat.facts["layout"]) == (False, "none", "flat")
    assert both.capabilities() == log
    one = volume("flat")
    both.create(one, attempt())
    held = Snapshot(id=str(uuid4()), volume_id=one.id, virtual_bytes=one.virtual_bytes)
    for refused in (
        lambda: both.snapshot(one, held, attempt()),
        lambda: both.delete_snapshot(one, held, attempt()),
        lambda: both.revert(one, held, attempt()),
        lambda: both.create_from_snapshot(one, held, volume("log"), attempt()),
    ):
        with pytest.raises(UnsupportedError, match="Pool flat keeps volumes flat"):
            refused()
    for asking in (volume("flat", clone="linked"), volume("flat", durability="local")):
        with pytest.raises(InvalidInputError, match="no option"):
            both.create(asking, attempt())
    both.collect()
    assert both.check(one, ()) == []


def test_a_flat_volume_comes_back_under_its_own_name_only(both: RestBackend) -> None:
    one = volume("flat")
    both.create(one, attempt())
    reference = both.release(one, attempt())
    assert reference in {found.name for found in both.inventory()}
    found = both.adopt(one, reference, attempt())
    assert (found.virtual_bytes, found.snapshots, found.edits) == (8 * MIB, (), ())
    with pytest.raises(UnsupportedError, match="to be copied"):
        both.adopt(volume("flat"), reference, attempt())
    with pytest.raises(InvalidInputError, match="not 4096"):
        both.examine(msgspec.structs.replace(one, virtual_bytes=4096), reference)
    with pytest.raises(NotFoundError):
        both.examine(volume("flat"), f"volume-{uuid4()}")


def test_volumes_are_copied_from_one_layout_to_the_other(both: RestBackend, memory: Path) -> None:
    source, flat, back = volume("log"), volume("flat", 16 * MIB), volume("log", 16 * MIB)
    both.create(source, attempt())
    with both.open_data(source, writable=True) as data:
        data.write(5 * MIB + 17, b"here")
    held = Snapshot(id=str(uuid4()), volume_id=source.id, virtual_bytes=source.virtual_bytes)
    both.snapshot(source, held, attempt())
    both.create_from_snapshot(source, held, flat, attempt())
    both.create_from_snapshot(source, held, flat, attempt())
    both.clone(flat, back, attempt())
    with both.open_data(back) as data:
        assert data.read(5 * MIB + 10, 20) == bytes(7) + b"here" + bytes(9)
        assert data.read(8 * MIB, 8 * MIB) == bytes(8 * MIB)
    (found,) = (memory / "flat" / "flat").iterdir()
    assert found.stat().st_size == 16 * MIB
    assert found.stat().st_blocks * 512 <= 4 * MIB  # zeros are not sent


def test_an_import_that_was_stopped_is_swept(both: RestBackend, memory: Path) -> None:
    (memory / "image").write_bytes(b"x" * (8 * MIB))
    one, looks = volume("flat"), iter([False, False])
    stopped = Attempt(operation_id="op", token="t", cancelled=lambda: next(looks, True))
    with pytest.raises(CancelledOperationError):
        both.import_image(one, str(memory / "image"), "raw", stopped)
    with pytest.raises(NotFoundError):
        both.connection_info(one, {})
    assert {found.kind for found in both.inventory()} == {"temporary"}  # no lock
    assert both.sweep(frozenset({"op"})) == []
    assert len(both.sweep(frozenset())) == 1
    assert list(both.inventory()) == []
    both.import_image(one, str(memory / "image"), "raw", attempt())
    both.export_image(one, None, str(memory / "out"), "raw", attempt())
    assert (memory / "out").read_bytes() == (memory / "image").read_bytes()
