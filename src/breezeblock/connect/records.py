"""What belongs on this host, written down: a file for each, replaced whole and durably."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

import msgspec
import structlog

log = structlog.get_logger(__name__)
T = TypeVar("T", bound=msgspec.Struct)


class Records(Generic[T]):
    """Records of one kind in a directory of their own, by name; names may be anything."""

    def __init__(self, directory: Path, kind: type[T]) -> None:
        self._directory, self._kind = directory, kind

    @contextmanager
    def alone(self, name: str = "") -> Iterator[None]:
        """Let one process, or thread, of this host at a time change what they are about.

        With a name only what that one is about. There are 256 such locks, as none can be removed: two names
        share one now and then.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        which = f".{self._path(name).name[:2]}" if name else ""
        with (self._directory / f"{which}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def all(self) -> list[T]:
        """Return every record that can be read; the others are logged."""
        if not self._directory.is_dir():
            return []
        found = []
        for path in sorted(self._directory.glob("*.json")):
            try:
                found.append(self._decoded(path))
            except FileNotFoundError:
                pass  # forgotten meanwhile
            except msgspec.DecodeError as error:
                log.warning("records.unreadable", path=str(path), why=str(error))
        return found

    def get(self, name: str) -> T | None:
        """Return a record, None if there is none of that name."""
        try:
            return self._decoded(self._path(name))
        except FileNotFoundError:
            return None

    def put(self, name: str, record: T) -> None:
        """Write a record down, in place of an earlier one."""
        path = self._path(name)
        new = path.with_suffix(".new")
        with new.open("wb") as file:
            file.write(msgspec.json.encode(record))
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)
        self._sync()

    def forget(self, name: str) -> None:
        """Remove a record; absent = done."""
        self._path(name).unlink(missing_ok=True)
        self._sync()

    def _path(self, name: str) -> Path:
        return self._directory / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"

    def _decoded(self, path: Path) -> T:
        return msgspec.json.decode(path.read_bytes(), type=self._kind)

    def _sync(self) -> None:
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
