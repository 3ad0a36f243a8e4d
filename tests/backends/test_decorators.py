"""What wraps a back end, tried on the memory back end."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest
from prometheus_client import CollectorRegistry

from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Backend, Placement, Pool, Volume
from breezeblock.backends.decorators import (
    add_deadline,
    add_metrics,
    add_retry,
    limit_concurrency,
    wrap,
)
from breezeblock.backends.decorators.faults import Fault, add_faults
from breezeblock.backends.memory import MemoryBackend, MemoryConfig
from breezeblock.backends.proxy import Proxy
from breezeblock.errors import CorruptError, CutOffError, NoSpaceError, UnavailableError


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[MemoryBackend]:
    backend = MemoryBackend("ram", MemoryConfig(path=str(tmp_path / "ram")))
    backend.start()
    yield backend
    backend.stop()


def a_volume() -> Volume:
    return Volume(id=str(uuid4()), virtual_bytes=65536, pool="ram")


def an_attempt() -> Attempt:
    return Attempt(operation_id=str(uuid4()), token=uuid4().hex)


def retried(backend: Backend, slept: list[float], tries: int = 3) -> Backend:
    return add_retry(
        backend, tries=tries, first_seconds=1, sleep=slept.append, jitter=lambda _low, high: high
    )


def test_retry_repeats_what_was_unavailable(memory: MemoryBackend) -> None:
    slept: list[float] = []
    down = UnavailableError("The server is away.")
    flaky = add_faults(
        memory, Fault(verb="create", nth=1, error=down), Fault(verb="create", nth=2, error=down)
    )
    volume = a_volume()
    assert retried(flaky, slept).create(volume, an_attempt()) == memory.create(volume, an_attempt())
    assert slept == [1, 2]


def test_retry_uses_a_fresh_attempt_of_the_same_operation(memory: MemoryBackend) -> None:
    seen: list[Attempt] = []

    class Failing(Proxy):
        def create(self, volume: Volume, attempt: Attempt) -> Placement:
            seen.append(attempt)
            raise UnavailableError("The server is away.")

    with pytest.raises(UnavailableError):
        retried(Failing(memory), []).create(a_volume(), an_attempt())
    assert len({attempt.operation_id for attempt in seen}) == 1
    assert len({attempt.token for attempt in seen}) == 3


@pytest.mark.parametrize("error", [CorruptError("Torn."), NoSpaceError("Full.")])
def test_retry_leaves_other_errors_alone(memory: MemoryBackend, error: Exception) -> None:
    slept: list[float] = []
    faulty = add_faults(memory, Fault(verb="create", nth=0, error=error))
    with pytest.raises(type(error)):
        retried(faulty, slept).create(a_volume(), an_attempt())
    assert slept == []


def test_retry_does_not_count_processes_of_ours_that_died(memory: MemoryBackend) -> None:
    slept: list[float] = []
    died, down = CutOffError("It was killed."), UnavailableError("The server is away.")
    errors = [died, died, down, died, died, died, down]
    faulty = add_faults(
        memory, *(Fault(verb="create", nth=number, error=error) for number, error in enumerate(errors, 1))
    )
    volume = a_volume()
    assert retried(faulty, slept).create(volume, an_attempt()) == memory.create(volume, an_attempt())
    assert slept == [1, 2]
    deadly = add_faults(memory, *(Fault(verb="create", nth=number, error=died) for number in range(1, 10)))
    with pytest.raises(CutOffError):
        retried(deadly, slept).create(a_volume(), an_attempt())
    assert retried(deadly, slept).create(volume, an_attempt()), "it was called nine times"


def test_retry_gives_up_with_the_last_error(memory: MemoryBackend) -> None:
    slept: list[float] = []
    faulty = add_faults(memory, Fault(verb="stats", nth=0, error=UnavailableError("Away.")))
    with pytest.raises(UnavailableError, match="Away"):
        retried(faulty, slept, tries=4).stats()
    assert len(slept) == 3


def test_retry_covers_opening_and_listing(memory: MemoryBackend) -> None:
    volume = a_volume()
    memory.create(volume, an_attempt())
    away = UnavailableError("Away.")
    flaky = add_faults(memory, Fault(verb="open_data", error=away), Fault(verb="inventory", error=away))
    backend = retried(flaky, [])
    with backend.open_data(volume) as data:
        assert data.read(0, 512) == bytes(512)
    assert [found.volume_id for found in backend.inventory()] == [volume.id, volume.id]


class Gate(Proxy):
    """Holds every call of two verbs until it is opened, and counts who is in."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self.open = threading.Event()
        self.inside = 0
        self.most = 0
        self.lock = threading.Lock()

    def create(self, volume: Volume, attempt: Attempt) -> Placement:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.open.wait(30)
        with self.lock:
            self.inside -= 1
        return super().create(volume, attempt)

    def stats(self) -> list[Pool]:
        self.open.wait(30)
        return super().stats()


