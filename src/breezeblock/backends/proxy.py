"""One object with the shape of a back end that passes every verb through a function.

What wraps all back ends (retry, limits, metrics, faults …) is such a function; see `decorators`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from itertools import count
from typing import Any, Protocol, TypeVar

from breezeblock.attempt import Attempt
from breezeblock.backends.contract import (
    Adopted,
    Backend,
    Capabilities,
    Connection,
    Data,
    Finding,
    Found,
    Mend,
    Placement,
    Pool,
    Snapped,
    Snapshot,
    Volume,
)

T = TypeVar("T")


class Around(Protocol):
    """What a decorator does with one call of one verb.

    `call` may be made never, once or again: each time it hands the back end a fresh `Attempt` of the
    same operation, as the contract wants.
    """

    def __call__(self, verb: str, call: Callable[[], T], /) -> T:
        """Return what `call` returns, or raise."""


def straight(_verb: str, call: Callable[[], T]) -> T:
    """Just make the call."""
    return call()


class Proxy:
    """A back end whose verbs all go through `around`. It decides nothing itself.

    `capabilities` is constant and cheap, so it goes straight. `inventory` is read to its end inside
    `around`, and so is the opening (not the use) of `open_data`: only then do their errors show.
    """

    def __init__(self, backend: Backend, around: Around = straight) -> None:
        self.name = backend.name
        self._backend = backend
        self._around = around

    def start(self) -> None:
        """See the contract."""
        self._around("start", self._backend.start)

    def stop(self) -> None:
        """See the contract."""
        self._around("stop", self._backend.stop)

    def capabilities(self) -> Capabilities:
        """See the contract."""
        return self._backend.capabilities()

    def stats(self) -> list[Pool]:
        """See the contract."""
        return self._around("stats", self._backend.stats)

    def create(self, volume: Volume, attempt: Attempt) -> Placement:
        """See the contract."""
        tries = _tries(attempt)
        return self._around("create", lambda: self._backend.create(volume, next(tries)))

    def delete(self, volume: Volume, attempt: Attempt) -> None:
        """See the contract."""
        tries = _tries(attempt)
        self._around("delete", lambda: self._backend.delete(volume, next(tries)))

    def extend(self, volume: Volume, virtual_bytes: int, attempt: Attempt) -> Placement:
        """See the contract."""
        tries = _tries(attempt)
        return self._around("extend", lambda: self._backend.extend(volume, virtual_bytes, next(tries)))

    def snapshot(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Snapped:
        """See the contract."""
        tries = _tries(attempt)
        return self._around("snapshot", lambda: self._backend.snapshot(volume, snapshot, next(tries)))

    def delete_snapshot(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Placement:
        """See the contract."""
        tries = _tries(attempt)
        return self._around(
            "delete_snapshot", lambda: self._backend.delete_snapshot(volume, snapshot, next(tries))
        )

    def revert(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Placement:
        """See the contract."""
        tries = _tries(attempt)
        return self._around("revert", lambda: self._backend.revert(volume, snapshot, next(tries)))

    def clone(self, source: Volume, volume: Volume, attempt: Attempt) -> Placement:
        """See the contract."""
        tries = _tries(attempt)
        return self._around("clone", lambda: self._backend.clone(source, volume, next(tries)))

    def create_from_snapshot(
        self, source: Volume, snapshot: Snapshot, volume: Volume, attempt: Attempt
    ) -> Placement:
        """See the contract."""
        tries = _tries(attempt)
        return self._around(
            "create_from_snapshot",
            lambda: self._backend.create_from_snapshot(source, snapshot, volume, next(tries)),
        )

    def import_image(self, volume: Volume, path: str, image_format: str, attempt: Attempt) -> Placement:
        """See the contract."""
        tries = _tries(attempt)
        return self._around(
            "import_image", lambda: self._backend.import_image(volume, path, image_format, next(tries))
        )

    def export_image(
        self, volume: Volume, snapshot: Snapshot | None, path: str, image_format: str, attempt: Attempt
    ) -> None:
        """See the contract."""
        tries = _tries(attempt)
        self._around(
            "export_image",
            lambda: self._backend.export_image(volume, snapshot, path, image_format, next(tries)),
        )

    def examine(self, volume: Volume, reference: str) -> Adopted:
        """See the contract."""
        return self._around("examine", lambda: self._backend.examine(volume, reference))

    def adopt(self, volume: Volume, reference: str, attempt: Attempt) -> Adopted:
        """See the contract."""
        tries = _tries(attempt)
        return self._around("adopt", lambda: self._backend.adopt(volume, reference, next(tries)))

    def release(self, volume: Volume, attempt: Attempt) -> str:
        """See the contract."""
        tries = _tries(attempt)
        return self._around("release", lambda: self._backend.release(volume, next(tries)))

    def flatten(self, volume: Volume, attempt: Attempt) -> Placement:
        """See the contract."""
        tries = _tries(attempt)
        return self._around("flatten", lambda: self._backend.flatten(volume, next(tries)))

    def shorten(self, volume: Volume, attempt: Attempt) -> Placement:
        """See the contract."""
        tries = _tries(attempt)
        return self._around("shorten", lambda: self._backend.shorten(volume, next(tries)))

    def open_data(
        self, volume: Volume, snapshot: Snapshot | None = None, *, writable: bool = False
    ) -> AbstractContextManager[Data]:
        """See the contract."""
        return self._open(volume, snapshot, writable=writable)

    @contextmanager
    def _open(self, volume: Volume, snapshot: Snapshot | None, *, writable: bool) -> Iterator[Data]:
        with ExitStack() as stack:
            yield self._around(
                "open_data",
                lambda: stack.enter_context(self._backend.open_data(volume, snapshot, writable=writable)),
            )

    def connection_info(self, volume: Volume, connector: Mapping[str, Any]) -> Connection:
        """See the contract."""
        return self._around("connection_info", lambda: self._backend.connection_info(volume, connector))

    def disconnect(self, volume: Volume, connector: Mapping[str, Any]) -> None:
        """See the contract."""
        self._around("disconnect", lambda: self._backend.disconnect(volume, connector))

    def check(self, volume: Volume, snapshots: tuple[Snapshot, ...]) -> list[Finding]:
        """See the contract."""
        return self._around("check", lambda: self._backend.check(volume, snapshots))

    def mends(self, volume: Volume, snapshots: tuple[Snapshot, ...]) -> list[Mend]:
        """See the contract."""
        return self._around("mends", lambda: self._backend.mends(volume, snapshots))

    def mend(self, volume: Volume, snapshots: tuple[Snapshot, ...], mend: Mend, attempt: Attempt) -> None:
        """See the contract."""
        tries = _tries(attempt)
        self._around("mend", lambda: self._backend.mend(volume, snapshots, mend, next(tries)))

    def quarantine(self, found: Found) -> str:
        """See the contract."""
        return self._around("quarantine", lambda: self._backend.quarantine(found))

    def inventory(self) -> Iterator[Found]:
        """See the contract."""
        return iter(self._around("inventory", lambda: list(self._backend.inventory())))

    def sweep(self, live_operations: frozenset[str]) -> list[str]:
        """See the contract."""
        return self._around("sweep", lambda: self._backend.sweep(live_operations))


def _tries(attempt: Attempt) -> Iterator[Attempt]:
    yield attempt
    for number in count(2):
        yield replace(attempt, token=f"{attempt.token}.{number}")
