"""Back ends in helper processes: the contract through them, and what happens when they hang or die."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import msgspec
import pytest
from deadly import open_deadly_local
from file_storage import FileStorage
from memory_storage import MemoryStorage
from obstinate import open_obstinate
from prometheus_client import CollectorRegistry

from breezeblock.attempt import Attempt
from breezeblock.backends import wire
from breezeblock.backends.apart import Apart, apart
from breezeblock.backends.contract import Backend, Volume
from breezeblock.backends.decorators import wrap
from breezeblock.backends.local import LocalConfig
from breezeblock.backends.memory import MemoryConfig, open_memory
from breezeblock.backends.parts import Parts
from breezeblock.errors import (
    CancelledOperationError,
    InvalidInputError,
    PoolDownError,
    UnavailableError,
    UnsupportedError,
)
from breezeblock.testing import Case, Lab, Scenario, cases, kills

HERE = Path(__file__).parent
PATIENCE_S = 30.0


def until(true: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, f"not within {PATIENCE_S} s: {what}"
        time.sleep(0.005)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE))


def one_pool(name: str, config: msgspec.Struct, **limits: float) -> Parts:
    return Parts(
        pools=(name,),
        narrow=lambda _pools: config,
        ping=lambda _pool: None,
        answer_timeout_s=limits.get("answer_timeout_s", 10.0),
        look_limit_s=limits.get("look_limit_s", 20.0),
        silence_timeout_s=limits.get("silence_timeout_s", 60.0),
    )


@dataclass
class ApartStorage(MemoryStorage):
    """The memory back end, seen through a helper process."""

    def open(self) -> Backend:
        backend = apart("ram", open_memory, self.config, Path("/"), one_pool("ram", self.config))
        backend.start()
        return backend


@pytest.mark.parametrize("case", cases(), ids=str)
def test_the_contract_through_a_helper(case: Case, tmp_path: Path) -> None:
    # Verbs that this one lacks are made by copying, inside the helper.
    config = MemoryConfig(path=str(tmp_path), lacks=("clone", "create_from_snapshot"))
    case.run(ApartStorage(config))


def test_every_verb_of_the_contract_can_be_sent() -> None:
    names = {name for name in vars(Backend) if not name.startswith("_") and name != "name"}
    assert names == wire.verbs().keys() | wire.STAYING


# ── obstinate back ends ──────────────────────────────────────────────────────────────────────────────


@dataclass
class Bench:
    directory: Path
    limits: dict[str, float] = field(default_factory=dict)
    backend: Apart = field(init=False)
    pings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Two pools, each the whole of a memory back end in a directory of its own."""
        for pool in ("a", "b"):
            (self.directory / pool).mkdir()
        parts = replace(
            one_pool("a", MemoryConfig(), **self.limits),
            pools=("a", "b"),
            narrow=lambda pools: MemoryConfig(path=str(self.directory / pools[0])),
            ping=self.pings.append,
        )
        self.backend = cast("Apart", apart("m", open_obstinate, MemoryConfig(), Path("/"), parts))

    def order(self, pool: str, what: str) -> None:
        temp = self.directory / pool / "order.new"
        temp.write_text(what)
        temp.rename(temp.with_name("order"))

    def obey(self, pool: str) -> None:
        (self.directory / pool / "order").unlink()

    def create(self, pool: str, **attempt: Any) -> Any:
        return self.backend.create(
            Volume(id=str(uuid4()), virtual_bytes=4096, pool=pool),
            Attempt(operation_id=str(uuid4()), token="t", **attempt),
        )

    def pid(self, pool: str) -> int:
        return self.backend._helpers[pool,].pid


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, {"answer_timeout_s": 0.3, "look_limit_s": 3.0, "silence_timeout_s": 60})
    made.backend.start()
    yield made
    made.backend.stop()


