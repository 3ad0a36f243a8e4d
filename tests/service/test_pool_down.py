"""Operations on a pool that is down: they wait and go on by themselves, or fail saying why."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest
from running import ADMIN, ME, Running, running, until

from breezeblock.backends.contract import Backend, Pool
from breezeblock.backends.proxy import Proxy
from breezeblock.catalog import invariants, operations, pools, tables
from breezeblock.config import PoolPolicy
from breezeblock.errors import InvalidInputError, PoolDownError, UnavailableError
from breezeblock.service import attachments, volumes
from breezeblock.service import operations as promised
from breezeblock.service.core import GIB
from breezeblock.service.volumes import NewVolume

T = TypeVar("T")
REASON = "down since 2026-01-02T03:04:05Z: The server is on fire."


@dataclass
class Switch:
    """Stands between worker and storage, as what knows the pools' health does."""

    down: threading.Event = field(default_factory=threading.Event)
    refused: int = 0

    def around(self, verb: str, call: Callable[[], T]) -> T:
        if not self.down.is_set() or verb in {"start", "stop", "sweep"}:
            return call()
        if verb == "stats":
            off = Pool(name="memory", total_bytes=None, free_bytes=None, up=False, reason=REASON)
            return [off]  # type: ignore[return-value]
        self.refused += 1
        raise PoolDownError(f"Pool memory is {REASON}")

    def __call__(self, backend: Backend) -> Backend:
        return Proxy(backend, self.around)


@pytest.fixture
def switch() -> Switch:
    return Switch()


@pytest.fixture
def run(tmp_path: Path, switch: Switch) -> Iterator[Running]:
    with running(tmp_path, decorate=switch) as found:
        yield found


def test_operations_wait_and_go_on_by_themselves(run: Running, switch: Switch) -> None:
    made = [run.volume() for _ in range(3)]
    switch.down.set()
    for volume in made:
        volumes.delete(run.service, ME, volume)

    def waiting() -> str:
        with run.database.read() as connection:
            known = pools.down(connection, "memory")
            queued = [row.state for row in operations.live(connection)]
        return "waits" if known == {"memory": REASON} and queued == ["queued"] * 3 else str(queued)

    until(waiting, "waits")
    refused = switch.refused
    time.sleep(0.5)
    assert switch.refused == refused, "nothing is tried while it is known to be down"
    assert {volumes.get(run.service, ADMIN, volume).status for volume in made} == {"deleting"}
    with pytest.raises(InvalidInputError, match="on fire"):
        volumes.create(run.service, ME, NewVolume(virtual_bytes=GIB))
    switch.down.clear()
    for volume in made:
        run.until_volume(volume, "gone")
    with run.database.read() as connection:
        assert invariants.miscounts(connection) == []
        assert invariants.orphans(connection) == []


def test_what_a_caller_waits_for_says_at_once_that_the_pool_is_down(run: Running, switch: Switch) -> None:
    volume = run.volume()
    switch.down.set()
    run.worker.look("memory")
    began = time.monotonic()
    new = attachments.NewAttachment(volume_id=volume, connector={"host": "kvm1"})
    with pytest.raises(UnavailableError, match="on fire"):
        attachments.create(run.service, ME, new)
    assert time.monotonic() - began < run.service.settings.connect_timeout_s / 2


def test_or_they_fail_by_policy(tmp_path: Path, switch: Switch) -> None:
    with running(tmp_path, decorate=switch, policy=PoolPolicy(when_down="fail")) as run:
        volume = run.volume()
        switch.down.set()
        volumes.delete(run.service, ME, volume)
        assert run.until_volume(volume, "error_deleting", "gone") == "error_deleting"
        newest = promised.list_(run.service, ME)[0]
        assert newest.state == "error"
        assert REASON in newest.error
        switch.down.clear()
        run.worker.look("memory")
        volumes.delete(run.service, ME, volume)
        run.until_volume(volume, "gone")


def test_one_pool_never_takes_all_places(run: Running) -> None:
    run.worker.dispatcher.stop()
    for _ in range(5):
        volumes.create(run.service, ME, NewVolume(virtual_bytes=GIB))
    with run.database.write() as connection:
        one = operations.claim(connection, "me", ["memory"], 8, most_of_a_pool=3)
        assert len(one) == 3
        assert operations.claim(connection, "me", ["memory"], 8, most_of_a_pool=3) == []
        connection.execute(tables.pools.update().values(up=False))
        assert operations.claim(connection, "me", ["memory"], 8, patient=["memory"]) == []
        assert len(operations.claim(connection, "me", ["memory"], 8)) == 2
