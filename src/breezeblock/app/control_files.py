"""The verbs of `breezeblock rest` as a tree of files, with the names and formats of /sys/class/srb.

A write is a verb with its words, a line at a time; reading a verb tells its words. Failures are the errno
that the driver of old gave, and a line in the log that says why. Nothing here knows of FUSE.
"""

import errno
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import Any, Literal, NamedTuple
from uuid import UUID

import structlog

from breezeblock.app.rest import Rest
from breezeblock.connect.served import ServedConnector
from breezeblock.errors import (
    BreezeblockError,
    ConflictError,
    DuplicateError,
    InvalidInputError,
    NoSpaceError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)
from breezeblock.objects import serving

MAX_LINE_BYTES = 4095
"""Less than the 4 KiB by which the kernel may cut a longer write: no part is ever taken for the whole."""
MAX_WORD_BYTES = 255
Kind = Literal["directory", "verb", "report"]
_Numbers = Mapping[type[Exception], int]
log = structlog.get_logger(__name__)
_SIZE = re.compile(r"(?P<number>[0-9]{1,19})(?P<unit>[kMGT]?)", re.ASCII)
_UNITS = {"": 1, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,30}", re.ASCII)


class ControlFiles:
    """One pool's tree. Paths are relative, parts joined by `/`; the root is empty. Failures are OSErrors."""

    def __init__(self, rest: Rest, connector: ServedConnector) -> None:
        self.rest, self.connector = rest, connector
        self._one_verb = threading.Lock()

    def kind(self, path: str) -> Kind:
        """Return what a path is. Raises FileNotFoundError."""
        first, slash, name = path.partition("/")
        if path in _VERBS:
            return "verb"
        if path in _REPORTS or (name in _DEVICE_REPORTS and first in self.devices()):
            return "report"
        if not path or (not slash and first in self.devices()):
            return "directory"
        raise _os_error(errno.ENOENT)

    def names(self, path: str) -> list[str]:
        """Return what a directory contains."""
        return list(_DEVICE_REPORTS) if path else [*_VERBS, *_REPORTS, *self.devices()]

    def read(self, path: str) -> bytes:
        """Return a file's content."""
        first, _, name = path.partition("/")
        with _errno_of(path, {}):
            if path in _VERBS:
                return f"Usage: echo '{_VERBS[path].usage}' > {path}\n".encode()
            if path in _REPORTS:
                return _REPORTS[path](self.rest).encode()
            return f"{_DEVICE_REPORTS[name](self, self.device(first))}\n".encode()

    def write(self, path: str, line: bytes) -> None:
        """Do a verb. One is done at a time, for names are looked for before they are taken."""
        verb = _VERBS[path]
        with _errno_of(path, verb.errors):
            words = _words(path, line)
            with self._one_verb:
                verb.do(self, *words)

    def devices(self) -> dict[str, dict[str, Any]]:
        """Return the connection info of what is attached of the pool, by the devices' names."""
        mine = (self.rest.backend, self.rest.pool)
        records = [one for one in self.connector.records() if (one.get("backend"), one.get("pool")) == mine]
        return {_device_name(data): data for data in sorted(records, key=lambda one: "device" in one)}

    def device(self, name: str) -> dict[str, Any]:
        """Return a device's connection info. Raises NotFoundError."""
        try:
            return self.devices()[name]
        except KeyError:
            raise NotFoundError(f"There is no device {name}.") from None


def _create(files: ControlFiles, name: str, size: str) -> None:
    files.rest.create(name, _bytes(size))


def _extend(files: ControlFiles, name: str, size: str) -> None:
    files.rest.extend(name, _bytes(size))
    files.connector.grown(files.rest.data(name))


def _destroy(files: ControlFiles, name: str) -> None:
    files.rest.destroy(name)


def _attach(files: ControlFiles, name: str, device: str) -> None:
    if not _DEVICE.fullmatch(device) or device in _VERBS or device in _REPORTS:
        raise InvalidInputError(f"{device!r} is no device's name: at most 31 letters, digits, '.', '_', '-'.")
    data = files.rest.data(name)
    if files.devices().get(device, data)["export"] != data["export"]:
        raise DuplicateError(f"There is a device {device} of another volume.")
    if files.connector.find(data) is not None:
        raise DuplicateError(f"{name} is attached to this host.")
    files.connector.attach(data | {"device": device})


def _detach(files: ControlFiles, device: str) -> None:
    files.connector.detach(files.device(device))


def _add_urls(files: ControlFiles, urls: str) -> None:
    failures = []
    for url in _urls(urls):
        try:
            files.rest.add_url(url)
        except BreezeblockError as error:
            failures.append(str(error))  # not the URL: there may be a password in it
    if failures:
        raise InvalidInputError(" ".join(failures))


