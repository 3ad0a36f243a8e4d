"""The pool's storage objects, kept up to date by events: one call a look, however many disks there are."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from breezeblock.errors import UnavailableError
from breezeblock.xenapi.failures import XenApiError
from breezeblock.xenapi.records import Batch, Host, Pbd, Pool, Record, Sm, Sr, Vdi, decode
from breezeblock.xenapi.session import Session

_KINDS: dict[str, type[Record]] = {"pool": Pool, "host": Host, "sm": Sm, "sr": Sr, "pbd": Pbd, "vdi": Vdi}
_CLASSES = ["pool", "host", "SM", "SR", "PBD", "VDI"]
_LOST = {"EVENTS_LOST", "EVENT_FROM_TOKEN_PARSE_FAILURE"}


@dataclass(frozen=True, slots=True)
class View:
    """The objects at one moment, by reference."""

    pools: dict[str, Pool]
    hosts: dict[str, Host]
    sms: dict[str, Sm]
    srs: dict[str, Sr]
    pbds: dict[str, Pbd]
    vdis: dict[str, Vdi]

    def features(self, sr: Sr) -> frozenset[str]:
        """Return what the SR's driver can do."""
        return frozenset(key for sm in self.sms.values() if sm.type == sr.type for key in sm.features)

    def formats(self, sr: Sr) -> frozenset[str]:
        """Return the image formats that the SR's driver names; older hosts name none."""
        found = (sm.supported_image_formats for sm in self.sms.values() if sm.type == sr.type)
        return frozenset(name for formats in found for name in formats)

    def plugs(self, sr_ref: str) -> list[Pbd]:
        """Return the SR's connections, one a host."""
        return [pbd for pbd in self.pbds.values() if sr_ref == pbd.SR]

    def find(self, uuid: str) -> tuple[str, Vdi] | None:
        """Return a disk by uuid."""
        return next(((ref, vdi) for ref, vdi in self.vdis.items() if vdi.uuid == uuid), None)


class Mirror:
    """Keeps the objects; safe for many threads."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._tables: dict[str, dict[str, Any]] = {name: {} for name in _KINDS}
        self._token = ""
        self._epoch = -1

    def look(self, timeout_s: float = 0.0) -> View:
        """Return the objects as they are now, waiting at most so long for a change.

        Raises XenApiError, UnavailableError.
        """
        with self._lock:
            if self._epoch != self._session.epoch:
                self._token = ""
            try:
                batch = self._fetch(timeout_s)
            except XenApiError as error:
                if error.code not in _LOST:
                    raise
                self._token = ""
                batch = self._fetch(0.0)
            if not self._apply(batch):  # a deletion was missed: begin anew
                self._token = ""
                self._apply(self._fetch(0.0))
            tables = {name: dict(table) for name, table in self._tables.items()}
        hosts = tables["host"].values()
        self._session.learn([host.address for host in hosts if host.address])
        return View(*(tables[name] for name in _KINDS))

    def wait(self, until: Callable[[View], bool], what: str, timeout_s: float = 60.0) -> View:
        """Return the first view for which `until` is true. Raises UnavailableError when the time is over."""
        end = time.monotonic() + timeout_s
        view = self.look()
        while not until(view):
            if time.monotonic() > end:
                raise UnavailableError(f"Waited {timeout_s:g} seconds for {what}.")
            view = self.look(1.0)
        return view

    def _fetch(self, timeout_s: float) -> Batch:
        batch = decode(self._session.call("event.from", _CLASSES, self._token, float(timeout_s)), Batch)
        if self._epoch != self._session.epoch:  # another master answered
            self._epoch = self._session.epoch
            if self._token:
                self._token = ""
                batch = decode(self._session.call("event.from", _CLASSES, "", 0.0), Batch)
        return batch

    def _apply(self, batch: Batch) -> bool:
        if not self._token:
            for table in self._tables.values():
                table.clear()
        for event in batch.events:
            name = event.cls.lower()
            if name not in _KINDS:
                continue
            if event.operation == "del":
                self._tables[name].pop(event.ref, None)
            else:
                self._tables[name][event.ref] = decode(event.snapshot, _KINDS[name])
        self._token = batch.token
        counts = {name.lower(): count for name, count in batch.valid_ref_counts.items()}
        return all(counts.get(name, len(table)) == len(table) for name, table in self._tables.items())
