"""Hands queued operations to the engine: at once when woken, by looking now and then otherwise.

The catalog's `operations` table is the queue. Whoever writes to it in this process calls `wake`; an
operation queued by another process is found by polling. Of each lane one operation runs at a time.
"""

import threading
from collections.abc import Callable, Iterable

import structlog

from breezeblock.catalog import operations
from breezeblock.catalog.database import Database
from breezeblock.engine.port import Engine
from breezeblock.errors import BreezeblockError

MAX_ATTEMPTS = 20
"""Each of which the engine resumes a few times before it lets go of it. An operation that waits for storage
uses some up too, so it must not be few."""
BATCH = 16

log = structlog.get_logger(__name__)


class Dispatcher:
    """One thread that claims and starts operations, at most `concurrency` at once."""

    def __init__(
        self,
        database: Database,
        engine: Engine,
        executor_id: str,
        backends: Iterable[str],
        give_up: Callable[[str, int], None],
        *,
        concurrency: int,
        poll_interval_s: float,
        patient: Iterable[str] = (),
        most_of_a_pool: int | None = None,
    ) -> None:
        self._database = database
        self._engine = engine
        self._executor_id = executor_id
        self._backends = frozenset(backends)
        self._give_up = give_up
        self._concurrency = concurrency
        self._poll_interval_s = poll_interval_s
        self._patient = frozenset(patient)
        self._most_of_a_pool = most_of_a_pool
        self._lock = threading.Lock()
        self._under_way: set[str] = set()
        self._woken = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)

    def start(self) -> None:
        """Begin to claim."""
        self._thread.start()

    def stop(self) -> None:
        """Claim nothing more. What is under way goes on."""
        self._stopping = True
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join()

    def wake(self) -> None:
        """Say that there may be something to claim. Cheap; callable from any thread."""
        self._woken.set()

    def ended(self, operation_id: str) -> None:
        """Say that an execution ended: its place and its lane are free."""
        with self._lock:
            self._under_way.discard(operation_id)
        self._woken.set()

    def idle(self) -> bool:
        """Say whether nothing that this dispatcher started is under way."""
        with self._lock:
            return not self._under_way

    def recover(self) -> None:
        """Requeue what the catalog believes this executor runs but nobody does.

        Between a claim and the engine's record lies an instant at which a process can die; and an
        execution that lost the database at its very end could not say so. Work is idempotent, so
        another attempt is always right; after `MAX_ATTEMPTS` it is the work itself that kills the
        process, and the operation ends in failure.
        """
        with self._database.read() as connection:
            mine = operations.live(connection, executor=self._executor_id)
        for row in mine:
            with self._lock:
                known = row.id in self._under_way
            if known or self._engine.is_live(row.id, row.attempts):
                continue
            if row.attempts >= MAX_ATTEMPTS:
                log.error("operation.given_up", operation_id=row.id, attempts=row.attempts)
                self._give_up(row.id, row.attempts)
                continue
            log.warning("operation.requeued", operation_id=row.id, attempt=row.attempts)
            with self._database.write() as connection:
                operations.requeue(connection, row.id, row.attempts)
            self._woken.set()

    def _run(self) -> None:
        while not self._stopping:
            woken = self._woken.wait(self._poll_interval_s)
            self._woken.clear()
            try:
                if woken or self._something_waits():
                    while not self._stopping and self._claim_and_start():
                        pass
            except BreezeblockError as error:
                log.warning("dispatcher.failed", error=str(error))
                threading.Event().wait(self._poll_interval_s)
            except Exception:
                log.exception("dispatcher.failed")
                threading.Event().wait(self._poll_interval_s)

    def _something_waits(self) -> bool:
        """Look without writing: an idle service leaves the database alone."""
        with self._database.read() as connection:
            return operations.any_queued(connection, self._backends)

    def _claim_and_start(self) -> bool:
        with self._lock:
            free = self._concurrency - len(self._under_way)
        if free <= 0:
            return False
        with self._database.write() as connection:
            claimed = operations.claim(
                connection,
                self._executor_id,
                self._backends,
                min(free, BATCH),
                patient=self._patient,
                most_of_a_pool=self._most_of_a_pool,
            )
        for operation_id, attempt in claimed:
            with self._lock:
                self._under_way.add(operation_id)
            try:
                self._engine.start(operation_id, attempt)
            except Exception:
                self.ended(operation_id)
                raise
        return bool(claimed)
