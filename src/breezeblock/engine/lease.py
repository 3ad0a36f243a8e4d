"""The executor lease: two processes must never be the same executor.

It is taken before the engine launches and held until the process ends, however it ends: a `flock` on a
file beside a SQLite database, a session's advisory lock in PostgreSQL. Whoever finds an executor's
lease free knows that it is dead, and may give its operations to others.
"""

import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import SQLAlchemyError

from breezeblock.catalog.database import Database
from breezeblock.errors import UnavailableError

CHECK_INTERVAL_S = 2.0

log = structlog.get_logger(__name__)


class Lease:
    """The lease of one executor id."""

    def __init__(self, database: Database, executor_id: str) -> None:
        self._database = database
        self.executor_id = executor_id
        self._file: int | None = None
        self._connection: sa.Connection | None = None
        self._released = threading.Event()

    def acquire(self, timeout_s: float) -> None:
        """Wait for the lease, or raise UnavailableError naming the executor."""
        end = time.monotonic() + timeout_s
        while not self.try_acquire():
            if time.monotonic() >= end:
                raise UnavailableError(
                    f"another process is already running as executor {self.executor_id!r}",
                    remedy="Stop it, or give this one its own engine.executor_id.",
                )
            time.sleep(0.05)

    def try_acquire(self) -> bool:
        """Take the lease if nobody holds it."""
        return self._lock_file() if self._database.dialect == "sqlite" else self._lock_session()

    def watch(self, lost: Callable[[], None]) -> None:
        """Call `lost` when the database session that holds the lease is gone: somebody may take over."""
        if self._connection is not None:
            threading.Thread(target=self._watch, args=(lost,), name="lease", daemon=True).start()

    def release(self) -> None:
        """Give the lease up."""
        self._released.set()
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if self._connection is not None:
            self._connection.invalidate()  # the session, and with it the lock, ends; it is not pooled again
            self._connection.close()
            self._connection = None

    def _lock_file(self) -> bool:
        database_file = Path(str(self._database.url.database))
        path = database_file.with_name(f"{database_file.name}.lease-{self.executor_id}")
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._file = descriptor
        return True

    def _lock_session(self) -> bool:
        digest = hashlib.sha256(f"breezeblock executor {self.executor_id}".encode()).digest()
        key = int.from_bytes(digest[:8], "big", signed=True)
        connection = self._database.writer.connect().execution_options(isolation_level="AUTOCOMMIT")
        if connection.execute(sa.select(sa.func.pg_try_advisory_lock(key))).scalar():
            self._connection = connection
            return True
        connection.close()
        return False

    def _watch(self, lost: Callable[[], None]) -> None:
        while not self._released.wait(CHECK_INTERVAL_S):
            connection = self._connection
            if connection is None:
                return
            try:
                connection.execute(sa.select(1))
            except SQLAlchemyError:
                if not self._released.is_set():
                    log.critical("lease.lost", executor=self.executor_id)
                    lost()
                return
