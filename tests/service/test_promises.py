"""What callers are promised, from the request to the row's end, on a real worker and engine."""

from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from running import ADMIN, ME, Running

from breezeblock.catalog import invariants, pools, tables
from breezeblock.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError, OverQuotaError
from breezeblock.service import attachments, legacy_attach, marks, operations, scheduling, snapshots, volumes
from breezeblock.service.core import GIB, Caller
from breezeblock.service.snapshots import NewSnapshot
from breezeblock.service.volumes import NewVolume


def settled(run: Running) -> None:
    """Every count is right and every row is nobody's."""
    with run.database.read() as connection:
        assert invariants.miscounts(connection) == []
        assert invariants.orphans(connection) == []


def test_life_of_a_volume(run: Running) -> None:
    volume = run.volume(name="first", metadata={"a": "b"})
    row = volumes.get(run.service, ME, volume)
    assert (row.name, row.virtual_bytes, row.metadata, row.op_id) == ("first", GIB, '{"a":"b"}', None)
    snapshot = run.snapshot(volume)
    copy = run.volume(snapshot_id=snapshot, virtual_bytes=None)
    larger = run.volume(source_volid=volume, virtual_bytes=3 * GIB)
    assert volumes.get(run.service, ME, copy).virtual_bytes == GIB
    assert volumes.get(run.service, ME, larger).virtual_bytes == 3 * GIB
    settled(run)
    volumes.extend(run.service, ME, volume, 2 * GIB)
    run.until_volume(volume, "available")
    assert volumes.get(run.service, ME, volume).virtual_bytes == 2 * GIB
    volumes.revert(run.service, ME, volume, snapshot)
    run.until_volume(volume, "available")
    settled(run)
    snapshots.delete(run.service, ME, snapshot)
    run.until_snapshot(snapshot, "gone")
    for one in (volume, copy, larger):
        volumes.delete(run.service, ME, one)
        run.until_volume(one, "gone")
    settled(run)
    assert list(run.backend.inventory()) == []
    with run.database.read() as connection:
        assert all(pool.provisioned_bytes == 0 for pool in pools.all_pools(connection))
        assert connection.execute(sa.select(sa.func.sum(tables.quota_usages.c.in_use))).scalar() == 0


def test_a_volume_with_snapshots_needs_cascade(run: Running) -> None:
    volume = run.volume()
    run.snapshot(volume)
    run.snapshot(volume)
    with pytest.raises(ConflictError, match="have snapshots"):
        volumes.delete(run.service, ME, volume)
    volumes.delete(run.service, ME, volume, cascade=True)
    run.until_volume(volume, "gone")
    settled(run)
    assert list(run.backend.inventory()) == []


def test_another_project_sees_nothing(run: Running) -> None:
    volume = run.volume()
    snapshot = run.snapshot(volume)
    stranger = Caller(project_id="e" * 32, user_id="f" * 32, roles=frozenset({"member"}))
    with pytest.raises(NotFoundError):
        volumes.get(run.service, stranger, volume)
    with pytest.raises(NotFoundError):
        volumes.delete(run.service, stranger, volume)
    with pytest.raises(NotFoundError):
        snapshots.get(run.service, stranger, snapshot)
    with pytest.raises(NotFoundError):
        volumes.create(run.service, stranger, NewVolume(snapshot_id=snapshot))
    with pytest.raises(NotFoundError):
        volumes.create(run.service, stranger, NewVolume(source_volid=volume))
    with pytest.raises(ForbiddenError):
        volumes.force_delete(run.service, ME, volume)


def test_too_large_for_every_pool_names_each(run: Running) -> None:
    with pytest.raises(InvalidInputError, match=r"memory#memory: its largest volume is 1024 GiB"):
        volumes.create(run.service, ME, NewVolume(virtual_bytes=90_000 * GIB))
    with run.database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(tables.volumes)).scalar() == 0
    settled(run)


def test_quota_is_taken_and_a_refusal_leaves_nothing(run: Running) -> None:
    with run.database.write() as connection:
        for resource, limit in (("volumes", 2), ("gigabytes", 4), ("snapshots", 1)):
            connection.execute(
                sa.insert(tables.quota_limits).values(
                    scope=ME.project_id, resource=resource, hard_limit=limit
                )
            )
    first = run.volume()
    run.snapshot(first)
    with pytest.raises(OverQuotaError, match="snapshots"):
        snapshots.create(run.service, ME, NewSnapshot(volume_id=first))
    with pytest.raises(OverQuotaError, match="exceeds allowed gigabytes quota"):
        volumes.create(run.service, ME, NewVolume(virtual_bytes=3 * GIB))
    run.volume()
    with pytest.raises(OverQuotaError, match="VolumeLimitExceeded"):
        volumes.create(run.service, ME, NewVolume(virtual_bytes=GIB))
    with pytest.raises(OverQuotaError, match="gigabytes"):
        volumes.extend(run.service, ME, first, 4 * GIB)
    settled(run)


