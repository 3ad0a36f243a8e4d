"""Whole disks over HTTP: `/export_raw_vdi` and `/import_raw_vdi`.

The status line comes before the work, so only the task tells whether it was done. A host that does not
have the SR plugged sends the client to one that has.
"""

import http.client
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal
from urllib.parse import urlencode, urlsplit

from breezeblock.errors import (
    BreezeblockError,
    CancelledOperationError,
    InvalidInputError,
    UnavailableError,
)
from breezeblock.xenapi import tasks
from breezeblock.xenapi.session import Session
from breezeblock.xenapi.wire import Wire

Format = Literal["raw", "vhd", "qcow2"]
CHUNK_BYTES = 1 << 20
MAX_REDIRECTS = 3
VERDICT_S = 30.0
"""How long a task may take to fail once its connection broke."""


def export(session: Session, vdi: str, image_format: Format, *, base: str = "") -> Iterator[bytes]:
    """Yield a disk's bytes in a format; complete only if the iterator ends without an error.

    `base` names an older disk of the same chain: then only what differs comes (VHD and QCOW2). Raises
    XenApiError with what the task failed of, UnavailableError if the connection broke.
    """
    query = {"vdi": vdi, "format": image_format} | ({"base": base} if base else {})
    with _task(session, "Breezeblock export") as task:
        reply = _open(session, "GET", "/export_raw_vdi", query | {"task_id": task})
        broken: Exception | None = None
        length = reply.length
        done = 0
        try:
            while data := reply.read(CHUNK_BYTES):
                done += len(data)
                yield data
        except (OSError, http.client.HTTPException) as error:
            broken = error
        finally:
            reply.close()
        limit = VERDICT_S if broken else math.inf
        tasks.outcome(tasks.wait(session, task, limit_s=limit), "export")
        if broken or (length is not None and done < length):
            raise UnavailableError(f"An export ended after {done} of {length} bytes.") from broken


def put(
    session: Session,
    vdi: str,
    image_format: Format,
    data: Iterable[bytes],
    length: int,
    cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """Write a whole image of `length` bytes onto a disk that is large enough. Raises as `export`."""
    query = {"vdi": vdi, "format": image_format}
    wire = _where(session, query)
    with _task(session, "Breezeblock import") as task:
        connection = wire.connect()
        try:
            path = _path(session, "/import_raw_vdi", query | {"task_id": task})
            connection.putrequest("PUT", path)
            connection.putheader("Content-Length", str(length))
            connection.endheaders()
            broken = _send(connection, data, length, cancelled)
            if broken is None:
                _finish(connection)
        finally:
            connection.close()
        if isinstance(broken, BreezeblockError):
            raise broken
        limit = VERDICT_S if broken else math.inf
        tasks.outcome(tasks.wait(session, task, limit_s=limit), "import")
        if broken:
            raise UnavailableError(f"An import ended early: {broken}.") from broken


def zeros(length: int) -> Iterator[bytes]:
    """Yield that many zeros."""
    for offset in range(0, length, CHUNK_BYTES):
        yield bytes(min(CHUNK_BYTES, length - offset))


def _send(
    connection: http.client.HTTPConnection, data: Iterable[bytes], length: int, cancelled: Callable[[], bool]
) -> Exception | None:
    sent = 0
    try:
        for part in data:
            sent += len(part)
            if sent > length:
                break
            if cancelled():
                return CancelledOperationError("Stopped an import.")
            connection.send(part)
    except OSError as error:
        return error  # the host hung up: the task says why
    return None if sent == length else InvalidInputError(f"{sent} bytes came where {length} were announced.")


def _finish(connection: http.client.HTTPConnection) -> None:
    with suppress(OSError, http.client.HTTPException):  # the task decides
        connection.getresponse().read(CHUNK_BYTES)


def _where(session: Session, query: dict[str, str]) -> Wire:
    """Return the host that takes an import: an empty PUT without a task asks for it."""
    wire = session.master()
    connection = wire.connect()
    try:
        connection.request("PUT", _path(session, "/import_raw_vdi", query), b"")
        reply = connection.getresponse()
        if reply.status == http.client.FOUND:
            return session.other(urlsplit(reply.headers["Location"]).hostname or "")
        if reply.status != http.client.OK:
            raise UnavailableError(f"{wire.url} answered an import with HTTP {reply.status}.")
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError(f"{wire.url} did not take an import: {error}.") from error
    finally:
        connection.close()
    return wire


def _open(session: Session, verb: str, path: str, query: dict[str, str]) -> http.client.HTTPResponse:
    wire = session.master()
    for _redirect in range(MAX_REDIRECTS):
        connection = wire.connect()
        try:
            connection.request(verb, _path(session, path, query))
            reply = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise UnavailableError(f"{wire.url} did not answer {path}: {error}.") from error
        if reply.status == http.client.OK:
            return reply
        connection.close()
        if reply.status != http.client.FOUND:
            if reply.status not in {http.client.UNAUTHORIZED, http.client.FORBIDDEN}:  # those know no task
                tasks.outcome(tasks.wait(session, query["task_id"], limit_s=VERDICT_S), "export")
            raise UnavailableError(f"{wire.url} answered {path} with HTTP {reply.status}.")
        wire = session.other(urlsplit(reply.headers["Location"]).hostname or "")
    raise UnavailableError(f"{path} was redirected more than {MAX_REDIRECTS} times.")


def _path(session: Session, path: str, query: dict[str, str]) -> str:
    return f"{path}?{urlencode(query | {'session_id': session.reference()})}"


@contextmanager
def _task(session: Session, label: str) -> Iterator[str]:
    ref = str(session.call("task.create", label, ""))
    try:
        yield ref
    finally:
        with suppress(BreezeblockError):
            session.call("task.destroy", ref)
