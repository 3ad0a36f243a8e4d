"""The journal on the local disk: what was written and is not yet in the store, in the order it was served.

Files of records follow each other; a file goes when all of it has arrived in the store. They have their
full length from the beginning and are written through a mapping: what was added is in the kernel's hands at
once, so it outlives this process, without a system call. The disk gets it all the time, so that a
flush finds little left to do; all flushes that wait at one moment share one fdatasync(2).

Each file begins with the token of its writer's fence. A journal counts after a crash only if the volume's
last fence is one of ours; else somebody took the volume over, and what is here comes too late.
"""

import asyncio
import fcntl
import mmap
import os
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from breezeblock.errors import BreezeblockError, ConflictError, UnavailableError
from breezeblock.objects.log.format import crc
from breezeblock.shares import files

FILE_BYTES = 36 << 20
"""The largest write that a client can make fits."""
BEHIND_BYTES = 48 << 20
"""So much may wait for the disk before answers do."""
SYNC_BYTES = 16 << 20
"""So much waits for the disk before it is sent there without a flush, or the next one would take seconds."""

_FILE = struct.Struct("<8s16s16s")
_MAGIC = b"BzJrnl\x00\x01"
_RECORD = struct.Struct("<IIQQQ")
_SUM = struct.Struct("<I")
_HEAD_BYTES = _FILE.size + _SUM.size
_RECORD_BYTES = _RECORD.size + _SUM.size
_SPARE = "spare"
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


@dataclass(slots=True, eq=False)
class _File:
    path: Path
    fd: int
    room: mmap.mmap | None
    """None: it is of an earlier writer."""
    last: int = 0
    """The last write in it."""
    at: int = _HEAD_BYTES
    """Where the next record goes."""
    dirty: bool = False

    def close(self) -> None:
        if self.room is not None:
            self.room.close()
        os.close(self.fd)


