"""Compare-and-set, quota, pools and the queue, on both databases."""

import threading
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from breezeblock.catalog import operations, pools, quotas, rows, tables
from breezeblock.catalog.clock import now, ordered_id
from breezeblock.catalog.database import Database
from breezeblock.errors import OverQuotaError

PROJECT = "a" * 32


def add_operation(connection: sa.Connection, lane: str, backend: str = "one") -> str:
    operation_id = ordered_id()
    operations.enqueue(
        connection,
        id=operation_id,
        kind="create_volume",
        lane=lane,
        backend=backend,
        resource_type="volume",
        resource_id=lane,
        project_id=PROJECT,
        user_id="u",
        request_id="r",
    )
    return operation_id


def add_volume(connection: sa.Connection, volume_id: str, status: str, op_id: str | None = None) -> None:
    type_id = connection.execute(sa.select(tables.volume_types.c.id)).scalar_one()
    rows.insert(
        connection,
        tables.volumes,
        id=volume_id,
        project_id=PROJECT,
        user_id="u",
        virtual_bytes=1 << 30,
        status=status,
        op_id=op_id,
        backend="one",
        pool="p",
        volume_type_id=type_id,
        availability_zone="nova",
        created_at=now(),
    )


def in_parallel(count: int, work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_ordered_ids_sort_by_time() -> None:
    ids = [ordered_id() for _ in range(2000)]
    firsts = [one[:18] for one in ids]
    assert firsts == sorted(firsts)
    assert {one[14] for one in ids} == {"7"}


def test_compare_and_set(database: Database) -> None:
    with database.write() as connection:
        add_volume(connection, "v", "available")
    with database.write() as connection:
        taken = rows.compare_and_set(
            connection, tables.volumes, "v", ("available",), status="extending", op_id="1"
        )
        again = rows.compare_and_set(
            connection, tables.volumes, "v", ("available", "extending"), status="deleting", op_id="2"
        )
        assert (taken, again) == (True, False)
        assert not rows.finish(connection, tables.volumes, "v", "2", status="error")
        assert rows.finish(connection, tables.volumes, "v", "1", status="available")
        assert not rows.finish(connection, tables.volumes, "v", "1", status="error")
        row = rows.one(connection, tables.volumes, "v")
        assert row is not None
        assert (row.status, row.op_id) == ("available", None)


def test_quota_is_never_passed_by_a_crowd(database: Database) -> None:
    limits = {"volumes": 25, "gigabytes": 1000}
    refused = []

    def take() -> None:
        for _ in range(10):
            try:
                with database.write() as connection:
                    quotas.take(connection, PROJECT, {"volumes": 1, "gigabytes": 2}, limits)
            except OverQuotaError as error:
                refused.append(str(error))

    in_parallel(4, take)
    with database.write() as connection:
        assert quotas.usages(connection, PROJECT) == {"volumes": 25, "gigabytes": 50}
        quotas.take(connection, PROJECT, {"volumes": -25, "gigabytes": -50}, {})
        assert set(quotas.usages(connection, PROJECT).values()) == {0}
    assert len(refused) == 15
    assert "(25)" in refused[0]


def test_a_refused_quota_takes_nothing(database: Database) -> None:
    with pytest.raises(OverQuotaError), database.write() as connection:
        quotas.take(connection, PROJECT, {"gigabytes": 5, "volumes": 1}, {"gigabytes": 10, "volumes": 0})
    with database.read() as connection:
        assert quotas.usages(connection, PROJECT) == {}


def test_limits_of_a_project_stand_before_those_of_the_class(database: Database) -> None:
    with database.write() as connection:
        for scope, limit in ((quotas.DEFAULT_CLASS, 7), (PROJECT, 3)):
            connection.execute(
                sa.insert(tables.quota_limits).values(scope=scope, resource="volumes", hard_limit=limit)
            )
        assert quotas.limits(connection, PROJECT, {"volumes": 10, "snapshots": 5}) == {
            "volumes": 3,
            "snapshots": 5,
        }
        assert quotas.limits(connection, "b" * 32, {"volumes": 10})["volumes"] == 7


def test_a_pool_promises_no_more_than_its_limit(database: Database) -> None:
    values = {
        "host": "h",
        "total_bytes": 100,
        "free_bytes": 100,
        "up": True,
        "reason": "",
        "capabilities": "{}",
    }
    with database.write() as connection:
        pools.report(connection, "one", "p", values)
    in_parallel(8, lambda: _provision(database, 30, 100))
    with database.write() as connection:
        pools.report(connection, "one", "p", {**values, "free_bytes": 50})  # looking changes no promise
        (pool,) = pools.all_pools(connection)
        assert (pool.provisioned_bytes, pool.free_bytes) == (90, 50)


def _provision(database: Database, amount: int, limit: int) -> None:
    with database.write() as connection:
        pools.provision(connection, "one", "p", amount, limit)


def test_a_lane_runs_one_at_a_time_in_order(database: Database) -> None:
    with database.write() as connection:
        first, second = add_operation(connection, "v"), add_operation(connection, "v")
        other = add_operation(connection, "w")
        elsewhere = add_operation(connection, "x", backend="two")
    with database.write() as connection:
        assert operations.claim(connection, "me", ["one"], 10) == [(first, 1), (other, 1)]
    with database.write() as connection:
        assert operations.claim(connection, "me", ["one"], 10) == []
        assert operations.finish(connection, first, 1, "done")
        assert operations.claim(connection, "me", ["one"], 10) == [(second, 1)]
        assert operations.claim(connection, "me", ["one", "two"], 10) == [(elsewhere, 1)]
        assert operations.busy_executors(connection) == {"me"}


def test_a_crowd_of_workers_claims_each_once(database: Database) -> None:
    with database.write() as connection:
        made = [add_operation(connection, f"lane-{number % 7}") for number in range(60)]
    claimed: list[str] = []

    def work() -> None:
        for _ in range(200):
            with database.write() as connection:
                for operation_id, attempt in operations.claim(connection, "me", ["one"], 3):
                    assert attempt == 1
                    claimed.append(operation_id)
            with database.write() as connection:
                for operation_id in claimed:
                    operations.finish(connection, operation_id, 1, "done")
            if len(claimed) >= len(made):
                return

    in_parallel(3, work)
    assert sorted(claimed) == sorted(made)
    for lane in range(7):
        own = [one for one in made if made.index(one) % 7 == lane]
        assert [one for one in claimed if one in own] == own


def test_a_requeued_operation_fences_its_last_attempt(database: Database) -> None:
    with database.write() as connection:
        operation = add_operation(connection, "v")
        operations.claim(connection, "dead", ["one"], 1)
        assert not operations.requeue(connection, operation, 2)
        assert operations.requeue(connection, operation, 1)
        assert operations.claim(connection, "alive", ["one"], 1) == [(operation, 2)]
        assert operations.adopt(connection, operation, 1, "dead") is None
        adopted = operations.adopt(connection, operation, 2, "alive")
        assert adopted is not None
        assert adopted.executor == "alive"
        assert not operations.finish(connection, operation, 1, "error", error="too late")
        assert operations.finish(connection, operation, 2, "done")


def test_a_reader_sees_one_state_while_others_write(database: Database) -> None:
    count = sa.select(sa.func.count()).select_from(tables.volumes)
    with database.read() as reading:
        assert reading.execute(count).scalar_one() == 0
        with database.write() as writing:
            add_volume(writing, ordered_id(), "available")
        assert reading.execute(count).scalar_one() == 0
    with database.read() as reading:
        assert reading.execute(count).scalar_one() == 1
