"""The bytes of volumes in object stores, for copies and images."""

import asyncio
import os
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from inspect import isawaitable
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from breezeblock import images
from breezeblock.attempt import Attempt
from breezeblock.backends import drafts
from breezeblock.backends.contract import Data
from breezeblock.backends.copying import copy_data
from breezeblock.backends.sparse import FileData
from breezeblock.errors import BreezeblockError, InvalidInputError
from breezeblock.images import inspection
from breezeblock.objects import flat
from breezeblock.objects.flat import pinned
from breezeblock.objects.flat import snapshots as flat_snapshots
from breezeblock.objects.flat import volumes as flat_volumes
from breezeblock.objects.log import volumes
from breezeblock.objects.log.device import LogDevice
from breezeblock.objects.log.format import LEAF_BYTES, LEAF_PAGES, PAGE
from breezeblock.objects.nbd.device import DATA
from breezeblock.objects.nbd.device import Data as Bytes
from breezeblock.objects.stores.opening import StoreConfig, open_store
from breezeblock.objects.stores.port import Store
from breezeblock.shares import files

_T = TypeVar("_T")
_Device = LogDevice | flat.FlatDevice | flat.ImageDevice
SERVICE = "the service"
"""Who has the lock of a flat volume while the service writes into it."""
HOLDING = "copy-"
"""How the names begin of holds that last as long as a copy."""
_EXTENTS = 4096
_PIECE = 4 << 20


