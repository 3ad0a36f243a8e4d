"""Volumes of object stores on this host: a process serves each over NBD, the kernel makes it a device.

What is served is recorded, without secrets, before its process starts, and forgotten when the store has
everything. So a volume comes back after a restart of the host (`restore`), its journal with it; unless
another host had it since, for that one is not to be fenced off by a machine that merely woke up.
"""

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import msgspec

from breezeblock.connect import Attached, lvm, relays, thin
from breezeblock.connect.linux import HERE, STATE, LinuxConnector, connection_data
from breezeblock.connect.records import Records
from breezeblock.errors import (
    BreezeblockError,
    ConfigError,
    ConflictError,
    CorruptError,
    NotFoundError,
    UnsupportedError,
)
from breezeblock.objects import serving
from breezeblock.objects.nbd import client
from breezeblock.objects.nbd.client import Place
from breezeblock.shares import files

_AT_ONCE = 16
_DRAIN_S = 3600.0
"""How long a detach may take to put everything into the store."""
_UNDO_S = 30.0
"""The same, of what nobody has written to."""


class Record(msgspec.Struct, frozen=True):
    """A volume that belongs on this host."""

    data: dict[str, Any]
    """Of its connection info."""
    relayed: bool = False
    """Its device reaches its process through a relay."""


