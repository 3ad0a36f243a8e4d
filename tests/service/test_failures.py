"""Storage that fails, hangs or is asked to stop; processes that die between any two steps."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from running import ADMIN, ME, Running, running, until

from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Backend, Placement, Volume
from breezeblock.backends.decorators.faults import Fault, add_faults
from breezeblock.backends.proxy import Proxy
from breezeblock.catalog import invariants, tables
from breezeblock.catalog import operations as rows_of_operations
from breezeblock.engine.dispatcher import MAX_ATTEMPTS
from breezeblock.errors import (
    BreezeblockError,
    CancelledOperationError,
    CorruptError,
    NoSpaceError,
    UnavailableError,
)
from breezeblock.service import attachments, operations, snapshots, volumes
from breezeblock.service.core import GIB
from breezeblock.service.snapshots import NewSnapshot
from breezeblock.service.volumes import NewVolume


def settled(run: Running) -> None:
    with run.database.read() as connection:
        assert invariants.miscounts(connection) == []
        assert invariants.orphans(connection) == []


def reasons(run: Running, resource_id: str) -> list[str]:
    table = tables.messages
    with run.database.read() as connection:
        found = connection.execute(
            sa.select(table.c.user_message).where(table.c.resource_uuid == resource_id)
        )
        return list(found.scalars())


def broken(verb: str, error: BreezeblockError, when: str = "before") -> Any:
    return lambda backend: add_faults(backend, Fault(verb=verb, error=error, when=when))  # type: ignore[arg-type]


def test_a_failed_create_says_why_and_can_be_deleted(tmp_path: Path) -> None:
    with running(tmp_path, decorate=broken("create", NoSpaceError("disk full", remedy="Buy one."))) as run:
        volume = volumes.create(run.service, ME, NewVolume(virtual_bytes=GIB))
        assert run.until_volume(volume, "available", "error") == "error"
        assert reasons(run, volume) == ["disk full Buy one."]
        (operation,) = operations.list_(run.service, ME)
        assert (operation.state, operation.error) == ("error", "disk full Buy one.")
        settled(run)
        volumes.delete(run.service, ME, volume)
        run.until_volume(volume, "gone")
        settled(run)


@pytest.mark.parametrize("verb", ["create", "clone", "create_from_snapshot", "snapshot"])
def test_what_failed_after_it_was_done_is_taken_back(tmp_path: Path, verb: str) -> None:
    nth = 2 if verb == "create" else 1  # the first creates the source
    fault = Fault(verb=verb, nth=nth, error=UnavailableError("gone away"), when="after")
    with running(tmp_path, decorate=lambda backend: add_faults(backend, fault)) as run:
        source = run.volume()
        snapshot = run.snapshot(source) if verb == "create_from_snapshot" else None
        before = {found.name for found in run.backend.inventory()}
        if verb == "snapshot":
            made = snapshots.create(run.service, ME, NewSnapshot(volume_id=source))
            assert run.until_snapshot(made, "available", "error") == "error"
        else:
            new = NewVolume(
                virtual_bytes=GIB, snapshot_id=snapshot, source_volid=source if verb == "clone" else None
            )
            made = volumes.create(run.service, ME, new)
            assert run.until_volume(made, "available", "error") == "error"
        assert {found.name for found in run.backend.inventory()} == before
        assert volumes.get(run.service, ME, source).status == "available"
        assert reasons(run, made) == ["gone away"]
        settled(run)


def test_something_of_a_strangers_is_left_alone(tmp_path: Path) -> None:
    deleted: list[str] = []

    def around(verb: str, call: Any) -> Any:
        if verb == "delete":
            deleted.append(verb)
        return call()

    def decorate(backend: Backend) -> Backend:
        foreign = Fault(verb="create", error=CorruptError("a directory is in the way"))
        return Proxy(add_faults(backend, foreign), around)

    with running(tmp_path, decorate=decorate) as run:
        volume = volumes.create(run.service, ME, NewVolume(virtual_bytes=GIB))
        assert run.until_volume(volume, "error", "available") == "error"
        assert deleted == []


def test_an_internal_error_shows_no_internals(tmp_path: Path) -> None:
    fault = Fault(verb="create", error=ZeroDivisionError("secret detail"))
    with running(tmp_path, decorate=lambda backend: add_faults(backend, fault)) as run:
        volume = volumes.create(run.service, ME, NewVolume(virtual_bytes=GIB))
        assert run.until_volume(volume, "error", "available") == "error"
        assert reasons(run, volume) == ["an internal error, see the service's log"]


@pytest.mark.parametrize(
    ("verb", "status"), [("delete", "error_deleting"), ("extend", "error_extending"), ("revert", "error")]
)
def test_failures_of_the_other_verbs(tmp_path: Path, verb: str, status: str) -> None:
    with running(tmp_path, decorate=broken(verb, UnavailableError("no answer"))) as run:
        volume = run.volume()
        snapshot = run.snapshot(volume) if verb == "revert" else ""
        if verb == "delete":
            volumes.delete(run.service, ME, volume)
        elif verb == "extend":
            volumes.extend(run.service, ME, volume, 5 * GIB)
        else:
            volumes.revert(run.service, ME, volume, snapshot)
        assert run.until_volume(volume, status, "available", "gone") == status
        assert reasons(run, volume) == ["no answer"]
        assert volumes.get(run.service, ME, volume).virtual_bytes == GIB
        if snapshot:
            assert snapshots.get(run.service, ME, snapshot).status == "available"
        settled(run)
        volumes.delete(run.service, ME, volume, cascade=True)
        run.until_volume(volume, "gone")
        settled(run)


def test_a_failed_connection_reaches_the_caller(tmp_path: Path) -> None:
    with running(tmp_path, decorate=broken("connection_info", UnavailableError("no route"))) as run:
        volume = run.volume()
        new = attachments.NewAttachment(volume_id=volume, connector={"host": "here"})
        with pytest.raises(BreezeblockError, match="no route"):
            attachments.create(run.service, ME, new)
        assert volumes.get(run.service, ME, volume).status == "error_attaching"
        with run.database.read() as connection:
            (left,) = connection.execute(sa.select(tables.attachments.c.id)).scalars()
        assert attachments.delete(run.service, ME, left) == []
        assert volumes.get(run.service, ME, volume).status == "available"
        settled(run)


@dataclass
class Gate:
    """Holds the back end's verb until it is let go, noting who is inside."""

    verb: str
    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    opened: threading.Event = field(default_factory=threading.Event)
    inside: int = 0
    most_inside: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def around(self, verb: str, call: Any) -> Any:
        if verb != self.verb:
            return call()
        with self._lock:
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
        self.entered.release()
        try:
            assert self.opened.wait(30)
            return call()
        finally:
            with self._lock:
                self.inside -= 1


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate("clone")
    yield gate
    gate.opened.set()


