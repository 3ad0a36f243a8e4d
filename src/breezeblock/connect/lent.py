"""A volume in the layout flat as a kernel device of this process, for as long as a piece of work takes.

This process serves it to the kernel itself, over a pair of sockets, and has no patience: when it is killed,
what uses the device fails at once instead of waiting for a server that will not come back. What a killed one
leaves in the kernel the next one to want the volume takes away, or `sweep` does.
"""

import asyncio
import fcntl
import os
import socket
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Self, TypeVar

from breezeblock.connect import linux, thin
from breezeblock.connect.netlink import Nbd
from breezeblock.errors import ConflictError
from breezeblock.objects.flat import FlatDevice, volumes
from breezeblock.objects.nbd import client
from breezeblock.objects.nbd.client import Place
from breezeblock.objects.nbd.connection import Connection
from breezeblock.objects.nbd.server import Server
from breezeblock.objects.stores.opening import StoreConfig, open_store

_T = TypeVar("_T")
_REQUEST_S = 120
"""More than a store may take for a request."""
_BUSY_S = 30.0
_PAUSE_S = 0.05


class Lent:
    """The device."""

    def __init__(self, where: Place, index: int, served: "_Served") -> None:
        self.path = f"/dev/nbd{index}"
        self._where, self._index, self._served = where, index, served

    def grow(self, length: int) -> None:
        """Make the object, and the device, so many bytes long; long enough = done."""
        if length > self._served.device.length:
            self._served.run(self._served.device.grow(length))
            with Nbd() as nbd, linux.refused(self._where):
                nbd.reconfigure(self._index, identifier=str(self._where), length=length)


@contextmanager
def lent(config: StoreConfig, volume: str, holder: str, locks: Path) -> Iterator[Lent]:
    """Lend a volume, locked as `holder`; what device-mapper has on it at the end is taken away.

    Raises NotFoundError, ConflictError if somebody has it, UnsupportedError without the kernel's NBD.
    `locks` is a directory of this host.
    """
    where = _place(locks, volume)
    with _alone(locks, volume), ExitStack() as stack:
        _clear(where)
        served = stack.enter_context(_Served(config, volume, holder))
        theirs, export = served.connected(where)
        with theirs, Nbd() as nbd, linux.refused(where):
            index = nbd.connect(
                [theirs],
                length=export.length,
                block_bytes=max(512, export.minimum_bytes),
                flags=export.flags,
                timeout_s=_REQUEST_S,
                dead_timeout_s=0,
                identifier=str(where),
            )
        stack.callback(_clear, where)
        yield Lent(where, index, served)


def sweep(locks: Path) -> None:
    """Take away the devices that killed processes of this host left."""
    for lock in locks.glob("*.lock"):
        with suppress(ConflictError), _alone(locks, lock.stem, wait_s=0):
            _clear(_place(locks, lock.stem))
            lock.unlink()


def forget(locks: Path, volume: str) -> None:
    """Take away what is left of a volume that is to be deleted. Raises ConflictError while it is lent."""
    with _alone(locks, volume):
        _clear(_place(locks, volume))
        (locks / f"{volume}.lock").unlink()


def _place(locks: Path, volume: str) -> Place:
    return Place(str(locks / volume), volume)  # a name, by which the kernel's device is known; no socket


def _clear(where: Place) -> None:
    index = linux.device_of(where)
    if index is None:
        return
    thin.tear_down(f"/dev/nbd{index}", where.export)
    with Nbd() as nbd, suppress(FileNotFoundError):
        nbd.disconnect(index)
    linux.wait_until_gone(where)


@contextmanager
def _alone(locks: Path, volume: str, wait_s: float = _BUSY_S) -> Iterator[None]:
    """Let one at a time of this host have a volume. Raises ConflictError."""
    locks.mkdir(mode=0o700, parents=True, exist_ok=True)
    path, until = locks / f"{volume}.lock", time.monotonic() + wait_s
    while (lock := _locked(path)) is None:
        if time.monotonic() >= until:
            raise ConflictError(f"The service is at work on volume {volume}.", remedy="Try again later.")
        time.sleep(_PAUSE_S)
    with lock:
        yield


def _locked(path: Path) -> IO[str] | None:
    lock = path.open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.stat().st_ino == os.fstat(lock.fileno()).st_ino:
            return lock
    except (BlockingIOError, FileNotFoundError):  # somebody has it, or removed it meanwhile
        pass
    lock.close()
    return None


class _Served:
    """A volume, and the thread that serves it."""

    def __init__(self, config: StoreConfig, volume: str, holder: str) -> None:
        self._config, self._volume, self._holder = config, volume, holder
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"lent-{volume}", daemon=True)

    def __enter__(self) -> Self:
        """Open the volume."""
        self._thread.start()
        try:
            self.run(self._open())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        """Give it back."""
        try:
            self.run(self._close())
        finally:
            self._end()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Do something where it is served."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def connected(self, where: Place) -> tuple[socket.socket, client.Export]:
        """Return a connection for the kernel."""
        ours, theirs = socket.socketpair()
        self.run(self._accept(ours))
        theirs.settimeout(_REQUEST_S)
        export = client.negotiate(theirs, where)
        theirs.settimeout(None)
        return theirs, export

    async def _accept(self, ours: socket.socket) -> None:
        ours.setblocking(False)
        await self._loop.connect_accepted_socket(lambda: Connection(self._server), sock=ours)

    async def _open(self) -> None:
        self._store = await open_store(self._config)
        try:
            self.device: FlatDevice = await volumes.attach(self._store, self._volume, self._holder)
        except BaseException:
            await self._store.close()
            raise
        self._server = Server({self._volume: self.device})

    async def _close(self) -> None:
        try:
            await self._server.stop()
        finally:
            await self._store.close()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
