"""The pool's database: rows, references both ways, and generations that events are made from."""

import threading
import time
import uuid as uuids
from collections.abc import Callable, Iterator
from typing import Any

from xenserver.failures import Failure
from xenserver.fields import CLASSES, NULL, empty

Row = dict[str, Any]

BACK = {
    ("PBD", "SR"): ("SR", "PBDs"),
    ("PBD", "host"): ("host", "PBDs"),
    ("VDI", "SR"): ("SR", "VDIs"),
    ("VDI", "snapshot_of"): ("VDI", "snapshots"),
    ("VBD", "VDI"): ("VDI", "VBDs"),
    ("VBD", "VM"): ("VM", "VBDs"),
    ("task", "subtask_of"): ("task", "subtasks"),
}
"""Which list of which class holds the other end of a reference."""


class Database:
    """Every object of the pool. All access holds `lock`; `changed` is notified on every change."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.generation = 1
        self.tables: dict[str, dict[str, Row]] = {name: {} for name in CLASSES}
        self.by_uuid: dict[tuple[str, str], str] = {}
        self.made: dict[str, int] = {}
        self.touched: dict[str, int] = {}
        self.gone: list[tuple[int, str, str]] = []
        self.computed: dict[str, Callable[[str, Row], Row]] = {}

    def add(self, cls: str, **values: Any) -> str:
        """Make an object; return its reference."""
        return self.insert(cls, values)

    def insert(self, cls: str, values: Row) -> str:
        """Make an object with any fields; return its reference."""
        with self.lock:
            ref = f"OpaqueRef:{uuids.uuid4()}"
            row: Row = {name: empty(kind) for name, kind in CLASSES[cls].items()}
            unknown = values.keys() - row.keys()
            assert not unknown, f"{cls} has no fields {unknown}"
            row |= {"uuid": str(uuids.uuid4())} | values
            self.tables[cls][ref] = row
            self.by_uuid[cls, row["uuid"]] = ref
            self._touch(ref)
            self.made[ref] = self.generation
            for field, value in row.items():
                self._link(cls, ref, field, value, present=True)
            return ref

    def row(self, cls: str, ref: str) -> Row:
        """Return the object's own row; HANDLE_INVALID if there is none."""
        try:
            return self.tables[cls][ref]
        except KeyError:
            raise Failure("HANDLE_INVALID", cls, ref) from None

    def record(self, cls: str, ref: str) -> Row:
        """Return a copy of the row with what is computed on reading."""
        with self.lock:
            row = self.row(cls, ref)
            copy = {
                key: value.copy() if isinstance(value, dict | list) else value for key, value in row.items()
            }
            if cls in self.computed:
                copy |= self.computed[cls](ref, row)
            return copy

    def set(self, cls: str, ref: str, **values: Any) -> None:
        """Change fields; nothing happens where they have these values already."""
        with self.lock:
            row = self.row(cls, ref)
            for field, value in values.items():
                if row[field] != value:
                    self._link(cls, ref, field, row[field], present=False)
                    row[field] = value
                    self._link(cls, ref, field, value, present=True)
                    self._touch(ref)

    def touch(self, cls: str, ref: str) -> None:
        """Make an event of an object whose computed fields changed."""
        with self.lock:
            if ref in self.tables[cls]:
                self._touch(ref)

    def remove(self, cls: str, ref: str) -> None:
        """Forget an object."""
        with self.lock:
            row = self.row(cls, ref)
            for field, value in row.items():
                self._link(cls, ref, field, value, present=False)
            del self.tables[cls][ref], self.touched[ref], self.made[ref]
            self.by_uuid.pop((cls, row["uuid"]), None)
            self.generation += 1
            self.gone.append((self.generation, cls, ref))
            for (owner, field), (target, _list) in BACK.items():
                if target == cls and field == "snapshot_of":
                    for other in [r for r, x in self.tables[owner].items() if x[field] == ref]:
                        self.set(owner, other, **{field: NULL})
            self.changed.notify_all()

    def find(self, cls: str, uuid: str) -> str:
        """Return the reference of a uuid; UUID_INVALID if there is none."""
        with self.lock:
            try:
                return self.by_uuid[cls, uuid]
            except KeyError:
                raise Failure("UUID_INVALID", cls, uuid) from None

    def all(self, cls: str, **values: Any) -> Iterator[tuple[str, Row]]:
        """Yield the objects whose fields have these values."""
        with self.lock:
            rows = list(self.tables[cls].items())
        for ref, row in rows:
            if all(row[key] == value for key, value in values.items()):
                yield ref, row

    def one(self, cls: str, **values: Any) -> tuple[str, Row]:
        """Return the first such object."""
        return next(self.all(cls, **values))

    def _link(self, cls: str, ref: str, field: str, value: Any, *, present: bool) -> None:
        back = BACK.get((cls, field))
        if back is None or not isinstance(value, str):
            return
        owner = self.tables[back[0]].get(value)
        if owner is None:
            return
        listed = [one for one in owner[back[1]] if one != ref]
        owner[back[1]] = [*listed, ref] if present else listed
        self._touch(value)

    def _touch(self, ref: str) -> None:
        self.generation += 1
        self.touched[ref] = self.generation
        self.changed.notify_all()


def now() -> str:
    """Return this moment as the API writes it."""
    return time.strftime("%Y%m%dT%H:%M:%SZ", time.gmtime())
