"""HTTP for images: no proxies, no cookies, no credentials, and only to addresses that are allowed."""

import http.client
import ipaddress
import socket
from functools import partial
from typing import Any
from urllib import error as urllib_error
from urllib import request

from breezeblock.errors import InvalidInputError, UnavailableError
from breezeblock.images.addresses import Policy, parsed, shown

Answer = http.client.HTTPResponse


def opened(
    method: str, url: str, policy: Policy, headers: dict[str, str] | None = None, data: Any = None
) -> Answer:
    """Return the answer to a request. Raises InvalidInputError for a refusal, UnavailableError for none."""
    wanted = request.Request(  # noqa: S310 - the scheme was checked
        url, data=data, method=method, headers={"User-Agent": "breezeblock", **(headers or {})}
    )
    errors = (request.HTTPErrorProcessor(), request.HTTPDefaultErrorHandler())
    opener = request.OpenerDirector()  # no default handlers: those would open files, FTP and proxies
    for handler in (_Plain(policy), _Tls(policy), _Redirects(policy), *errors):
        opener.add_handler(handler)
    try:
        answer: Answer | None = opener.open(wanted, timeout=policy.timeout_s)
    except urllib_error.HTTPError as error:
        kind = UnavailableError if error.code >= 500 or error.code == 429 else InvalidInputError
        raise kind(f"{shown(wanted.full_url)} answered {error.code}.") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UnavailableError(f"{shown(wanted.full_url)} did not answer: {reason}.") from error
    if answer is None or answer.status not in {200, 201, 204, 206}:
        raise InvalidInputError(f"{shown(wanted.full_url)} did not answer with an image.")
    return answer


def code(error: BaseException) -> int:
    """Return the status that the server refused with, 0 if it did not."""
    return int(getattr(error.__cause__, "code", 0))


def _connect(
    policy: Policy, address: tuple[str, int], timeout: float | None = None, *_more: object, **_named: object
) -> socket.socket:
    """Connect to the first address that is allowed: what was checked is what is connected to."""
    host, port = address
    refused = None
    for family, kind, protocol, _name, where in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        if not policy.private_addresses and not ipaddress.ip_address(where[0]).is_global:
            refused = where[0]
            continue
        one = socket.socket(family, kind, protocol)
        one.settimeout(timeout)
        try:
            one.connect(where)
        except OSError:
            one.close()
            continue
        return one
    if refused:
        raise InvalidInputError(
            f"{host} is at {refused}, which is no public address.",
            remedy="[images] private_addresses allows it.",
        )
    raise OSError(f"no address of {host} answers")


class _PlainConnection(http.client.HTTPConnection):
    def __init__(self, host: str, *, policy: Policy, **more: Any) -> None:
        super().__init__(host, **more)
        self._create_connection = partial(_connect, policy)


class _TlsConnection(http.client.HTTPSConnection):
    def __init__(self, host: str, *, policy: Policy, **more: Any) -> None:
        super().__init__(host, **more)
        self._create_connection = partial(_connect, policy)


class _Plain(request.HTTPHandler):
    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self._policy = policy

    def http_open(self, req: request.Request) -> http.client.HTTPResponse:
        connection: Any = partial(_PlainConnection, policy=self._policy)
        return self.do_open(connection, req)


class _Tls(request.HTTPSHandler):
    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self._policy = policy

    def https_open(self, req: request.Request) -> http.client.HTTPResponse:
        connection: Any = partial(_TlsConnection, policy=self._policy)
        return self.do_open(connection, req)


class _Redirects(request.HTTPRedirectHandler):
    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def redirect_request(self, req: request.Request, *more: Any) -> request.Request | None:
        _file, _code, _message, _headers, url = more
        parts = parsed(url, self._policy)
        # Counted as urllib counts: it keeps the addresses that it was sent on to in the request.
        if sum(getattr(req, "redirect_dict", {}).values()) >= self._policy.max_redirects:
            raise InvalidInputError(f"{shown(url)}: more than {self._policy.max_redirects} redirections.")
        if parts.scheme == "file" or (req.type == "https" and parts.scheme != "https"):
            raise InvalidInputError("The server sent the request on to a place that is not allowed.")
        return super().redirect_request(req, *more)