def test_a_pool_that_hangs_is_down_and_another_answers(bench: Bench) -> None:
    assert [pool.up for pool in bench.backend.stats()] == [True, True]
    doomed = bench.pid("a")
    bench.order("a", "hang")
    failures: list[Exception] = []

    def create() -> None:
        try:
            bench.create("a")
        except UnavailableError as error:
            failures.append(error)

    threads = [threading.Thread(target=create) for _ in range(5)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        began = time.monotonic()
        bench.create("b")
        assert time.monotonic() - began < PATIENCE_S
    assert len(failures) == 5
    assert all(isinstance(error, PoolDownError) for error in failures)
    a, b = bench.backend.stats()
    assert (a.up, b.up) == (False, True)
    assert "down since 2" in a.reason
    assert "was not answered" in a.reason
    until(lambda: not Path(f"/proc/{doomed}").exists(), "the helper that hung is gone")
    with pytest.raises(PoolDownError, match=r"Pool m#a is down since .*Work on it goes on when"):
        bench.create("a")
    bench.obey("a")
    until(lambda: all(pool.up for pool in bench.backend.stats()), "it is up again by itself")
    assert bench.pings
    bench.create("a")


def test_a_pool_that_says_it_is_down_is_down_with_its_reason(bench: Bench) -> None:
    bench.order("a", "down")
    assert [pool.up for pool in bench.backend.stats()] == [False, True]
    assert "It is closed." in bench.backend.stats()[0].reason
    assert bench.backend.sweep(frozenset()) == []
    assert {found.pool for found in bench.backend.inventory()} <= {"b"}


def test_children_die_with_the_helper(bench: Bench) -> None:
    bench.order("a", "child")
    with pytest.raises(PoolDownError):
        bench.create("a")
    child = int((bench.directory / "a" / "child").read_text())
    until(lambda: not Path(f"/proc/{child}").exists(), "the child is gone")


def test_slow_is_not_dead_as_long_as_it_gets_on(bench: Bench) -> None:
    bench.order("a", "slowly")
    progress: list[tuple[int, int]] = []
    assert bench.create("a", progress=lambda done, total: progress.append((done, total)))
    assert progress
    assert all(total == 12 for _done, total in progress)


def test_a_cancel_request_arrives(bench: Bench) -> None:
    bench.order("a", "until cancelled")
    asked = time.monotonic()
    with pytest.raises(CancelledOperationError, match="As you wish"):
        bench.create("a", cancelled=lambda: time.monotonic() - asked > 0.1)


def test_what_hangs_when_cancelled_is_killed(bench: Bench) -> None:
    bench.order("a", "hang")
    with pytest.raises(PoolDownError):
        bench.create("a", cancelled=lambda: True)


def test_errors_arrive_as_they_were(bench: Bench) -> None:
    bench.order("a", "error")
    with pytest.raises(UnavailableError) as caught:
        bench.create("a")
    assert (caught.value.message, caught.value.remedy) == ("It is tired.", "Let it sleep.")
    assert not isinstance(caught.value, PoolDownError)
    bench.order("a", "bug")
    with pytest.raises(RuntimeError, match="KeyError: 'oops'"):
        bench.create("a")
    bench.obey("a")
    with pytest.raises(InvalidInputError):
        bench.backend.create(Volume(id="x", virtual_bytes=512, pool="a"), Attempt("o", "t"))
    with pytest.raises(UnsupportedError):
        bench.backend.open_data(Volume(id="x", virtual_bytes=512, pool="a"))


def test_a_pool_that_takes_long_keeps_no_news_back(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {"answer_timeout_s": 0.3, "look_limit_s": 60.0})
    bench.order("a", "hang")
    bench.backend.start()
    until(lambda: bench.backend.stats()[1].up, "b is seen")
    a, b = bench.backend.stats()
    assert (a.up, a.reason, b.up) == (False, "It has not answered yet.", True)
    assert {found.pool for found in bench.backend.inventory()} <= {"b"}
    bench.backend.stop()


def test_a_helper_that_dies_is_replaced(bench: Bench) -> None:
    bench.order("a", "die")
    with pytest.raises(UnavailableError, match="ended before it answered"):
        bench.create("a")
    bench.create("a")
    os.kill(bench.pid("a"), signal.SIGKILL)
    backend = wrap(cast("Backend", bench.backend), registry=CollectorRegistry())
    volume = Volume(id=str(uuid4()), virtual_bytes=4096, pool="a")
    assert backend.create(volume, Attempt("o", "t")), "retried without anybody noticing"


def test_silence_ends_what_hangs_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {"answer_timeout_s": 0.1, "look_limit_s": 5, "silence_timeout_s": 0.5})
    bench.backend.start()
    bench.order("a", "until cancelled")
    with pytest.raises(UnavailableError, match=r"create on a said nothing for 0\.5 s"):
        bench.create("a")
    assert bench.backend.stats()[0].up
    bench.backend.stop()


