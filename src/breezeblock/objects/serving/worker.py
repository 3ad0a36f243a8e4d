"""The process that works: one volume between its store and its clients."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress

import msgspec
import structlog

from breezeblock.errors import BreezeblockError, NotFoundError, UnsupportedError
from breezeblock.objects.flat import FlatDevice, ImageDevice, lock, pinned
from breezeblock.objects.flat import snapshots as flat_snapshots
from breezeblock.objects.flat import volumes as flat_volumes
from breezeblock.objects.log import volumes
from breezeblock.objects.log.compacting import compact
from breezeblock.objects.log.device import LogDevice
from breezeblock.objects.mirrors.store import Mirrors
from breezeblock.objects.nbd.server import Server
from breezeblock.objects.serving import messages
from breezeblock.objects.serving.messages import (
    Answer,
    Compact,
    Detach,
    Endpoints,
    Flush,
    Grow,
    Request,
    Snapshot,
    Status,
    Task,
    View,
)
from breezeblock.objects.stores.opening import open_store

log = structlog.get_logger()

_Device = LogDevice | FlatDevice | ImageDevice
_RETRY_FIRST_S, _RETRY_MOST_S = 0.1, 5.0


class Gone(Exception):  # noqa: N818 - not a failure
    """There is nothing to resume: the volume was detached properly."""


async def work(task: Task, ready: Callable[[], None]) -> None:
    """Serve until told to detach; then everything is in the store and nothing here.

    Calls `ready` when clients can come. Raises what the attaching or the last barrier raised.
    """
    device, store = await _attached(task)
    served = _Served(task, device, store)
    try:
        await served.listen()
        ready()
        await served.ended.wait()
    finally:
        await served.stop()


async def _attached(task: Task) -> tuple[_Device, Mirrors]:
    """Attach; one that was killed tries for as long as its store is away, for its clients wait too."""
    pause = _RETRY_FIRST_S
    while True:
        try:
            return await _attach(task)
        except BreezeblockError as error:
            if error.permanent or not task.resume:
                raise
            log.warning("serving.waiting", volume=task.volume, why=str(error))
        await asyncio.sleep(pause)
        pause = min(_RETRY_MOST_S, pause * 2)


async def _attach(task: Task) -> tuple[_Device, Mirrors]:
    is_log, image = task.store.layout == "log", task.image
    if is_log and task.resume and not any(task.journal.glob("*.log")):
        with suppress(FileNotFoundError):
            task.journal.rmdir()
        raise _gone(task)
    store = await open_store(task.store)
    try:
        if image:
            return await pinned.attach(store, image), store
        return await (_log_device(task, store) if is_log else _flat_device(task, store)), store
    except BaseException:
        await store.close()
        raise


async def _log_device(task: Task, store: Mirrors) -> LogDevice:
    return await volumes.attach(
        store,
        task.volume,
        task.journal,
        task.memory,
        discard=task.discard,
        resume=task.resume,
        durability=task.durability,
    )


async def _flat_device(task: Task, store: Mirrors) -> FlatDevice:
    if task.resume and await lock.read(store, flat_volumes.lock_key(task.volume)) is None:
        raise _gone(task)
    return await flat_volumes.attach(
        store, task.volume, lock.this_host(), steal=task.steal and not task.resume
    )


def _gone(task: Task) -> Gone:
    for path in (task.socket, messages.control_path(task.socket)):
        path.unlink(missing_ok=True)
    return Gone(f"Volume {task.volume} belongs to this host no more.")


class _Served:
    """The two sockets of a volume."""

    def __init__(self, task: Task, device: _Device, store: Mirrors) -> None:
        self._task, self._device, self._store = task, device, store
        self._nbd = Server({task.volume: device})
        self._control: asyncio.Server | None = None
        self.ended = asyncio.Event()
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the volume is detached."""
        self._talks: set[asyncio.Task[None]] = set()

    async def listen(self) -> None:
        """Open both; the one for clients last."""
        loop = asyncio.get_running_loop()
        for number in messages.ENDING:
            loop.add_signal_handler(number, self.ended.set)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, messages.ENDING)  # the keeper had them wait
        path = messages.control_path(self._task.socket)
        new = path.with_name(f".{path.name}.{os.getpid()}")
        new.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(new))
        new.chmod(0o600)  # before it listens: whatever the umask, nobody else was ever let in
        self._control = await asyncio.start_unix_server(
            self._talk, sock=listener, limit=messages.MAX_LINE_BYTES, backlog=16
        )
        new.rename(path)
        await self._nbd.listen_unix(self._task.socket)

    async def stop(self) -> None:
        """Be the barrier; whoever asked for it hears how it went."""
        try:
            await self._nbd.stop()
        except BaseException as error:
            self._over.set_exception(error)
            self._over.exception()  # it is raised here, too
            raise
        else:
            self._over.set_result(None)
        finally:
            # Before anybody hears of it, nothing is left that the volume's next process could meet.
            messages.lock_path(self._task.socket).unlink(missing_ok=True)
            if self._control:
                messages.control_path(self._task.socket).unlink(missing_ok=True)
                self._control.close()
            if self._talks:
                await asyncio.wait(self._talks, timeout=1)
            await self._store.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one client's requests, one after the other."""
        me = asyncio.current_task()
        assert me is not None  # noqa: S101 - we run in one
        self._talks.add(me)
        try:
            while said := await reader.readline():
                writer.write(messages.line(await self._answer(said)))
                await writer.drain()
                if self.ended.is_set():
                    return
        except (OSError, ValueError):
            pass  # it went away, or its line has no end
        finally:
            self._talks.discard(me)
            writer.close()

    async def _answer(self, said: bytes) -> Answer:
        try:
            return await self._do(msgspec.json.decode(said, type=Request))
        except msgspec.DecodeError as error:
            return Answer(error="InvalidInputError", message=f"That is no request: {error}.")
        except Exception as error:  # noqa: BLE001 - whoever asked must hear of it
            return messages.failure(error)

    async def _do(self, request: Request) -> Answer:
        match request:
            case Status():
                return Answer(view=self._view())
            case Snapshot(name) if not isinstance(self._device, ImageDevice):
                await self._snapshot(name)
            case Grow(length) if not isinstance(self._device, ImageDevice):
                volumes.check(self._task.volume, length)
                answer = self._device.grow(length)
                if answer is not None:
                    await answer
            case Flush() if isinstance(self._device, LogDevice):
                await self._device.writer.barrier()
            case Endpoints(add, remove):
                for url in add:
                    self._store.add(url)
                for url in remove:
                    with suppress(NotFoundError):
                        self._store.remove(url)
            case Compact(segments) if isinstance(self._device, LogDevice):
                await compact(self._device, segments)
            case Grow() | Snapshot():
                raise UnsupportedError(f"Volume {self._task.volume} is only read.")
            case Detach():
                self.ended.set()
                await asyncio.shield(self._over)
        return Answer()

    async def _snapshot(self, name: str) -> None:
        if isinstance(self._device, LogDevice):
            await volumes.snapshot(self._device, name)
        else:
            await flat_snapshots.take(self._store, self._task.volume, name)

    def _view(self) -> View:
        device = self._device
        seen = View(
            volume=self._task.volume,
            pid=os.getpid(),
            length=device.length,
            connections=self._nbd.connections,
            trouble=self._store.trouble,
            failed=str((device.writer if isinstance(device, LogDevice) else device).failed or ""),
            mirrors=self._store.status(),
        )
        if not isinstance(device, LogDevice):
            return seen
        writer = device.writer
        return msgspec.structs.replace(
            seen,
            trouble=writer.trouble or seen.trouble,
            epoch=writer.epoch,
            written=writer.sequence,
            stored=writer.stored,
            waiting_segments=writer.backlog,
            waiting_age_s=writer.age_s,
            uploaded_bytes=writer.uploaded_bytes,
            journal_bytes=device.journal_bytes,
            cached_bytes=device.cached_bytes,
        )
