"""Calls to one host: persistent HTTPS, JSON-RPC 2.0, and XML-RPC where a host does not know that.

A connection a thread. What was not sent may be sent to another host (`NotSentError`); when an answer was
lost nobody knows whether the call was worked off (`LostError`), and only calls that change nothing are
repeated here.
"""

import hashlib
import http.client
import json
import select
import socket
import ssl
import threading
import xmlrpc.client
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from breezeblock.errors import ConfigError, UnavailableError
from breezeblock.xenapi.failures import failure

MAX_REPLY_BYTES = 512 << 20
"""A full event batch of a large pool has some 3 KB an object."""


class NotSentError(UnavailableError):
    """The host could not be reached."""


class LostError(UnavailableError):
    """The connection broke before the answer was there."""


@dataclass(frozen=True, slots=True)
class Trust:
    """How a host proves who it is."""

    ca_file: Path | None = None
    """Certificates to trust; None with no fingerprint: the system's."""
    sha256: str = ""
    """Fingerprints of pinned certificates, hexadecimal, with commas."""

    def context(self) -> ssl.SSLContext:
        """Return the TLS settings. Raises ConfigError for a file that cannot be used."""
        if self.sha256:
            pinned = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            pinned.check_hostname = False  # the fingerprint says more than any name
            pinned.verify_mode = ssl.CERT_NONE
            return pinned
        try:
            return ssl.create_default_context(cafile=str(self.ca_file) if self.ca_file else None)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{self.ca_file} cannot be used as certificates: {error}") from error

    def check(self, sock: ssl.SSLSocket) -> None:
        """Refuse a certificate that is not the pinned one."""
        if not self.sha256:
            return
        seen = hashlib.sha256(sock.getpeercert(binary_form=True) or b"").hexdigest()
        wanted = {text.strip().replace(":", "").lower() for text in self.sha256.split(",")}
        if seen not in wanted:
            raise NotSentError(
                f"The host's certificate has the fingerprint {seen}, which is not pinned.",
                remedy="Compare it on the host's console, then put it into `certificate_sha256`.",
            )


class Wire:
    """One host, by URL."""

    def __init__(self, url: str, trust: Trust, timeout_s: float) -> None:
        self.url = url
        self._trust = trust
        self._timeout_s = timeout_s
        self._local = threading.local()
        self._context = trust.context() if url.startswith("https:") else None
        self._json = True

    def call(self, method: str, params: list[Any]) -> Any:
        """Call and return the value. Raises XenApiError, NotSentError, LostError."""
        if self._json:
            status, body = self._post("/jsonrpc", _json_request(method, params), "application/json")
            if status == http.client.OK:
                return _json_answer(body, method)
            if status not in {http.client.NOT_FOUND, http.client.METHOD_NOT_ALLOWED}:
                raise UnavailableError(f"{self.url} answered {method} with HTTP {status}.")
            self._json = False
        status, body = self._post("/", _xml_request(method, params), "text/xml")
        if status != http.client.OK:
            raise UnavailableError(f"{self.url} answered {method} with HTTP {status}.")
        return _xml_answer(body, method)

    def connect(self, timeout_s: float | None = None) -> http.client.HTTPConnection:
        """Return a new connection. Raises NotSentError."""
        parts = urlsplit(self.url)
        timeout = timeout_s or self._timeout_s
        host, port = parts.hostname or "", parts.port
        made: http.client.HTTPConnection
        if self._context:
            made = http.client.HTTPSConnection(host, port, timeout=timeout, context=self._context)
        else:
            made = http.client.HTTPConnection(host, port, timeout=timeout)
        try:
            made.connect()
            made.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if isinstance(made.sock, ssl.SSLSocket):
                self._trust.check(made.sock)
        except ssl.SSLCertVerificationError as error:
            made.close()
            raise NotSentError(
                f"{self.url} has a certificate that is not trusted: {error.verify_message}.",
                remedy="Set `ca_file` or `certificate_sha256`.",
            ) from error
        except OSError as error:
            made.close()
            raise NotSentError(f"{self.url} cannot be reached: {error}.") from error
        except NotSentError:
            made.close()
            raise
        return made

    def close(self) -> None:
        """Close this thread's connection."""
        held = getattr(self._local, "connection", None)
        if held:
            held.close()
            self._local.connection = None

    def _post(self, path: str, body: bytes, kind: str) -> tuple[int, bytes]:
        connection = self._connection()
        try:
            connection.request("POST", path, body, {"Content-Type": kind, "User-Agent": "breezeblock"})
            reply = connection.getresponse()
            data = reply.read(MAX_REPLY_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise LostError(f"{self.url} did not answer: {type(error).__name__} {error}.") from error
        if len(data) > MAX_REPLY_BYTES:
            self.close()
            raise UnavailableError(f"{self.url} answered with more than {MAX_REPLY_BYTES} bytes.")
        return reply.status, data

    def _connection(self) -> http.client.HTTPConnection:
        held: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        # An idle connection that has something to read has ended: looking costs less than a lost answer.
        if held is None or held.sock is None or _has_something(held.sock):
            self.close()
            held = self._local.connection = self.connect()
        return held


def _has_something(connected: socket.socket) -> bool:
    poll = select.poll()  # not select(): a service may have more than 1,024 descriptors
    poll.register(connected, select.POLLIN)
    return bool(poll.poll(0))


def _json_request(method: str, params: list[Any]) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()


def _json_answer(body: bytes, method: str) -> Any:
    try:
        reply = json.loads(body)
    except ValueError as error:
        raise LostError(f"The answer to {method} is no JSON.") from error
    error_part = reply.get("error")
    if error_part:
        params = tuple(str(param) for param in error_part.get("data") or ())
        raise failure(str(error_part.get("message")), params, method)
    return reply.get("result")


def _xml_request(method: str, params: list[Any]) -> bytes:
    return xmlrpc.client.dumps(tuple(_for_xml(param) for param in params), method).encode()


def _for_xml(value: Any) -> Any:
    """Return a value as XenAPI's XML takes it: integers are strings."""
    if isinstance(value, dict):
        return {key: _for_xml(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_for_xml(item) for item in value]
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _xml_answer(body: bytes, method: str) -> Any:
    try:
        answer, _name = xmlrpc.client.loads(body)
        reply: Any = answer[0]
        if isinstance(reply, dict) and reply.get("Status") == "Failure":
            code, *params = (str(part) for part in reply["ErrorDescription"])
            raise failure(code, tuple(params), method)
        return _from_xml(reply["Value"])
    except (xmlrpc.client.Error, ValueError, KeyError, TypeError, SyntaxError) as error:
        raise LostError(f"The answer to {method} is no XML-RPC.") from error


def _from_xml(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _from_xml(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_from_xml(item) for item in value]
    return value.value if isinstance(value, xmlrpc.client.DateTime) else value