class Journal:
    """The journal of one volume in a directory of its own."""

    def __init__(self, directory: Path, volume: str, token: bytes) -> None:
        self._directory, self._volume, self._token = directory, bytes.fromhex(volume), token
        self.stored: Callable[[], int] = lambda: 0
        """Tells the last write that the store has."""
        self.rolled: Callable[[], None] = lambda: None
        """Hears that a file is full: what it holds should go to the store soon, or an opening takes long."""
        self.tokens: list[bytes] = []
        """Of the writers whose journal this was when it was opened."""
        self._files: deque[_File] = deque()
        """All but the spare one; the last is written."""
        self._spare: _File | None = None
        self._renamed = False
        """Whether a spare one has a name now that the disk may not know."""
        self._next = 1
        self._unsynced = 0
        self._flushes: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None
        self._less = asyncio.Event()
        self._failed: BreezeblockError | None = None
        self._last = 0
        self._held = -1

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
                old = _File(path, os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC), None)
                self._files.append(old)
                # Its writer may have been killed before it was flushed. What follows will rest on it.
                os.fdatasync(old.fd)
                old.last = kept.records[-1].sequence if kept.records else 0
            self._last = kept.records[-1].sequence if kept.records else 0
            self.tokens = kept.tokens
            self._next = int(names[-1][:8]) + 1 if names else 1
            (self._directory / _SPARE).unlink(missing_ok=True)
            self._files.append(self._begun(self._directory / f"{self._next:08d}.log"))
            self._next += 1
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
        self._add(_RECORD.pack(_WRITE, crc(body), sequence, offset, len(body)), sequence, body)

    def zero(self, sequence: int, offset: int, length: int) -> None:
        """Add a zeroing."""
        self._add(_RECORD.pack(_ZERO, 0, sequence, offset, length), sequence, b"")

    @property
    def behind(self) -> bool:
        """Whether the disk is so slow that writers must wait."""
        return self._unsynced > BEHIND_BYTES

    @property
    def length(self) -> int:
        """Bytes of the files."""
        return sum(os.fstat(one.fd).st_size for one in self._files)

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
        while self._task:
            await self._task
        if stored >= self._last and not self._failed:
            await asyncio.to_thread(self._remove)
        self.abandon()

    def abandon(self) -> None:
        """Let go of the files without changing what they say."""
        for one in (*self._files, *([self._spare] if self._spare else [])):
            one.close()
        self._files.clear()
        self._spare = None
        if self._held >= 0:
            os.close(self._held)
            self._held = -1

    def forget(self) -> None:
        """Remove what was there before this writer: it is not to be applied, now or later."""
        while self._files[0].room is None:
            old = self._files.popleft()
            old.path.unlink(missing_ok=True)
            old.close()
        files.sync_directory(self._directory)
        self._last = 0

    def _remove(self) -> None:
        for path in sorted(self._directory.glob("*.log")):
            path.unlink()
        (self._directory / _SPARE).unlink(missing_ok=True)
        files.sync_directory(self._directory)
        self._directory.rmdir()

    def _add(self, head: bytes, sequence: int, body: bytes) -> None:
        if self._failed:
            raise self._failed
        file, size = self._files[-1], _RECORD_BYTES + len(body)
        if file.room is None or file.at + size > len(file.room):
            file = self._roll()
        at, room = file.at, file.room
        assert room is not None  # noqa: S101 - a file that was begun has one
        room[at : at + size] = b"".join((head, _SUM.pack(crc(head)), body))
        file.at, file.last, file.dirty = at + size, sequence, True
        self._last = sequence
        self._unsynced += size
        if self._unsynced > SYNC_BYTES:
            self._start()

    def _roll(self) -> _File:
        """Begin the next file; it is ready, unless one was filled faster than the disk made another."""
        path = self._directory / f"{self._next:08d}.log"
        self._next += 1
        with files.storage_errors("The journal"):
            if self._spare is None:
                file = self._begun(path)
            else:
                file, self._spare = self._spare, None
                file.path.rename(path)
                file.path = path
                self._renamed = True
        self._files.append(file)
        self._start()
        self.rolled()
        return file

    def _check(self) -> None:
        if self._failed:
            raise self._failed

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        # Whatever else is ready now joins this round.
        await asyncio.sleep(0)
        again = True
        while again or self._flushes:
            flushes, self._flushes = self._flushes, []
            size, stored = self._unsynced, self.stored()
            dirty = [one for one in self._files if one.dirty]
            for one in dirty:
                one.dirty = False
            if not self._failed:
                old = []
                while len(self._files) > 1 and self._files[0].last <= stored and not self._files[0].dirty:
                    old.append(self._files.popleft())
                try:
                    await asyncio.to_thread(self._store, [one for one in dirty if one not in old], old)
                except OSError as caught:
                    self._failed = files.translate(caught, "The journal")
                except BreezeblockError as caught:
                    self._failed = caught
                except Exception as caught:  # noqa: BLE001 - whoever waits for a flush must hear of it
                    self._failed = UnavailableError(f"The journal: {caught!r}.")
            self._unsynced -= size
            for done in flushes:
                if not done.done():
                    done.set_exception(self._failed) if self._failed else done.set_result(None)
            less, self._less = self._less, asyncio.Event()
            less.set()
            again = self._unsynced > SYNC_BYTES and not self._failed
        self._task = None

    def _store(self, dirty: list[_File], old: list[_File]) -> None:
        """Reach the disk, on a thread; one at a time, and in the order in which they were written."""
        try:
            if self._renamed:
                self._renamed = False
                files.sync_directory(self._directory)
            for one in dirty:
                os.fdatasync(one.fd)
            for one in old:
                one.path.unlink(missing_ok=True)
        finally:
            for one in old:
                one.close()
        if self._spare is None:
            # What was to be stored is. Whoever needs the next file tries again, and hears of it.
            with suppress(OSError):
                self._spare = self._begun(self._directory / _SPARE)

    def _begun(self, path: Path) -> _File:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # All its room at once: a full disk must be an error here, not a signal (SIGBUS) later.
            os.posix_fallocate(fd, 0, FILE_BYTES)
            head = _FILE.pack(_MAGIC, self._volume, self._token)
            files.write_all(fd, head + _SUM.pack(crc(head)), 0)
            os.fsync(fd)
            files.sync_directory(self._directory)
            return _File(path, fd, mmap.mmap(fd, FILE_BYTES))
        except BaseException:
            os.close(fd)
            path.unlink(missing_ok=True)  # it must not take the room that others need, nor the name
            raise


def _read(path: Path, volume: bytes, kept: Kept) -> None:
    """Add a file's records, up to the first that is not whole or does not follow."""
    with files.opened(path) as fd:
        head = os.pread(fd, _HEAD_BYTES, 0)
        if len(head) < _HEAD_BYTES or not _right(head):
            return  # a file that was being begun
        _, name, token = _FILE.unpack_from(head)
        if name != volume:
            return
        anew = token not in kept.tokens
        kept.tokens.append(token)
        if not anew and not kept.records:
            return  # the file before was full, and nothing of it has reached the disk
        at = len(head)
        while record := _record(fd, at):
            if kept.records and record.sequence != kept.records[-1].sequence + 1:
                if not anew:
                    return  # the end of the file before had not reached the disk: this was never promised
                kept.records.clear()  # a writer that begins does so where the store had got to
            anew = False
            kept.records.append(record)
            at += _RECORD_BYTES + (record.length if record.data is not None else 0)


def _right(head: bytes) -> bool:
    return bool(crc(head[: -_SUM.size]) == _SUM.unpack_from(head, len(head) - _SUM.size)[0])


def _record(fd: int, at: int) -> Record | None:
    head = os.pread(fd, _RECORD_BYTES, at)
    if len(head) < _RECORD_BYTES or not _right(head):
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