def test_one_volume_one_operation_others_meanwhile(tmp_path: Path, gate: Gate) -> None:
    with running(tmp_path, decorate=lambda backend: Proxy(backend, gate.around)) as run:
        one, other = run.volume(), run.volume()
        clones = [volumes.create(run.service, ME, NewVolume(source_volid=one)) for _ in range(3)]
        assert gate.entered.acquire(timeout=30)
        volumes.delete(run.service, ME, one)  # waits its turn behind the clones
        elsewhere = volumes.create(run.service, ME, NewVolume(source_volid=other))
        assert gate.entered.acquire(timeout=30)  # the other volume's lane is free
        assert not gate.entered.acquire(timeout=0.2)
        assert volumes.get(run.service, ME, one).status == "deleting"
        gate.opened.set()
        for clone in (*clones, elsewhere):
            assert run.until_volume(clone, "available", "error") == "available"
        run.until_volume(one, "gone")
        assert gate.most_inside == 2
        settled(run)


def test_a_queued_operation_is_cancelled(tmp_path: Path, gate: Gate) -> None:
    with running(tmp_path, decorate=lambda backend: Proxy(backend, gate.around)) as run:
        source = run.volume()
        first = volumes.create(run.service, ME, NewVolume(source_volid=source))
        second = volumes.create(run.service, ME, NewVolume(source_volid=source))
        assert gate.entered.acquire(timeout=30)
        (queued,) = operations.list_(run.service, ME, states=("queued",))
        operations.cancel(run.service, ME, queued.id)
        gate.opened.set()
        assert run.until_volume(first, "available", "error") == "available"
        assert run.until_volume(second, "available", "error") == "error"
        assert operations.get(run.service, ME, queued.id).state == "cancelled"
        assert reasons(run, second) == ["The operation was cancelled on request."]
        settled(run)


class Slow(Proxy):
    """A clone that takes for ever, looks whether it is still wanted, and leaves half of it behind."""

    def clone(self, source: Volume, volume: Volume, attempt: Attempt) -> Placement:
        super().clone(source, volume, attempt)
        for done in range(600):
            attempt.progress(done, 600)
            if attempt.cancelled():
                raise CancelledOperationError("The operation was cancelled on request.")
            threading.Event().wait(0.05)
        raise AssertionError("nobody cancelled")


