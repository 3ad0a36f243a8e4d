"""A service with a worker in this process, put together as the commands do it; judged before it stops."""

from collections.abc import Iterator
from contextlib import contextmanager

from breezeblock.app import compose
from breezeblock.app.worker import Worker
from breezeblock.catalog import invariants
from breezeblock.config import Config
from breezeblock.engine.dbos_engine import DbosEngine
from breezeblock.service.core import Service


@contextmanager
def working(config: Config) -> Iterator[Service]:
    database = compose.open_database(config)
    backends, policies = compose.open_backends(config)
    worker = Worker(config, database, backends, policies, DbosEngine, alone=True)
    worker.start(lost=lambda: None)
    try:
        yield compose.make_service(config, database, worker.dispatcher.wake)
        with database.read() as connection:
            assert invariants.miscounts(connection) == []
            assert invariants.orphans(connection) == []
    finally:
        worker.stop(10.0)
        worker.close()
        database.dispose()