class DeviceData:
    """A device as `contract.Data`; its loop runs while a call lasts."""

    def __init__(self, runner: asyncio.Runner, device: _Device) -> None:
        self.virtual_bytes = device.length
        self._runner, self._device = runner, device

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes."""
        self._within(offset, length)
        return b"".join(self._run(self._read(at, size)) for at, size in _pieces(offset, length))

    def write(self, offset: int, data: bytes) -> None:
        """Write all of `data`."""
        self._within(offset, len(data))
        if self._device.read_only:
            raise InvalidInputError("What was opened for reading cannot be written.")
        before, after = self._beside(offset, len(data))
        if before or after:
            data = self.read(offset - before, before) + data + self.read(offset + len(data), after)
            offset -= before
        view = memoryview(data)
        for at, size in _pieces(offset, len(data)):
            self._run(self._write(at, view[at - offset : at - offset + size]))

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeros, whole pages as holes."""
        self._within(offset, length)
        before, after = self._beside(offset, length)
        if before or after:
            for at, size in _pieces(offset, length):
                self.write(at, bytes(size))
        else:
            self._run(self._zero(offset, length))

    def flush(self) -> None:
        """Return when the store has everything."""
        self._run(self._flush())

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """Yield (offset, length, is data) in order, covering the range."""
        self._within(offset, length)
        end = offset + length
        while offset < end:
            # Leaf by leaf: the device takes one that is not in memory for full.
            stop = min(end, offset // LEAF_BYTES * LEAF_BYTES + LEAF_BYTES)
            for size, is_data in self._run(self._extents(offset, stop - offset)):
                amount = min(size, stop - offset)
                if amount:
                    yield offset, amount, is_data
                offset += amount

    def _beside(self, offset: int, length: int) -> tuple[int, int]:
        """Return how many bytes there are before and after a range in its first and last sector."""
        sector = self._device.minimum_bytes
        return offset % sector, -(offset + length) % sector

    async def _read(self, offset: int, length: int) -> bytes:
        got: Bytes | list[Bytes] = await _settled(self._device.read(offset, length))
        return b"".join(got) if isinstance(got, list) else bytes(got)

    async def _write(self, offset: int, data: memoryview) -> None:
        await _settled(self._device.write(offset, data))

    async def _zero(self, offset: int, length: int) -> None:
        await _settled(self._device.zero(offset, length))

    async def _flush(self) -> None:
        await _settled(self._device.flush())

    async def _extents(self, offset: int, length: int) -> list[tuple[int, bool]]:
        if not isinstance(self._device, LogDevice):
            return [(length, True)]
        writer = self._device.writer
        leaf = offset // PAGE // LEAF_PAGES
        while writer.pages.at(leaf) is None:
            await writer.fetcher.bring(leaf)
        found = await _settled(self._device.extents(offset, length, _EXTENTS))
        return [(extent.length, extent.state == DATA) for extent in found]

    def _run(self, work: "Awaitable[_T]") -> _T:
        return self._runner.run(work)  # type: ignore[arg-type] # all of ours are coroutines

    def _within(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.virtual_bytes:
            raise InvalidInputError(f"Bytes {offset}+{length} are outside the {self.virtual_bytes} there.")


class FreshData:
    """A volume that was just made: what is not written, or is zeros, need not be sent."""

    def __init__(self, data: Data) -> None:
        self.virtual_bytes = data.virtual_bytes
        self.read, self.flush, self._data = data.read, data.flush, data

    def write(self, offset: int, data: bytes) -> None:
        """Write all of `data`."""
        if data.count(0) < len(data):
            self._data.write(offset, data)

    def zero(self, offset: int, length: int) -> None:
        """Do nothing: it reads as zeros."""

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """Say that nothing is data yet."""
        yield offset, length, False


class BlockData(FileData):
    """A block device of the kernel's, all of it data."""

    def flush(self) -> None:
        """Wait for the device."""
        os.fsync(self._fd)

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """Say that all is data: a device does not tell what is a hole."""
        self._within(offset, length)
        yield offset, length, True


@contextmanager
def block(path: str, *, writable: bool = False) -> Iterator[BlockData]:
    """Open a block device, which nobody else has open for himself."""
    mode = os.O_RDWR | os.O_EXCL if writable else os.O_RDONLY
    with files.storage_errors(path):
        fd = os.open(path, mode | os.O_CLOEXEC)
        try:
            yield BlockData(fd, os.lseek(fd, 0, os.SEEK_END))
        finally:
            os.close(fd)


async def _settled(answer: "_T | Awaitable[_T]") -> _T:
    return await answer if isawaitable(answer) else answer


def _pieces(offset: int, length: int) -> Iterator[tuple[int, int]]:
    for at in range(offset, offset + length, _PIECE):
        yield at, min(_PIECE, offset + length - at)


@contextmanager
def opened(
    config: StoreConfig,
    volume: str,
    snapshot: str = "",
    *,
    writable: bool = False,
    fresh: bool = False,
    memory: volumes.Memory | None = None,
) -> Iterator[Data]:
    """Open a volume, or a snapshot of it. For writing, whoever had it is fenced off, or stands in the way.

    What is read of a volume itself is what has arrived by now: it is held, against collections, meanwhile.
    A flat one must not change. `fresh`: it was just made. `memory`: what writing may use.
    """
    is_log = config.layout == "log"
    memory = memory or volumes.Memory()
    hold = f"{HOLDING}{uuid4()}" if is_log and not writable and not snapshot else ""
    with asyncio.Runner() as runner:
        store = runner.run(open_store(config))
        try:
            opening = _device(config.layout, store, volume, snapshot, hold, memory, writable=writable)
            device = runner.run(opening)
            try:
                data = DeviceData(runner, device)
                yield data if is_log or not fresh else FreshData(data)
                if config.layout == "read-only" and isinstance(device, flat.ImageDevice):
                    runner.run(device.verify())  # a copy is of one image, or fails
            except BaseException:
                if not is_log:  # there, after a failure nothing more is to be written; here, a lock is held
                    with suppress(BreezeblockError):
                        runner.run(device.close())
                raise
            runner.run(device.close())
        finally:
            if hold:
                runner.run(volumes.end_hold(store, volume, hold))
            runner.run(store.close())


async def _device(
    layout: str,
    store: Store,
    volume: str,
    snapshot: str,
    hold: str,
    memory: volumes.Memory,
    *,
    writable: bool,
) -> _Device:
    if layout == "log":
        return await _log_device(store, volume, snapshot, hold, memory if writable else None)
    if layout == "flat":
        return await _flat_device(store, volume, snapshot, writable=writable)
    return await pinned.attach(store, pinned.unpacked(volume))


async def _log_device(
    store: Store, volume: str, snapshot: str, hold: str, memory: volumes.Memory | None
) -> _Device:
    if memory:
        return await volumes.attach(store, volume, memory=memory)
    taken = volumes.take_hold(store, volume, hold) if hold else volumes.held(store, volume, snapshot)
    return await volumes.view(store, await taken)


async def _flat_device(store: Store, volume: str, snapshot: str, *, writable: bool) -> _Device:
    if writable:
        return await flat_volumes.attach(store, volume, SERVICE)
    if snapshot:
        return await flat_snapshots.attach(store, volume, snapshot)
    return await flat_volumes.attach_image(store, flat_snapshots.key(volume))


# --- images ---------------------------------------------------------------------------------------


def load(path: Path, image_format: str, target: Data, attempt: Attempt) -> None:
    """Let a volume read as a checked image, and as zeros beyond it."""
    with drafts.beside(path) as draft:
        if image_format != "raw":
            images.convert(path, draft, "raw", image_format, attempt=attempt)
            path = draft
        with drafts.opened(path, os.O_RDONLY) as fd:
            copy_data(FileData(fd, os.fstat(fd).st_size), target, attempt)


def save(source: Data, path: Path, image_format: str, attempt: Attempt) -> None:
    """Write a volume as an image, replacing what an earlier attempt left."""
    if image_format not in inspection.FORMATS:
        raise InvalidInputError(f"Image format {image_format[:40]!a} cannot be written.")
    with drafts.beside(path) as draft:
        path.unlink(missing_ok=True)
        target = path if image_format == "raw" else draft
        with drafts.opened(target, os.O_RDWR | os.O_CREAT | os.O_EXCL) as fd:
            os.ftruncate(fd, source.virtual_bytes)
            copy_data(source, FileData(fd, source.virtual_bytes), attempt)
        if target != path:
            images.convert(draft, path, image_format, "raw", attempt=attempt)
