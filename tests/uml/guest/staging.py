"""Faults in the middle of verbs: the stage on which they strike, whatever the server is."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from file_storage import FileStorage

from breezeblock.backends.contract import Backend, Volume
from breezeblock.errors import BreezeblockError
from breezeblock.testing import Lab, kills
from breezeblock.testing.lab import attempt

PATIENCE_S = 90.0
SCENARIOS = {scenario.name: scenario for scenario, _ending in kills()}


def until(true: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, f"not within {PATIENCE_S} s: {what}"
        time.sleep(0.02)


class Other:
    """Another pool of the same service, at work all the time."""

    def __init__(self, backend: Backend, pool: str) -> None:
        self.backend = backend
        self.pool = pool
        self.slowest = 0.0
        self.verbs = 0
        self.errors: list[str] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def _work(self) -> None:
        while not self._done.wait(0.02):
            volume = Volume(id=str(uuid4()), virtual_bytes=1 << 20, pool=self.pool)
            for verb in (self.backend.create, self.backend.delete):
                began = time.monotonic()
                try:
                    verb(volume, attempt())
                except BreezeblockError as error:
                    self.errors.append(str(error))
                self.slowest = max(self.slowest, time.monotonic() - began)
                self.verbs += 1

    @contextmanager
    def working(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._done.set()
            self._thread.join()


@dataclass
class Struck:
    """A verb in whose middle a fault happened."""

    step: Any
    lab: Lab
    operation_id: str
    """The service tries again under the same one, by which leftovers are known."""
    ended: str
    """How the verb ended; nothing if it succeeded."""


@dataclass
class Stage:
    """A back end with the share that suffers and, if there is one, another."""

    backend: Backend
    bad: str
    directory: Path
    good: str
    order: Path
    storage: Callable[[Callable[[], Backend]], FileStorage]
    """Returns what judges the share that suffers, on the server's side, given how to open the back end."""

    def middle(self, scenario: str, verb: str) -> int:
        """Run the verb whole to find out how many lines it has; return one in their middle."""
        lab = Lab(self.storage(lambda: cast("Backend", Kept(self.backend))))
        lab.pool = self.bad
        step = SCENARIOS[scenario].prepare(lab)
        self.order.write_text(f"{verb} -1")
        assert self.attempt(step, str(uuid4())) == ""
        lab.finish()
        return int(self.order.with_name("survived").read_text()) * 2 // 5

    def strike(self, scenario: str, verb: str, fault: Callable[[], None]) -> Struck:
        """Run the verb, have the fault happen in its middle."""
        line = self.middle(scenario, verb)
        lab = Lab(self.storage(lambda: cast("Backend", Kept(self.backend))))
        lab.pool = self.bad
        step = SCENARIOS[scenario].prepare(lab)
        for name in ("reached", "go", "survived"):
            self.order.with_name(name).unlink(missing_ok=True)
        self.order.write_text(f"{verb} {line} pause")
        operation_id = str(uuid4())

        def striking() -> None:
            until(self.order.with_name("reached").exists, "the verb is in its middle")
            try:
                fault()
            finally:
                self.order.with_name("go").touch()

        with ThreadPoolExecutor(1) as thread:
            struck = thread.submit(striking)
            ended = self.attempt(step, operation_id)
            struck.result()
        return Struck(step, lab, operation_id, ended)

    def attempt(self, step: Any, operation_id: str) -> str:
        try:
            step.accept(step.act(self.backend, attempt(operation_id)))
        except BreezeblockError as error:
            return f"{type(error).__name__}: {error.message}"
        return ""

    def resume(self, struck: Struck) -> int:
        """Try again until it succeeds, if it did not; then judge everything and clean up."""
        tries = 0
        end = time.monotonic() + PATIENCE_S
        ended = struck.ended
        while ended:
            assert time.monotonic() < end, f"still: {ended}"
            time.sleep(0.1)
            tries += 1
            ended = self.attempt(struck.step, struck.operation_id)
        struck.lab.verify()
        struck.lab.finish()
        return tries


class Kept:
    """The back end as it is: what opens it shall not start it anew, nor stop it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return (lambda: None) if name in {"start", "stop"} else getattr(self._backend, name)