def test_no_change_while_a_dead_helper_may_still_write(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    # A process that hangs unkillably in the kernel cannot be had here; one that is spared is like it.
    helper = bench.backend._helpers["a",]
    spared = helper.pid
    os.kill(spared, signal.SIGSTOP)
    killpg = os.killpg
    monkeypatch.setattr(os, "killpg", lambda pid, number: killpg(pid, 0 if pid == spared else number))
    with pytest.raises(PoolDownError):
        bench.create("a")
    for health in bench.backend._health.values():
        health._down = None
    with pytest.raises(PoolDownError, match=rf"process {spared} of an earlier attempt hangs"):
        bench.create("a")
    bench.create("b")
    killpg(spared, signal.SIGKILL)
    until(lambda: bench.backend.stats()[0].up, "the pool is up")
    bench.create("a")


def test_helpers_end_with_their_parent(tmp_path: Path) -> None:
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            bench = Bench(tmp_path)
            bench.backend.start()
            os.write(told, f"{bench.pid('a')}\n".encode())
            time.sleep(3600)
        finally:
            os._exit(1)
    with os.fdopen(ready) as said:
        helper = int(said.readline())
    os.close(told)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)

    def gone() -> bool:
        try:
            return "State:\tZ" in Path(f"/proc/{helper}/status").read_text()
        except OSError:
            return True

    until(gone, "the helper is gone")


# ── the kill schedule through a helper ───────────────────────────────────────────────────────────────

STRIDE = int(os.environ.get("BREEZEBLOCK_KILL_STRIDE", "0"))
"""Kill before each so many'th line; 0: before fewer and fewer the longer the verb is at work."""


@pytest.mark.crash
@pytest.mark.parametrize("scenario", dict.fromkeys(scenario for scenario, _ending in kills()), ids=str)
def test_a_helper_killed_anywhere_is_never_noticed(
    scenario: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The helper dies before a line of the verb; the retry completes it, and all bytes are right."""
    order = tmp_path / "order"
    monkeypatch.setenv("DEADLY", str(order))
    config = LocalConfig(path=str(tmp_path / "pool"))

    def make() -> Backend:
        return wrap(
            apart("here", open_deadly_local, config, tmp_path, one_pool("here", config)),
            registry=CollectorRegistry(),
        )

    storage = FileStorage(tmp_path / "pool", make)
    verb = VERB_OF.get(scenario.name, scenario.name)
    line, killed = 3, 0
    while True:
        lab = Lab(storage)
        step = scenario.prepare(lab)
        order.write_text(f"{verb} {line}")
        step.accept(step.act(lab.backend, Attempt(operation_id=str(uuid4()), token="first")))
        assert not order.exists(), "the verb took its order"
        lab.verify()
        lab.finish()
        lab.backend.stop()
        survived = order.with_name("survived")
        if survived.exists():
            survived.unlink()
            break
        line, killed = line + STRIDE if STRIDE else line * 9, killed + 1
    assert killed


VERB_OF = {
    "clone_linked_of_snapshot_written": "create_from_snapshot",
    "clone_linked_of_snapshot": "create_from_snapshot",
    "clone_linked_of_volume": "clone",
    "clone_linked_of_volume_written": "clone",
    "delete_parent_of_clones": "delete",
    "delete_clone_between": "delete",
    "delete_last_clone": "delete",
    "delete_snapshot_under_clone": "delete_snapshot",
    "flatten_related": "flatten",
    "shorten_related": "shorten",
    "shorten_what_is_hidden": "shorten",
    "delete_with_snapshots": "delete",
    "extend_with_snapshots": "extend",
    "snapshot_1": "snapshot",
    "snapshot_2": "snapshot",
    "delete_oldest_snapshot": "delete_snapshot",
    "delete_middle_snapshot": "delete_snapshot",
    "delete_newest_snapshot": "delete_snapshot",
    "revert_to_newest": "revert",
    "revert_to_oldest": "revert",
}