def test_only_so_many_changes_at_once_and_reading_passes(memory: MemoryBackend) -> None:
    gate = Gate(memory)
    backend = limit_concurrency(gate, at_once=2)
    with ThreadPoolExecutor(max_workers=6) as threads:
        waiting = [threads.submit(backend.create, a_volume(), an_attempt()) for _ in range(6)]
        while gate.inside < 2:
            time.sleep(0.001)
        assert len(list(backend.inventory())) == 0
        gate.open.set()
        for future in waiting:
            future.result()
    assert gate.most == 2


def test_deadline_ends_the_waiting_and_bounds_the_hanging(memory: MemoryBackend) -> None:
    gate = Gate(memory)
    backend = add_deadline(gate, seconds=0.01, most_abandoned=2)
    for _ in range(2):
        with pytest.raises(UnavailableError, match=r"within 0\.01 seconds"):
            backend.stats()
    threads = threading.active_count()
    with pytest.raises(UnavailableError):
        backend.stats()
    assert threading.active_count() <= threads, "a third thread was given to storage that hangs"
    gate.open.set()
    patient = add_deadline(gate, seconds=30)
    assert patient.stats() == memory.stats()


def test_deadline_hands_on_the_verbs_own_errors(memory: MemoryBackend) -> None:
    failing = add_faults(memory, Fault(verb="stats", error=TimeoutError("of its own")))
    with pytest.raises(TimeoutError, match="of its own"):
        add_deadline(failing, seconds=30).stats()


def test_metrics_count_calls_and_failures(memory: MemoryBackend) -> None:
    registry = CollectorRegistry()
    faulty = add_faults(memory, Fault(verb="stats", nth=2, error=UnavailableError("Away.")))
    backend = add_metrics(faulty, registry=registry)
    add_metrics(faulty, registry=registry)
    backend.stats()
    with pytest.raises(UnavailableError):
        backend.stats()
    labels = {"backend": "ram", "verb": "stats"}
    assert registry.get_sample_value("breezeblock_backend_seconds_count", labels) == 2
    failed = labels | {"error": "UnavailableError"}
    assert registry.get_sample_value("breezeblock_backend_failures_total", failed) == 1


@pytest.mark.crash
@pytest.mark.parametrize("when", ["before", "after"])
def test_faults_kill_the_process(memory: MemoryBackend, when: str) -> None:
    volume = a_volume()
    deadly = add_faults(memory, Fault(verb="create", nth=1, when="after" if when == "after" else "before"))
    pid = os.fork()
    if pid == 0:
        deadly.create(volume, an_attempt())
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    assert bool(list(memory.inventory())) == (when == "after")


def test_wrap_joins_them_all(memory: MemoryBackend) -> None:
    registry = CollectorRegistry()
    backend = wrap(memory, registry=registry)
    assert backend.name == "ram"
    backend.create(a_volume(), an_attempt())
    labels = {"backend": "ram", "verb": "create"}
    assert registry.get_sample_value("breezeblock_backend_seconds_count", labels) == 1