class ServedConnector:
    """Serves volumes to this host. Every verb may be killed anywhere and run again."""

    drivers: tuple[str, ...] = ("nbd", "nbd-thin")

    def __init__(
        self,
        task: Callable[[Mapping[str, Any]], serving.Task],
        state: Path = STATE,
        *,
        kernel: LinuxConnector | None = None,
        relayed: bool = True,
    ) -> None:
        """Prepare. `task` turns connection info into what is to be done here, secrets included.

        Without a `kernel` volumes end at their sockets, for QEMU or libvirt to open. A device that is made is
        `relayed`: a killed process costs it a pause as long as that is away, instead of the kernel's request
        timeout.
        """
        self._task, self._kernel, self._relayed = task, kernel, relayed
        self._sockets: list[Path] = []
        self._relays = relays.Watch([])
        self._records = Records(state / "served", Record)

    def attach(self, data: Mapping[str, Any], consumer: str = HERE, *, read_only: bool = False) -> Attached:
        """Serve the volume, and make it a device.

        Raises ConflictError if its journal comes too late, or if it can only be read and more was asked for.
        """
        task = self._task(data)
        if task.image and not read_only:
            raise ConflictError(
                f"Volume {data.get('volume_id', task.volume)} can only be read.",
                remedy="Attach it read-only: breezeblock attach --read-only.",
            )
        if data.get("thin"):
            _check_thin(task.volume, whole=self._kernel is not None and not read_only)
        with self._records.alone(task.volume):
            known = self._records.get(task.volume)
            relayed = known.relayed if known else self._relayed and self._kernel is not None
            self._records.put(task.volume, Record(dict(data), relayed))
            try:
                self._serve(task, relayed=relayed)
            except BreezeblockError:
                if known is None and not _journals(task):
                    self._records.forget(task.volume)
                    _log(task).unlink(missing_ok=True)
                raise
        if self._kernel is None:
            return Attached(consumer=consumer, device=uri(task), read_only=read_only)
        try:
            attached = self._kernel.attach(self._where(task), consumer, read_only=read_only)
            if not data.get("thin"):
                return attached
            thin.settled(attached.device, task.volume)
            return msgspec.structs.replace(attached, device=thin.activate(attached.device, task.volume))
        except BaseException:
            if known is None:
                self._undo(task, data, consumer)
            raise

    def _undo(self, task: serving.Task, data: Mapping[str, Any], consumer: str) -> None:
        """Serve no more what got no device: the service is about to say that nobody has the volume.

        While the store is away it goes on, and stays recorded: a detach ends it.
        """
        with suppress(BreezeblockError):
            if data.get("thin"):
                self._take_away(task, data, consumer, force=True)
            self._end(task, _UNDO_S)

    def detach(self, data: Mapping[str, Any], consumer: str = HERE, *, force: bool = False) -> None:
        """Take the device away, put everything into the store, and leave nothing here.

        Where tasks say `discard`, what another writer's claim keeps out of the store is given up.
        """
        task = self._task(data)
        self._take_away(task, data, consumer, force=force or task.discard)
        self._end(task, _DRAIN_S)

    def _end(self, task: serving.Task, drain_s: float) -> None:
        with self._records.alone(task.volume):
            relays.end(relays.path_of(task.socket))
            if not serving.running(task.socket):
                self._take_up(task)
            try:
                serving.call(task.socket, serving.Detach(), timeout_s=drain_s)
            except NotFoundError:
                pass  # it is not served
            except BreezeblockError:
                if not task.discard or serving.kept(task.socket):
                    raise
            if task.discard and task.journal.exists():
                shutil.rmtree(task.journal)
            self._records.forget(task.volume)
            _log(task).unlink(missing_ok=True)

    def _take_away(self, task: serving.Task, data: Mapping[str, Any], consumer: str, *, force: bool) -> None:
        """Take the device away, and before it what lies on it."""
        if self._kernel is None:
            return
        where = self._where(task)
        # Alone: or `activate` could find a pool with nothing on it in between.
        with self._records.alone(task.volume) if data.get("thin") else nullcontext():
            found = self._kernel.find(where, consumer) if data.get("thin") else None
            if found and force:
                thin.tear_down(found.device, task.volume)
            elif found and _stacked(found.device):
                thin.deactivate(found.device, task.volume)
            self._kernel.detach(where, consumer, force=force)

    def _take_up(self, task: serving.Task) -> None:
        """Start what was killed: what its journal holds belongs into the store, and its lock given back."""
        if _journals(task) and task.discard:
            # Somebody else had it since, or removed it, or what it needs is lost.
            with suppress(ConflictError, NotFoundError, CorruptError):
                serving.start(msgspec.structs.replace(_resumed(task), discard=False), log=_log(task))
        elif _journals(task):
            serving.start(task, log=_log(task))
        elif task.store.layout == "flat" and self._records.get(task.volume):
            with suppress(ConflictError, NotFoundError):  # it is somebody else's, or nobody's, by now
                serving.start(_resumed(task), log=_log(task))

    def find(self, data: Mapping[str, Any], consumer: str = HERE) -> Attached | None:
        """Say how the volume is attached here; None = not at all."""
        task = self._task(data)
        if not serving.running(task.socket):
            return None
        if self._kernel is None:
            return Attached(consumer=consumer, device=uri(task))
        found = self._kernel.find(self._where(task), consumer)
        if found and data.get("thin"):
            active = _stacked(found.device)
            return msgspec.structs.replace(found, device=str(thin.node(task.volume))) if active else None
        return found

    def grown(self, data: Mapping[str, Any], consumer: str = HERE) -> None:
        """Let the device have the length that the volume has now; no device = done."""
        task = self._task(data)
        where = self._where(task)
        if self._kernel is not None and self._kernel.find(where, consumer):
            self._kernel.extend(where, consumer)

    def records(self) -> list[dict[str, Any]]:
        """Return the connection info of all that belongs here."""
        return [record.data for record in self._records.all()]

    def restore(self) -> list[BreezeblockError]:
        """Start what belongs here and is not served; return why it could not be.

        Side by side: a volume whose store is away keeps trying for minutes, and no other waits for it.
        """
        try:
            with files.storage_errors("The records of served volumes"):
                records = self._records.all()
        except BreezeblockError as error:
            return [error]
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            found = list(threads.map(self._restored, records))
        self._sockets = [one for one in found if isinstance(one, Path)]
        self._relays.close()
        self._relays = relays.Watch(map(relays.path_of, self._sockets))
        return [one for one in found if isinstance(one, BreezeblockError)]

    def _restored(self, record: Record) -> Path | BreezeblockError | None:
        try:
            task = self._task(record.data)
            # A full disk, say, ends this attempt and not whoever goes on trying.
            with files.storage_errors(f"Volume {task.volume}"), self._records.alone(task.volume):
                # It may have been detached while this one waited for its turn.
                if not self._records.get(task.volume):
                    return None
                self._serve(task, relayed=record.relayed, resume=True)
                return task.socket
        except BreezeblockError as error:
            return error

    def activate(self) -> list[BreezeblockError]:
        """Give thin volumes that belong here, and whose pools are devices again, theirs; return failures."""
        failures: list[BreezeblockError] = []
        if (kernel := self._kernel) is None:
            return failures
        try:
            with files.storage_errors("The records of served volumes"):
                thin_ones = [record for record in self._records.all() if record.data.get("thin")]
        except BreezeblockError as error:
            return [error]
        for record in thin_ones:
            try:
                task = self._task(record.data)
                with files.storage_errors(f"Volume {task.volume}"):
                    self._activated(task, kernel)
            except BreezeblockError as error:
                failures.append(error)
        return failures

    def _activated(self, task: serving.Task, kernel: LinuxConnector) -> None:
        with self._records.alone(task.volume):
            found = kernel.find(self._where(task)) if self._records.get(task.volume) else None
            if found and not _stacked(found.device):
                thin.activate(found.device, task.volume)

    def lost(self) -> bool:
        """Tell whether a process that was there at the last `restore` is gone. Costs next to nothing."""
        return self._relays.ended() or not all(serving.kept(path) for path in self._sockets)

    def _serve(self, task: serving.Task, *, relayed: bool, resume: bool = False) -> None:
        """See that the volume is served, and relayed if it is to be."""
        front, log = relays.path_of(task.socket), _log(task)
        with relays.ensured(client.place(uri(task)), front, log) if relayed else nullcontext():
            if view := serving.running(task.socket):
                _set_endpoints(task, {one.url for one in view.mirrors.endpoints})
            else:
                serving.start(_resumed(task) if resume else task, log=log)

    def _where(self, task: serving.Task) -> dict[str, Any]:
        """Return what the kernel connects to."""
        record = self._records.get(task.volume)
        socket = relays.path_of(task.socket) if record and record.relayed else task.socket
        return connection_data(str(Place(str(socket), task.volume)))