def _remove_urls(files: ControlFiles, urls: str) -> None:
    for url in _urls(urls):
        files.rest.remove_url(url)


class _Verb(NamedTuple):
    usage: str
    do: Callable[..., None]
    errors: _Numbers = MappingProxyType({})
    """Where they differ from the others'."""


_VERBS: dict[str, _Verb] = {
    "add_urls": _Verb("URL[,URL...]", _add_urls),
    "remove_urls": _Verb("URL[,URL...]", _remove_urls),
    "create": _Verb("Name Size", _create),
    "extend": _Verb("Name Size", _extend, {NotFoundError: errno.ENODEV}),
    "destroy": _Verb("Name", _destroy),
    "attach": _Verb("Name Device", _attach),
    "detach": _Verb("Device", _detach, {NotFoundError: errno.EINVAL}),
}
_REPORTS: dict[str, Callable[[Rest], str]] = {
    "urls": lambda rest: ",".join(rest.urls()) + "\n",
    "volumes": lambda rest: "".join(f"{one.name}\n" for one in rest.volumes()),
}
_ERRORS: _Numbers = {
    DuplicateError: errno.EEXIST,
    NotFoundError: errno.ENOENT,
    ConflictError: errno.EBUSY,
    InvalidInputError: errno.EINVAL,
    UnsupportedError: errno.EINVAL,
    NoSpaceError: errno.ENOSPC,
}


def _name(data: Mapping[str, Any]) -> str:
    """Return a volume's name as `volumes` has it; what the service attached is recorded by its id."""
    name = str(data["volume_id"])
    with suppress(ValueError):
        return f"volume-{UUID(name)}"
    return name


def _device_name(data: Mapping[str, Any]) -> str:
    """Return the name that a device was given here, or its volume's if it was attached without one."""
    name = str(data.get("device") or _name(data))
    return str(data["export"]) if "/" in name or name in _VERBS or name in _REPORTS else name


def _view(files: ControlFiles, data: Mapping[str, Any]) -> serving.View:
    view = files.rest.view(data["export"])
    if view is None:
        raise UnavailableError(f"{_name(data)} is not served.", remedy="`breezeblock nbd keep` does it.")
    return view


def _path_of(files: ControlFiles, data: Mapping[str, Any]) -> str:
    found = files.connector.find(data)
    if found is None:
        raise UnavailableError(f"{_name(data)} has no device.", remedy="`breezeblock nbd keep` makes it.")
    return found.device


_DEVICE_REPORTS: dict[str, Callable[[ControlFiles, Mapping[str, Any]], object]] = {
    "srb_urls": lambda files, data: ",".join(one.url for one in _view(files, data).mirrors.endpoints),
    "srb_name": lambda _, data: _name(data),
    "srb_size": lambda files, data: _view(files, data).length,
    "srb_device": _path_of,
}


def _words(path: str, line: bytes) -> list[str]:
    """Split what was written. Raises InvalidInputError for what is not the verb's words and a newline."""
    usage = _VERBS[path].usage
    try:
        words = line.decode("ascii").removesuffix("\n").split(" ") if len(line) <= MAX_LINE_BYTES else []
    except UnicodeDecodeError:
        words = []
    fine = len(words) == len(usage.split(" ")) and all(word.isprintable() and word for word in words)
    if not fine:
        raise InvalidInputError(f"{path} takes {usage}, at most {MAX_LINE_BYTES} bytes of ASCII.")
    if not path.endswith("_urls") and sum(map(len, words)) > MAX_WORD_BYTES:
        raise InvalidInputError(f"{path} takes at most {MAX_WORD_BYTES} bytes.")
    return words


def _urls(text: str) -> list[str]:
    urls = text.split(",")
    if not all(0 < len(url) <= MAX_WORD_BYTES for url in urls):
        raise InvalidInputError(f"An endpoint has 1 to {MAX_WORD_BYTES} bytes.")
    return urls


def _bytes(size: str) -> int:
    match = _SIZE.fullmatch(size)
    if match is None:
        raise InvalidInputError(f"{size!r} is no size: bytes, or with k, M, G, T: 1024 times each.")
    return int(match["number"]) * _UNITS[match["unit"]]


@contextmanager
def _errno_of(path: str, special: _Numbers) -> Iterator[None]:
    """Log why something failed, and raise it as an OSError with the number that is its class's."""
    try:
        yield
    except (BreezeblockError, OSError) as error:
        log.warning("rest.control_refused", file=path, why=str(error))
        known = {**_ERRORS, **special}
        raise _os_error(
            next((known[one] for one in type(error).__mro__ if one in known), errno.EIO)
        ) from error


def _os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
