"""One execution of one operation, as its verb sees it."""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec
import sqlalchemy as sa

from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Backend, Snapshot, Volume
from breezeblock.catalog import operations, pools, rows, tables
from breezeblock.catalog.database import Database
from breezeblock.catalog.image_cache import Limits
from breezeblock.engine.port import Json, Steps
from breezeblock.errors import CancelledOperationError, NotFoundError, UnavailableError
from breezeblock.images.addresses import NOTHING, Policy

LOOK_INTERVAL_S = 0.5
"""How often long work looks for a cancel request and writes down its progress."""

OPTION_SCOPE = "breezeblock:"
"""Extra specs with this prefix are options of the back end."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What operations work with."""

    database: Database
    backends: Mapping[str, Backend]
    message_ttl_s: int
    images: Policy = NOTHING
    """What images may be brought from and to; nothing unless configured."""
    image_cache: Callable[[str], Limits] = lambda _backend: Limits()
    """How much of images each pool of a back end may hold."""
    patient: frozenset[str] = frozenset()
    """Back ends whose operations wait while their pool is down."""
    look: Callable[[str], None] = lambda _backend: None
    """Write down how a back end's pools are now."""


class Job:
    """The operation's row, its back end, its steps."""

    def __init__(self, environment: Environment, row: sa.Row[Any], steps: Steps) -> None:
        self.environment = environment
        self.row = row
        self.arguments: dict[str, Any] = msgspec.json.decode(row.arguments)
        self._steps = steps
        self._progress_due = _every(LOOK_INTERVAL_S)
        self._cancel_due = _every(LOOK_INTERVAL_S)
        self._cancel_requested: bool = row.cancel_requested
        self._undoing = False
        self.cancelled = False
        """The operation ends because it was asked to, with nothing done."""

    @property
    def id(self) -> str:
        """The operation's id, which owns the rows it works on."""
        operation_id: str = self.row.id
        return operation_id

    @cached_property
    def backend(self) -> Backend:
        """The back end of the volume."""
        try:
            return self.environment.backends[self.row.backend]
        except KeyError:
            raise UnavailableError(
                f"back end {self.row.backend!r} is not configured on this worker",
                remedy="Add its section to the configuration, or start a worker that has it.",
            ) from None

    def step(self, name: str, work: Callable[[Attempt], Json]) -> Json:
        """Run one durable step of the work; a cancel request takes effect between steps."""
        if self._cancelled():
            raise CancelledOperationError("The operation was cancelled on request.")
        return self._steps.step(name, lambda: work(self._attempt()))

    def undo(self, name: str, work: Callable[[Attempt], Json]) -> None:
        """Run one durable step that takes work back; it cannot be cancelled."""
        self._undoing = True
        self._steps.step(name, lambda: work(self._attempt()))

    def status_after(self, failure: str) -> str:
        """Return the status of a resource after nothing was published: the one before, if cancelled."""
        before: str | None = self.row.previous_status
        return before if self.cancelled and before else failure

    def volume(self, volume_id: str | None = None) -> Volume:
        """Return the operation's volume, or another one, as the back end is told of it."""
        row = self._row(tables.volumes, volume_id or self.row.volume_id)
        return Volume(
            id=row.id,
            virtual_bytes=row.virtual_bytes,
            pool=row.pool,
            locator=row.locator,
            format=row.format,
            options=self.arguments.get("options", {}),
            depth=row.depth,
        )

    def snapshot(self, snapshot_id: str | None = None) -> Snapshot:
        """Return the operation's snapshot, or another one, as the back end is told of it."""
        row = self._row(tables.snapshots, snapshot_id or self.row.resource_id)
        return Snapshot(
            id=row.id, volume_id=row.volume_id, virtual_bytes=row.virtual_bytes, locator=row.locator
        )

    def may_wait(self) -> bool:
        """Tell whether, its work having met a pool that is down, it is to be queued until that is back.

        It waits in its own volume's pool. Another pool that it needs is no reason to wait: nothing would
        tell when to go on.
        """
        if self.row.backend not in self.environment.patient:
            return False
        self.environment.look(self.row.backend)
        own = self._row(tables.volumes, self.row.volume_id)
        with self.environment.database.read() as connection:
            down = pools.down(connection, self.row.backend)
        return own.pool in down or not down

    def attachment(self) -> sa.Row[Any]:
        """Return the operation's attachment row."""
        return self._row(tables.attachments, self.row.resource_id)

    def _row(self, table: sa.Table, id_: str) -> sa.Row[Any]:
        with self.environment.database.read() as connection:
            row = rows.one(connection, table, id_)
        if row is None:
            raise NotFoundError(f"{table.name.removesuffix('s').capitalize()} {id_} could not be found.")
        return row

    def _attempt(self) -> Attempt:
        return Attempt(
            operation_id=self.id,
            token=secrets.token_hex(4),
            progress=self._progress,
            cancelled=self._cancelled,
        )

    def _progress(self, done: int, total: int) -> None:
        if self._progress_due():
            with self.environment.database.write() as connection:
                operations.set_progress(connection, self.id, done, total)

    def _cancelled(self) -> bool:
        if self._undoing:
            return False
        if self._cancel_due():
            with self.environment.database.read() as connection:
                self._cancel_requested = operations.cancel_requested(connection, self.id)
        return self._cancel_requested


def _every(interval_s: float) -> Callable[[], bool]:
    """Return a function that says True at most once in an interval, the first time after one."""
    last = time.monotonic()

    def due() -> bool:
        nonlocal last
        if time.monotonic() - last < interval_s:
            return False
        last = time.monotonic()
        return True

    return due
