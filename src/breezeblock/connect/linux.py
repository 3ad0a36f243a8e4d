"""This Linux host: volumes served over NBD become kernel block devices.

A device has two connections and patience. If its server dies, is upgraded or moves, requests wait; `keep`
gives the device new connections as soon as there is a server again, and what was under way is sent again.
The guest sees a stall, never an I/O error.

What is attached is recorded in files, one for each volume, written before the device is made and
removed after it is gone. So a restart of the host, or of anything in between, can be made good by
`restore`. Which device is whose, the kernel itself knows: each carries its URI (/sys/block/nbd*/backend).
"""

import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import structlog

from breezeblock.connect import Attached
from breezeblock.connect.netlink import Nbd
from breezeblock.connect.records import Records
from breezeblock.errors import BreezeblockError, ConflictError, InvalidInputError, UnavailableError
from breezeblock.objects.nbd import client
from breezeblock.objects.nbd.client import Export, Place
from breezeblock.objects.nbd.wire import Transmission

log = structlog.get_logger()

STATE = Path("/var/lib/breezeblock/attachments")
HERE = ""
"""The consumer that is this host, which may be named too."""
_SYS = Path("/sys/block")
_BLKFLSBUF = 0x1261
_GONE_S = 10.0
_RETRY_S = 0.1
_QUIET_S = 5.0


class Attachment(msgspec.Struct, frozen=True):
    """What is recorded of a volume that belongs on this host."""

    uri: str
    index: int | None = None
    """Of the device that it had last: it gets that again if nobody else took it."""
    timeout_s: int = 5
    dead_timeout_s: int = 600
    read_only: bool = False


class Failure(NamedTuple):
    """What could not be brought to its device."""

    number: int | None
    """The device's, if there is one."""
    error: BreezeblockError


class LinuxConnector:
    """Attaches to this host's kernel. Every verb may be killed anywhere and run again."""

    drivers: tuple[str, ...] = ("nbd",)

    def __init__(
        self,
        state: Path = STATE,
        *,
        connections: int = 2,
        timeout_s: int = 5,
        dead_timeout_s: int = 600,
    ) -> None:
        """Prepare.

        After `timeout_s` without an answer a request is sent again over another connection, so this
        bounds the stall when a server is killed; it must be more than the server takes for anything. With no
        connection alive, requests wait for `dead_timeout_s` before they fail.
        """
        self._records = Records(state, Attachment)
        self._connections = connections
        self._timeout_s = timeout_s
        self._dead_timeout_s = dead_timeout_s

    def attach(self, data: Mapping[str, Any], consumer: str = HERE, *, read_only: bool = False) -> Attached:
        """Make the export at `data["uri"]` a device of this host."""
        where = _place(data, consumer)
        with self._records.alone():
            record = self._records.get(str(where)) or Attachment(
                str(where), None, self._timeout_s, self._dead_timeout_s, read_only
            )
            if record.read_only != read_only:
                raise ConflictError(
                    f"{where} is attached {'read-only' if record.read_only else 'for writing'}.",
                    remedy="Detach it first.",
                )
            self._records.put(str(where), record)
            try:
                index = self._ensure(record)
            except BreezeblockError:
                if device_of(where) is None:
                    self._records.forget(str(where))
                raise
            record = msgspec.structs.replace(record, index=index)
            self._records.put(str(where), record)
        return _attached(record, index)

    def detach(self, data: Mapping[str, Any], consumer: str = HERE, *, force: bool = False) -> None:
        """Write back, take the device away, and forget it; ConflictError while it is mounted.

        With `force` nothing is written back: what is cached is lost.
        """
        where = _place(data, consumer)
        with self._records.alone(), ExitStack() as held:
            index = device_of(where)
            if index is not None:
                if not force:
                    held.enter_context(_written_back(index, where))
                with Nbd() as nbd, suppress(FileNotFoundError):
                    nbd.disconnect(index)
                held.close()
                wait_until_gone(where)
            self._records.forget(str(where))

    def find(self, data: Mapping[str, Any], consumer: str = HERE) -> Attached | None:
        """Say how the export is attached here; None = not at all."""
        where = _place(data, consumer)
        index, record = device_of(where), self._records.get(str(where))
        return None if index is None else _attached(record or Attachment(str(where)), index)

    def extend(self, data: Mapping[str, Any], consumer: str = HERE) -> int:
        """Let the device have the length that its export has now, and return that, in bytes."""
        where = _place(data, consumer)
        with self._records.alone(), Nbd() as nbd:
            index = device_of(where)
            if index is None:
                raise ConflictError(f"{where} is not attached here.", remedy="Attach it first.")
            connected, export = client.connect(where)
            connected.close()
            nbd.reconfigure(index, identifier=str(where), length=export.length)
        return export.length

    def attached(self) -> list[tuple[Attachment, str | None]]:
        """Return what belongs on this host, each with its device if it has one."""
        found = []
        for record in self._records.all():
            index = device_of(client.place(record.uri))
            found.append((record, None if index is None else f"/dev/nbd{index}"))
        return found

    def restore(self, wounded: Collection[int] | None = None) -> list[Failure]:
        """Bring everything that belongs here to its device, and return what could not be brought.

        For the start of the host, and for whenever connections may have been lost unheard. With
        `wounded`, of the devices that exist only those with these indexes are looked at.
        """
        failures = []
        with self._records.alone():
            for record in self._records.all():
                index = device_of(client.place(record.uri))
                if index is not None and wounded is not None and index not in wounded:
                    continue
                try:
                    index = self._ensure(record, renew=True)
                    self._records.put(record.uri, msgspec.structs.replace(record, index=index))
                except BreezeblockError as error:
                    failures.append(Failure(index, error))
        return failures

    def keep(self, stopped: Callable[[], bool]) -> None:
        """Give devices that lose connections new ones, until `stopped`.

        Run this for as long as the host runs.
        """
        with Nbd() as news:
            news.subscribe()
            failures = self.restore()
            while not stopped():
                dead = news.dead_links(_RETRY_S if failures else _QUIET_S)
                if dead or failures:
                    wounded = dead | {one.number for one in failures if one.number is not None}
                    failures = self.restore(wounded)
                    if not failures:
                        log.info("attach.restored", devices=sorted(wounded))
                    elif dead:
                        log.warning("attach.waiting", why=[str(one.error) for one in failures])

    def _ensure(self, record: Attachment, *, renew: bool = False) -> int:
        """Return the index of the record's device, which is made if there is none."""
        where = client.place(record.uri)
        index = device_of(where)
        if index is not None and not renew:
            return index
        with Nbd() as nbd, self._opened(where) as (sockets, export):
            if index is not None:
                with refused(where):
                    nbd.reconfigure(index, identifier=str(where), sockets=sockets)
                return index
            with refused(where):
                try:
                    return _make(nbd, sockets, export, record, record.index)
                except OSError as error:
                    if record.index is None or error.errno not in {errno.EBUSY, errno.EEXIST}:
                        raise
                    return _make(nbd, sockets, export, record, None)

    @contextmanager
    def _opened(self, where: Place) -> Iterator[tuple[list[socket.socket], Export]]:
        """Open the connections for one device. The kernel takes its own hold on them."""
        with ExitStack() as stack:
            connected, export = client.connect(where)
            sockets = [stack.enter_context(connected)]
            # Without that promise of the server a flush over one would not cover writes over the other.
            if export.flags & Transmission.CAN_MULTI_CONN:
                more = range(self._connections - 1)
                sockets += [stack.enter_context(client.connect(where)[0]) for _ in more]
            yield sockets, export


