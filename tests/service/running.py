"""A worker with a memory back end, and the promises made to it: the service without HTTP."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from breezeblock.app.compose import make_service
from breezeblock.app.worker import Worker
from breezeblock.backends.contract import Backend
from breezeblock.backends.decorators import wrap
from breezeblock.backends.memory import MemoryBackend, MemoryConfig
from breezeblock.catalog import migrate
from breezeblock.catalog.database import Database
from breezeblock.config import Config, DatabaseSection, EngineSection, PoolPolicy
from breezeblock.engine.dbos_engine import DbosEngine
from breezeblock.errors import NotFoundError
from breezeblock.service import snapshots, volumes
from breezeblock.service.core import GIB, Caller, Service

PATIENCE_S = 30.0
ME = Caller(project_id="a" * 32, user_id="b" * 32, roles=frozenset({"member"}), request_id="req-me")
ADMIN = Caller(project_id="c" * 32, user_id="d" * 32, roles=frozenset({"admin"}), request_id="req-admin")


@dataclass
class Running:
    """What a test talks to."""

    service: Service
    database: Database
    worker: Worker
    backend: MemoryBackend

    def until_volume(self, volume_id: str, *statuses: str) -> str:
        return until(lambda: volumes.get(self.service, ADMIN, volume_id).status, *statuses)

    def until_snapshot(self, snapshot_id: str, *statuses: str) -> str:
        return until(lambda: snapshots.get(self.service, ADMIN, snapshot_id).status, *statuses)

    def volume(self, **wanted: object) -> str:
        new = volumes.NewVolume(**({"virtual_bytes": GIB} | wanted))  # type: ignore[arg-type]
        volume_id = volumes.create(self.service, ME, new)
        assert self.until_volume(volume_id, "available", "error") == "available"
        return volume_id

    def snapshot(self, volume_id: str) -> str:
        snapshot_id = snapshots.create(self.service, ME, snapshots.NewSnapshot(volume_id=volume_id))
        assert self.until_snapshot(snapshot_id, "available", "error") == "available"
        return snapshot_id


def until(status: Callable[[], str], *wanted: str) -> str:
    """Wait for one of some statuses; "gone" means that nothing is found."""
    end = time.monotonic() + PATIENCE_S
    found = ""
    while time.monotonic() < end:
        try:
            found = status()
        except NotFoundError:
            found = "gone"
        if found in wanted:
            return found
        time.sleep(0.002)
    raise AssertionError(f"still {found} after {PATIENCE_S} s, expected {wanted}")


@contextmanager
def running(
    directory: Path,
    url: str = "",
    *,
    pools_bytes: int = 1 << 40,
    decorate: Callable[[Backend], Backend] = lambda backend: backend,
    concurrency: int = 8,
    policy: PoolPolicy = PoolPolicy(),  # noqa: B008 - frozen
) -> Iterator[Running]:
    """Run a worker until the block ends."""
    config = Config(
        database=DatabaseSection(url=url or f"sqlite:///{directory / 'catalog.db'}"),
        engine=EngineSection(concurrency=concurrency, poll_interval_s=0.05, executor_id="test"),
    )
    database = Database(config.database.url)
    migrate.upgrade(database)
    storage = directory / "storage"
    storage.mkdir(exist_ok=True)
    backend = MemoryBackend("memory", MemoryConfig(path=str(storage), total_bytes=pools_bytes))
    # Tests that make storage fail want to see the failure, not the retries that hide it.
    backends = {"memory": wrap(decorate(backend), tries=1)}
    worker = Worker(config, database, backends, {"memory": policy}, DbosEngine, alone=True)
    worker.start(lost=lambda: None)
    try:
        service = make_service(config, database, worker.dispatcher.wake)
        yield Running(service, database, worker, backend)
    finally:
        worker.stop(10.0)
        worker.close()
        database.dispose()