def _check_thin(volume: str, *, whole: bool) -> None:
    """Raise UnsupportedError, or ConfigError, if a thin volume cannot be used so, or not on this host."""
    if not whole:
        raise UnsupportedError(
            f"Volume {volume} is in a thin pool, which the kernel has to open, for writing.",
            remedy="Attach it as a device, without --no-device and --read-only.",
        )
    if lacks := lvm.missing():
        raise ConfigError(" ".join(lacks), remedy="Mend that; then attach again.")


def _stacked(device: str) -> bool:
    return bool(lvm.stack(Path("/sys/block"), Path(device).name))


def _set_endpoints(task: serving.Task, used: set[str]) -> None:
    """Let what serves use the endpoints of today's settings: a worker that was replaced knows its task's."""
    wanted = set(task.store.urls)
    if wanted != used:
        serving.call(task.socket, serving.Endpoints(add=sorted(wanted - used), remove=sorted(used - wanted)))


def uri(task: serving.Task) -> str:
    """Return where a task's volume is served: QEMU and libvirt take it as it is."""
    return str(Place(str(task.socket), task.volume))


def _log(task: serving.Task) -> Path:
    return task.socket.with_name(f"{task.socket.name}.log")


def _journals(task: serving.Task) -> bool:
    return any(task.journal.glob("*.log"))


def _resumed(task: serving.Task) -> serving.Task:
    if task.store.layout == "log" and not _journals(task):
        raise ConflictError(
            f"Volume {task.volume} belongs to this host, but its journal is gone.",
            remedy="If no other host has the volume: attach it again.",
        )
    return msgspec.structs.replace(task, resume=True)