def test_a_running_operation_reports_progress_and_is_cancelled(tmp_path: Path) -> None:
    with running(tmp_path, decorate=Slow) as run:
        source = run.volume()
        clone = volumes.create(run.service, ME, NewVolume(source_volid=source))
        (operation,) = [o for o in operations.list_(run.service, ME) if o.kind == "clone_volume"]
        until(lambda: "yes" if operations.get(run.service, ME, operation.id).progress_done else "no", "yes")
        operations.cancel(run.service, ME, operation.id)
        assert run.until_volume(clone, "error", "available") == "error"
        assert operations.get(run.service, ME, operation.id).state == "cancelled"
        assert {found.volume_id for found in run.backend.inventory()} == {source}
        settled(run)


def test_force_delete_of_what_is_being_made(tmp_path: Path) -> None:
    with running(tmp_path, decorate=Slow) as run:
        source = run.volume()
        clone = volumes.create(run.service, ME, NewVolume(source_volid=source))
        until(lambda: operations.list_(run.service, ME)[0].state, "running")
        volumes.force_delete(run.service, ADMIN, clone)
        run.until_volume(clone, "gone")
        assert {found.volume_id for found in run.backend.inventory()} == {source}
        settled(run)


def test_an_execution_that_was_replaced_does_nothing(run: Running) -> None:
    volume = run.volume()
    with run.database.read() as connection:
        (operation,) = connection.execute(sa.select(tables.operations)).all()
    with run.database.write() as connection:
        assert rows_of_operations.adopt(connection, operation.id, operation.attempts, "late") is None
        assert not rows_of_operations.finish(connection, operation.id, 1, "error", error="late")
    assert volumes.get(run.service, ME, volume).status == "available"


def test_a_claim_that_never_reached_the_engine_is_made_again(run: Running) -> None:
    run.worker.dispatcher.stop()  # nobody claims now
    volume = volumes.create(run.service, ME, NewVolume(virtual_bytes=GIB))
    with run.database.write() as connection:
        ((operation, attempt),) = rows_of_operations.claim(connection, "test", ["memory"], 9)
    assert attempt == 1
    run.worker.dispatcher.recover()  # as at the start after dying right there
    with run.database.read() as connection:
        row = rows_of_operations.get(connection, operation)
    assert row is not None
    assert (row.state, row.executor) == ("queued", None)
    assert volumes.get(run.service, ME, volume).status == "creating"


def test_what_nobody_has_begun_is_cancelled_at_once(run: Running) -> None:
    volume = run.volume(virtual_bytes=2 * GIB)
    kept = run.snapshot(volume)
    run.worker.dispatcher.stop()  # no worker is left
    made = volumes.create(run.service, ME, NewVolume(virtual_bytes=GIB))
    volumes.extend(run.service, ME, volume, 5 * GIB)
    for wanted in (1, 0):
        queued = operations.list_(run.service, ME, states=("queued",))[0]
        operations.cancel(run.service, ME, queued.id)
        assert operations.get(run.service, ME, queued.id).state == "cancelled"
        assert len(operations.list_(run.service, ME, states=("queued",))) == wanted
    assert volumes.get(run.service, ME, made).status == "error"
    assert volumes.get(run.service, ME, volume).status == "available"
    volumes.delete(run.service, ME, volume, cascade=True)
    operations.cancel(run.service, ME, operations.list_(run.service, ME, states=("queued",))[0].id)
    assert volumes.get(run.service, ME, volume).status == "available"
    assert snapshots.get(run.service, ME, kept).status == "available"
    snapshots.delete(run.service, ME, kept)
    operations.cancel(run.service, ME, operations.list_(run.service, ME, states=("queued",))[0].id)
    assert snapshots.get(run.service, ME, kept).status == "available"
    settled(run)


def test_work_that_kills_the_process_again_and_again_is_given_up(run: Running) -> None:
    volume = run.volume()
    run.worker.dispatcher.stop()
    volumes.extend(run.service, ME, volume, 5 * GIB)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        with run.database.write() as connection:
            ((_operation, number),) = rows_of_operations.claim(connection, "test", ["memory"], 9)
        assert number == attempt
        run.worker.dispatcher.recover()  # the engine knows nothing of it
    assert volumes.get(run.service, ME, volume).status == "error_extending"
    assert "given up" in reasons(run, volume)[0]
    settled(run)


def test_rows_without_an_operation_are_found_and_mended(run: Running) -> None:
    volume = run.volume()
    with run.database.write() as connection:
        connection.execute(sa.update(tables.volumes).values(status="deleting", op_id="lost"))
        assert [(o.resource, o.id) for o in invariants.mend_orphans(connection)] == [("volume", volume)]
    assert volumes.get(run.service, ME, volume).status == "error_deleting"
    settled(run)
