"""Linked clones as callers see them: on a worker with a back end of files, real images and the engine."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from running import ADMIN, ME, until

from breezeblock.app.compose import make_service
from breezeblock.app.worker import Worker
from breezeblock.backends.decorators import wrap
from breezeblock.backends.local import LocalConfig, open_local
from breezeblock.catalog import families, invariants, migrate, tables
from breezeblock.catalog.clock import now
from breezeblock.catalog.database import Database
from breezeblock.config import Config, DatabaseSection, EngineSection, ImagesSection, PoolPolicy
from breezeblock.engine.dbos_engine import DbosEngine
from breezeblock.errors import ConflictError
from breezeblock.service import layers, snapshots, volumes
from breezeblock.service.core import GIB, Service
from breezeblock.service.snapshots import NewSnapshot
from breezeblock.service.volumes import NewVolume


class Files:
    """A running service over one directory."""

    def __init__(self, service: Service, database: Database, worker: Worker, pool: Path) -> None:
        self.service, self.database, self.worker, self.pool = service, database, worker, pool

    def volume(self, **wanted: object) -> str:
        volume_id = volumes.create(self.service, ME, NewVolume(**({"virtual_bytes": GIB} | wanted)))  # type: ignore[arg-type]
        assert self.until_volume(volume_id, "available", "error") == "available"
        return volume_id

    def clone(self, source: str) -> str:
        return self.volume(source_volid=source, virtual_bytes=None)

    def snapshot(self, volume_id: str) -> str:
        snapshot_id = snapshots.create(self.service, ME, NewSnapshot(volume_id=volume_id))
        until(lambda: snapshots.get(self.service, ME, snapshot_id).status, "available")
        return snapshot_id

    def row(self, volume_id: str) -> sa.Row[Any]:
        return volumes.get(self.service, ADMIN, volume_id)

    def until_volume(self, volume_id: str, *statuses: str) -> str:
        return until(lambda: volumes.get(self.service, ADMIN, volume_id).status, *statuses)

    def until_free(self, volume_id: str) -> None:
        until(lambda: str(volumes.get(self.service, ADMIN, volume_id).op_id), "None")

    def delete(self, volume_id: str) -> None:
        volumes.delete(self.service, ME, volume_id, cascade=True)
        assert self.until_volume(volume_id, "gone", "error_deleting") == "gone"

    def kept(self) -> set[str]:
        with self.database.read() as connection:
            return {one.id for one in families.members(connection) if one.deleted}

    def settled(self) -> None:
        with self.database.read() as connection:
            assert invariants.miscounts(connection) == []
            assert invariants.orphans(connection) == []


@contextmanager
def serving(
    directory: Path, policy: PoolPolicy, *, url: str = "", images: ImagesSection | None = None
) -> Iterator[Files]:
    directory.mkdir(exist_ok=True)
    config = Config(
        images=images or ImagesSection(),
        database=DatabaseSection(url=url or f"sqlite:///{directory / 'catalog.db'}"),
        engine=EngineSection(poll_interval_s=0.05, executor_id="test"),
    )
    database = Database(config.database.url)
    migrate.upgrade(database)
    pool = directory / "pool"
    backends = {"here": wrap(open_local("here", LocalConfig(path=str(pool)), directory), tries=1)}
    worker = Worker(config, database, backends, {"here": policy}, DbosEngine, alone=True)
    worker.start(lost=lambda: None)
    try:
        yield Files(make_service(config, database, worker.dispatcher.wake), database, worker, pool)
    finally:
        worker.stop(10.0)
        worker.close()
        database.dispose()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Files]:
    with serving(tmp_path, PoolPolicy(max_over_subscription_ratio=1000)) as found:
        yield found


def test_the_catalog_knows_who_rests_on_whom(run: Files) -> None:
    parent = run.volume()
    child = run.clone(parent)
    grandchild = run.clone(child)
    assert [run.row(one).parent_id for one in (parent, child, grandchild)] == [None, parent, child]
    shown = {one.id: one for one in layers.families(run.service, ME)}
    assert shown.keys() == {parent, child, grandchild}
    assert shown[grandchild].depth > shown[child].depth - 1 >= 1
    run.delete(parent)
    run.delete(child)
    assert run.kept() == {parent, child}
    run.delete(grandchild)
    assert run.kept() == set()
    assert list(run.pool.iterdir()) == []
    run.settled()


def test_flatten_lets_the_parent_go(run: Files) -> None:
    parent = run.volume()
    child = run.clone(parent)
    with pytest.raises(ConflictError, match="rest on it"):
        layers.flatten(run.service, ME, parent)
    run.delete(parent)
    layers.flatten(run.service, ME, child)
    run.until_free(child)
    row = run.row(child)
    assert (row.status, row.parent_id, row.depth) == ("available", None, 1)
    assert run.kept() == set()
    assert not list(run.pool.glob(f"*{parent}*"))
    run.settled()


def test_a_type_can_ask_for_full_copies(run: Files) -> None:
    with run.database.write() as connection:
        values = {"id": "full", "name": "full", "extra_specs": '{"breezeblock:clone": "full"}'}
        connection.execute(sa.insert(tables.volume_types).values(**values, created_at=now()))
    parent = run.volume()
    child = run.volume(source_volid=parent, virtual_bytes=None, volume_type="full")
    assert run.row(child).parent_id is None
    assert run.row(parent).depth == 1


def test_near_the_limit_clones_are_copied_and_snapshots_refused_with_the_reason(tmp_path: Path) -> None:
    with serving(tmp_path, PoolPolicy(max_chain_depth=3, max_over_subscription_ratio=1000)) as run:
        parent = run.volume()
        held = [run.snapshot(parent) for _ in range(2)]
        with pytest.raises(ConflictError, match=r"3 layers.*it has 2 snapshots.*Delete snapshots"):
            run.snapshot(parent)
        child = run.clone(parent)
        assert run.row(child).parent_id is None
        snapshots.delete(run.service, ME, held[0])
        until(lambda: snapshots.get(run.service, ME, held[0]).status, "gone")
        run.snapshot(parent)
        run.settled()


def test_a_full_chain_is_shortened_before_it_is_refused(tmp_path: Path) -> None:
    policy = PoolPolicy(max_chain_depth=3, background_bytes_per_s=0, max_over_subscription_ratio=1000)
    with serving(tmp_path, policy) as run:
        parent = run.volume()
        held = run.snapshot(parent)
        child = run.volume(snapshot_id=held, virtual_bytes=None)
        snapshots.delete(run.service, ME, held)
        until(lambda: snapshots.get(run.service, ME, held).status, "gone")
        run.snapshot(parent)
        assert (run.row(parent).depth, run.row(parent).hidden_layers) == (3, 1)
        with pytest.raises(ConflictError, match="1 layers that its clones need"):
            run.snapshot(parent)
        run.delete(child)
        run.snapshot(parent)
        assert (run.row(parent).depth, run.row(parent).hidden_layers) == (3, 0)
        run.settled()


def test_what_nobody_needs_is_merged_in_the_background(run: Files) -> None:
    parent = run.volume()
    child = run.clone(parent)
    assert run.row(parent).hidden_layers == 1
    with run.database.write() as connection:
        assert layers.shorten_due(connection, {"here": 1 << 20}, 10) == 0
    run.delete(child)
    until(lambda: str(run.row(parent).hidden_layers), "0")
    run.until_free(parent)
    assert run.row(parent).depth == 1
    run.settled()


def test_a_look_at_the_pools_costs_the_same_however_many_volumes_there_are(run: Files) -> None:
    counts = []
    said: list[str] = []
    volume = run.volume()
    row = dict(run.row(volume)._mapping)
    for number in (0, 10_000):
        with run.database.write() as connection:
            copies = [{**row, "id": f"{index:08d}{volume[8:]}"} for index in range(number)]
            if copies:
                connection.execute(sa.insert(tables.volumes), copies)

            def hear(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
                if threading.current_thread() is threading.main_thread():  # others are at work too
                    said.append(statement)

            sa.event.listen(connection.engine, "before_cursor_execute", hear)
            engine_heard = connection.engine
        said.clear()
        run.worker.look("here")
        sa.event.remove(engine_heard, "before_cursor_execute", hear)
        counts.append([text.split()[0] for text in said])
    assert counts[0] == counts[1]
    assert set(counts[0]) <= {"SELECT", "INSERT", "BEGIN", "COMMIT"}