def _make(
    nbd: Nbd, sockets: list[socket.socket], export: Export, record: Attachment, index: int | None
) -> int:
    return nbd.connect(
        sockets,
        length=export.length,
        block_bytes=max(512, export.minimum_bytes),
        flags=export.flags | (Transmission.READ_ONLY if record.read_only else 0),
        timeout_s=record.timeout_s,
        dead_timeout_s=record.dead_timeout_s,
        identifier=record.uri,
        index=index,
    )


def connection_data(uri: str) -> dict[str, Any]:
    """Return an export's connection info, its `data`. Raises InvalidInputError if the URI is none."""
    return {"uri": str(client.place(uri))}


def _place(data: Mapping[str, Any], consumer: str) -> Place:
    if consumer not in {HERE, socket.gethostname()}:
        raise InvalidInputError(
            f"{consumer!r} is not this host.", remedy="Attach on the host that is to use the volume."
        )
    return client.place(str(data.get("uri", "")))


def _attached(record: Attachment, index: int) -> Attached:
    return Attached(consumer=socket.gethostname(), device=f"/dev/nbd{index}", read_only=record.read_only)


def device_of(where: Place) -> int | None:
    """Return the index of the kernel's device for an export, None if there is none."""
    for backend in _SYS.glob("nbd*/backend"):
        with suppress(OSError):  # it may be going away
            if backend.read_text().strip() == str(where):
                return int(backend.parent.name.removeprefix("nbd"))
    return None


@contextmanager
def _written_back(index: int, where: Place) -> Iterator[None]:
    """Write a device's cached data back, and keep everybody from mounting it meanwhile."""
    try:
        device = os.open(f"/dev/nbd{index}", os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise _failure(where, error) from error
        raise ConflictError(
            f"/dev/nbd{index} is in use.", remedy="Unmount it, or take it out of its volume group, first."
        ) from error
    try:
        with refused(where):
            os.fsync(device)
            fcntl.ioctl(device, _BLKFLSBUF)
        yield
    finally:
        os.close(device)


def wait_until_gone(where: Place) -> None:
    """Return when the kernel has let go: somebody may hold the device open for a moment (udev does)."""
    deadline = time.monotonic() + _GONE_S
    while device_of(where) is not None:
        if time.monotonic() > deadline:
            raise ConflictError(
                f"The device of {where} is still held open.", remedy="End what uses it; then detach again."
            )
        time.sleep(0.01)


@contextmanager
def refused(where: Place) -> Iterator[None]:
    """Raise UnavailableError for what the kernel refuses."""
    try:
        yield
    except OSError as error:
        raise _failure(where, error) from error


def _failure(where: Place, error: OSError) -> UnavailableError:
    return UnavailableError(
        f"{where}: the kernel says {error.strerror or error}.", remedy="`dmesg` may know more."
    )
