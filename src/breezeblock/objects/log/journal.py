"""The journal on the local disk: what was written and is not yet in the store, in the order it was served.

Files of records follow each other; a file goes when all of it has arrived in the store. Records are drained
to the disk all the time, so that a flush finds little left to do; all flushes that wait at one moment share
one fdatasync(2).

Each file begins with the token of its writer's fence. A journal counts after a crash only if the volume's
last fence is one of ours; else somebody took the volume over, and what is here comes too late.
"""

import asyncio
import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from breezeblock.errors import BreezeblockError, ConflictError, NoSpaceError
from breezeblock.objects.log.format import crc
from breezeblock.shares import files

FILE_BYTES = 64 << 20
BEHIND_BYTES = 8 << 20
"""So much may wait for the disk before answers do."""
SYNC_BYTES = 16 << 20
"""So much is written at most between two fdatasyncs, or the next flush would take seconds."""

_FILE = struct.Struct("<8s16s16s")
_MAGIC = b"BzJrnl\x00\x01"
_RECORD = struct.Struct("<IIQQQ")
_WRITE, _ZERO = 0x57, 0x5A
MAX_RECORD_BYTES = 64 << 20


class Record(NamedTuple):
    """One change; `data` is None if it was a zeroing."""

    sequence: int
    offset: int
    length: int
    data: bytes | None


class Kept(NamedTuple):
    """What a journal held when it was opened."""

    records: list[Record]
    tokens: list[bytes]