def test_sizes_and_sources_that_cannot_be(run: Running) -> None:
    volume = run.volume(virtual_bytes=2 * GIB)
    snapshot = run.snapshot(volume)
    for wanted, message in (
        (NewVolume(), "at least 1"),
        (NewVolume(source_volid=volume, virtual_bytes=GIB), "smaller than original"),
        (NewVolume(snapshot_id=snapshot, virtual_bytes=GIB), "smaller than original"),
        (NewVolume(virtual_bytes=GIB, availability_zone="mars"), "mars"),
        (NewVolume(snapshot_id=snapshot, source_volid=volume), "both"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            volumes.create(run.service, ME, wanted)
    with pytest.raises(InvalidInputError, match="must be greater"):
        volumes.extend(run.service, ME, volume, 2 * GIB)
    with pytest.raises(NotFoundError, match="nosuch"):
        volumes.create(run.service, ME, NewVolume(virtual_bytes=GIB, volume_type="nosuch"))
    settled(run)


def test_attachment_from_reservation_to_the_end(run: Running) -> None:
    volume = run.volume()
    attachment = attachments.create(run.service, ME, attachments.NewAttachment(volume_id=volume))
    assert volumes.get(run.service, ME, volume).status == "reserved"
    with pytest.raises(ConflictError):
        attachments.create(run.service, ME, attachments.NewAttachment(volume_id=volume))
    with pytest.raises(ConflictError, match="reserved"):
        attachments.complete(run.service, ME, attachment)
    attachments.connect(run.service, ME, attachment, {"host": "here"})
    assert attachments.get(run.service, ME, attachment).connection_info
    assert volumes.get(run.service, ME, volume).status == "attaching"
    attachments.complete(run.service, ME, attachment)
    assert volumes.get(run.service, ME, volume).status == "in-use"
    for refused in (
        lambda: volumes.delete(run.service, ME, volume),
        lambda: volumes.extend(run.service, ME, volume, 2 * GIB),
        lambda: snapshots.create(run.service, ME, NewSnapshot(volume_id=volume)),
        lambda: volumes.create(run.service, ME, NewVolume(source_volid=volume)),
    ):
        with pytest.raises(ConflictError):
            refused()
    assert attachments.delete(run.service, ME, attachment) == []
    assert volumes.get(run.service, ME, volume).status == "available"
    settled(run)


def test_attaching_the_old_way(run: Running) -> None:
    volume = run.volume()
    legacy_attach.reserve(run.service, ME, volume)
    info = legacy_attach.initialize_connection(run.service, ME, volume, {"host": "here"})
    assert info["driver_volume_type"]
    legacy_attach.attach(
        run.service, ME, volume, instance_id=None, host_name="here", mountpoint="/dev/vdb", mode="rw"
    )
    assert volumes.get(run.service, ME, volume).status == "in-use"
    legacy_attach.begin_detaching(run.service, ME, volume)
    legacy_attach.roll_detaching(run.service, ME, volume)
    legacy_attach.terminate_connection(run.service, ME, volume, {"host": "here"})
    legacy_attach.detach(run.service, ME, volume)
    assert volumes.get(run.service, ME, volume).status == "available"
    legacy_attach.reserve(run.service, ME, volume)
    legacy_attach.unreserve(run.service, ME, volume)
    assert volumes.get(run.service, ME, volume).status == "available"
    settled(run)


def test_a_readonly_volume_is_attached_readonly(run: Running) -> None:
    volume = run.volume()
    marks.set_readonly(run.service, ME, volume, readonly=True)
    new = attachments.NewAttachment(volume_id=volume, connector={"host": "here"}, mode="rw")
    with pytest.raises(ConflictError, match="read-only"):
        attachments.create(run.service, ME, new)


def test_operations_tell_what_was_done(run: Running) -> None:
    volume = run.volume()
    (row,) = operations.list_(run.service, ME, volume_id=volume)
    assert (row.kind, row.state, row.resource_id, row.attempts) == ("create_volume", "done", volume, 1)
    assert operations.get(run.service, ME, row.id).request_id == "req-me"
    with pytest.raises(ConflictError, match="already ended"):
        operations.cancel(run.service, ME, row.id)
    stranger = Caller(project_id="e" * 32, user_id="f" * 32)
    with pytest.raises(NotFoundError):
        operations.get(run.service, stranger, row.id)
    assert operations.list_(run.service, stranger) == []
    assert [r.id for r in operations.list_(run.service, ADMIN)] == [row.id]


def test_what_may_be_promised_and_what_may_be_used_of_a_pool(run: Running) -> None:
    with run.database.read() as connection:
        (row,) = pools.all_pools(connection)

    def refusal(gib: int, **settings: object) -> str:
        facts = {"up": True, "total_bytes": 100 * GIB, "free_bytes": 40 * GIB, "provisioned_bytes": 0}
        pool: Any = SimpleNamespace(**{**row._mapping, **facts, **settings})
        return scheduling.refusal(pool, gib * GIB, {})

    assert refusal(100, max_over_subscription_ratio=1.0) == ""
    assert "over-subscription 1" in refusal(101, max_over_subscription_ratio=1.0)
    assert refusal(150, max_over_subscription_ratio=1.5) == ""
    assert "may promise are promised" in refusal(
        1, max_over_subscription_ratio=1.5, provisioned_bytes=150 * GIB
    )
    assert "reserved 10 %" in refusal(91, max_over_subscription_ratio=1.0, reserved_percentage=10)
    assert refusal(1, used_ratio=0.6) == ""
    assert "60.0 GiB of 100.0 GiB are in use, 50% may be" in refusal(1, used_ratio=0.5)
