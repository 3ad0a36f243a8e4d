"""Connections and transactions.

SQLite: write-ahead log, `synchronous=FULL` (an answered request survives a power cut), and ONE
connection for all writers of the process. Several would wait for each other in SQLite's busy handler,
which sleeps with growing pauses; waiting for the pool's only connection is a fair queue without pauses.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from breezeblock.errors import ConfigError, UnavailableError

SQLITE_BUSY_MS = 30_000


class Database:
    """An engine for writing and one for reading; they share connections where the database does not care."""

    def __init__(self, url: str) -> None:
        try:
            self.url = sa.make_url(url)
        except sa.exc.ArgumentError as error:
            raise ConfigError(
                "database.url is not a database address",
                remedy="Use sqlite:////absolute/path.db or postgresql+psycopg://user@host/name.",
            ) from error
        self.dialect = self.url.get_backend_name()
        if self.dialect == "sqlite":
            path = self.url.database
            if not path or path == ":memory:" or not Path(path).is_absolute():
                raise ConfigError(
                    f"database.url names the SQLite file {path or ':memory:'!r}, not an absolute path",
                    remedy="Use sqlite:////absolute/path.db (four slashes).",
                )
            self.writer = _sqlite_engine(self.url, size=1)
            self.reader = _sqlite_engine(self.url, size=16)
            sa.event.listen(self.reader, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
        elif self.dialect == "postgresql":
            self.url = self.url.set(drivername="postgresql+psycopg")
            self.writer = sa.create_engine(self.url, pool_size=20, max_overflow=10, pool_pre_ping=True)
            self.reader = self.writer.execution_options(isolation_level="REPEATABLE READ")
        else:
            raise ConfigError(
                f"database.url names the database {self.dialect!r}",
                remedy="Use sqlite or postgresql.",
            )

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One transaction that may write: all of it or nothing."""
        with _unavailable(), self.writer.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """One consistent view; never waits for writers."""
        with _unavailable(), self.reader.connect() as connection:
            yield connection

    def dispose(self) -> None:
        """Close every connection."""
        self.writer.dispose()
        self.reader.dispose()


@contextlib.contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        # The statement and its parameters stay out of the message: they may hold what users wrote.
        raise UnavailableError(
            f"the database did not answer: {type(error.orig).__name__}",
            remedy="Look at the database server's log and at database.url.",
        ) from error


def _create_private(path: Path) -> None:
    """Make the file for our eyes only, before SQLite makes it for all; its journals get the same mode.

    A file that is there is not touched: closing any descriptor of it would drop every lock that this
    process's connections hold on it (POSIX, fcntl(2)), and another process could then take the journal
    away under them.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return
    except OSError as error:
        raise ConfigError(
            f"database.url names {path}, which cannot be opened: {error.strerror}",
            remedy="Create its directory, and let the service's user write there.",
        ) from error


def _sqlite_engine(url: sa.URL, *, size: int) -> sa.Engine:
    engine = sa.create_engine(
        url,
        poolclass=sa.pool.QueuePool,
        pool_size=size,
        max_overflow=0,
        connect_args={"check_same_thread": False},
    )

    @sa.event.listens_for(engine, "do_connect")
    def create(_dialect: Any, _record: Any, _arguments: Any, _keywords: Any) -> None:
        _create_private(Path(str(url.database)))

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        # The driver then begins a transaction, at once exclusive, before the first changing statement.
        connection.isolation_level = "IMMEDIATE"
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            f"busy_timeout={SQLITE_BUSY_MS}",
            "foreign_keys=ON",
        ):
            connection.execute(f"PRAGMA {pragma}")

    return engine