class Journal:
    """The journal of one volume in a directory of its own."""

    def __init__(self, directory: Path, volume: str, token: bytes) -> None:
        self._directory, self._volume, self._token = directory, bytes.fromhex(volume), token
        self.stored: Callable[[], int] = lambda: 0
        """Tells the last write that the store has."""
        self._buffer: list[bytes] = []
        self._waiting_bytes = 0
        self._unsynced = 0
        self._flushes: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None
        self._less = asyncio.Event()
        self._failed: BreezeblockError | None = None
        self._last = 0
        self._older: list[tuple[Path, int]] = []
        self._fd = self._held = -1
        self._path = directory
        self._bytes = 0

    def open(self) -> Kept:
        """Read what is there, then begin a file, which is durable before anybody can rely on it."""
        with files.storage_errors("The journal"):
            if not self._directory.is_dir():
                self._directory.mkdir(mode=0o700)
                files.sync_directory(self._directory.parent)
            self._lock()
            kept = Kept([], [])
            names = sorted(name for name in files.listing(self._directory) if name.endswith(".log"))
            for name in names:
                path = self._directory / name
                _read(path, self._volume, kept)
                self._older.append((path, kept.records[-1].sequence if kept.records else 0))
            self._last = kept.records[-1].sequence if kept.records else 0
            self._begin(int(names[-1][:8]) + 1 if names else 1)
        return kept

    def _lock(self) -> None:
        self._held = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(
                f"{self._directory} is in use by another process.", remedy="Detach the volume there first."
            ) from None

    def write(self, sequence: int, offset: int, data: memoryview) -> None:
        """Add a write."""
        body = bytes(data)
        head = _RECORD.pack(_WRITE, crc(body), sequence, offset, len(body))
        self._add(sequence, head + crc(head).to_bytes(4, "little") + body)

    def zero(self, sequence: int, offset: int, length: int) -> None:
        """Add a zeroing."""
        head = _RECORD.pack(_ZERO, 0, sequence, offset, length)
        self._add(sequence, head + crc(head).to_bytes(4, "little"))

    @property
    def behind(self) -> bool:
        """Whether the disk is so slow that writers must wait."""
        return self._waiting_bytes > BEHIND_BYTES

    async def drained(self) -> None:
        """Return when the disk has caught up."""
        while self.behind and not self._failed:
            await self._less.wait()
        self._check()

    async def sync(self) -> None:
        """Return when everything added so far is durable."""
        self._check()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flushes.append(done)
        self._start()
        await done

    async def close(self, stored: int) -> None:
        """End; if the store has everything, nothing is left here."""
        if self._task:
            await self._task
        os.close(self._fd)
        if stored >= self._last and not self._failed:
            await asyncio.to_thread(self._remove)
        os.close(self._held)

    def abandon(self) -> None:
        """Let go of the files without changing what they say."""
        for fd in (self._fd, self._held):
            if fd >= 0:
                os.close(fd)

    def forget(self) -> None:
        """Remove what was there before this writer: it is not to be applied, now or later."""
        while self._older:
            self._older.pop()[0].unlink(missing_ok=True)
        files.sync_directory(self._directory)

    def _remove(self) -> None:
        for path in sorted(self._directory.glob("*.log")):
            path.unlink()
        files.sync_directory(self._directory)
        self._directory.rmdir()

    def _add(self, sequence: int, record: bytes) -> None:
        self._check()
        self._last = sequence
        self._buffer.append(record)
        self._waiting_bytes += len(record)
        self._start()

    def _check(self) -> None:
        if self._failed:
            raise self._failed

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        # Whatever else is ready now joins this round.
        await asyncio.sleep(0)
        while self._buffer or self._flushes:
            buffer, flushes, size = self._buffer, self._flushes, self._waiting_bytes
            self._buffer, self._flushes = [], []
            error: BreezeblockError | None = self._failed
            if not error:
                try:
                    await asyncio.to_thread(self._store, buffer, self._last, sync=bool(flushes))
                except OSError as caught:
                    error = self._failed = files.translate(caught, "The journal")
                except NoSpaceError as caught:
                    error = self._failed = caught
            self._waiting_bytes -= size
            for done in flushes:
                if not done.done():
                    done.set_exception(error) if error else done.set_result(None)
            less, self._less = self._less, asyncio.Event()
            less.set()
        self._task = None

    def _store(self, buffer: list[bytes], last: int, *, sync: bool) -> None:
        """Write on a thread; one at a time."""
        data = b"".join(buffer)
        files.write_all(self._fd, data, self._bytes)
        self._bytes += len(data)
        self._unsynced += len(data)
        if sync or self._unsynced > SYNC_BYTES:
            os.fdatasync(self._fd)
            self._unsynced = 0
        if self._bytes > FILE_BYTES:
            os.fdatasync(self._fd)
            os.close(self._fd)
            self._older.append((self._path, last))
            self._begin(int(self._path.name[:8]) + 1)
        stored = self.stored()
        while self._older and self._older[0][1] <= stored:
            self._older.pop(0)[0].unlink(missing_ok=True)

    def _begin(self, number: int) -> None:
        self._path = self._directory / f"{number:08d}.log"
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        head = _FILE.pack(_MAGIC, self._volume, self._token)
        files.write_all(self._fd, head + crc(head).to_bytes(4, "little"), 0)
        self._bytes, self._unsynced = _FILE.size + 4, 0
        os.fsync(self._fd)
        files.sync_directory(self._directory)


def _read(path: Path, volume: bytes, kept: Kept) -> None:
    """Add a file's records, up to the first that is not whole or does not follow."""
    with files.opened(path) as fd:
        head = os.pread(fd, _FILE.size + 4, 0)
        if len(head) < _FILE.size + 4 or crc(head[:-4]) != int.from_bytes(head[-4:], "little"):
            return  # a file that was being begun
        _, name, token = _FILE.unpack_from(head)
        if name != volume:
            return
        kept.tokens.append(token)
        at = len(head)
        while record := _record(fd, at):
            if kept.records and record.sequence != kept.records[-1].sequence + 1:
                kept.records.clear()  # a file that begins anew does so where the store had got to
            kept.records.append(record)
            at += _RECORD.size + 4 + (record.length if record.data is not None else 0)


def _record(fd: int, at: int) -> Record | None:
    head = os.pread(fd, _RECORD.size + 4, at)
    if len(head) < _RECORD.size + 4 or crc(head[:-4]) != int.from_bytes(head[-4:], "little"):
        return None
    kind, checksum, sequence, offset, length = _RECORD.unpack_from(head)
    if kind == _ZERO:
        return Record(sequence, offset, length, None)
    if length > MAX_RECORD_BYTES:
        return None
    data = os.pread(fd, length, at + len(head))
    if len(data) < length or crc(data) != checksum:
        return None
    return Record(sequence, offset, length, data)
