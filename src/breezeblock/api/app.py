"""The ASGI application: from bytes on the wire to a handler and back.

The event loop only reads bodies and finds the endpoint; everything that may wait (the token check, the
handler, the encoding) happens in one hop to a worker thread.
"""

import re
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from urllib.parse import parse_qsl, quote, unquote

import anyio.to_thread
import structlog
from anyio import CapacityLimiter
from prometheus_client import Histogram
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from breezeblock.api import versions
from breezeblock.api.endpoints import ROUTES
from breezeblock.api.errors import HttpError, fault
from breezeblock.api.http import ApiSettings, Reply, Request, reply
from breezeblock.api.identity import Call, IdentityApi
from breezeblock.api.routing import Endpoint
from breezeblock.errors import ForbiddenError
from breezeblock.identity.authenticators import Authenticator, noauth_token
from breezeblock.service.core import Service

log = structlog.get_logger(__name__)

REQUESTS = Histogram(
    "breezeblock_api_request_seconds",
    "Seconds from the first byte of a request to its answer, by method and status.",
    ("method", "status"),
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30),
)

MAX_QUERY_BYTES = 16_384
MAX_QUERY_FIELDS = 100

_PROJECT = re.compile(r"[0-9a-f-]{1,64}", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}", re.ASCII)
_IDENTITY_AT_ROOT = frozenset({"auth", "projects", "users", "domains"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE"})
_READING = frozenset({"GET", "HEAD"})
_JSON_TYPES = ("application/json", "text/json", "application/openstack-volume-")


def create_app(
    service: Service,
    identity: Authenticator,
    *,
    settings: ApiSettings | None = None,
    extra_routes: Sequence[Route] = (),
) -> ASGIApp:
    """Return the application; `extra_routes` (health, metrics) are Starlette's, all else is ours.

    A framework's routing and error handling would cost every request as much again as ours does.
    """
    gateway = _Gateway(service, identity, settings or ApiSettings())
    extras = Starlette(routes=list(extra_routes))
    theirs = frozenset(route.path for route in extra_routes)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        ours = scope["type"] == "http" and scope["path"] not in theirs
        await (gateway if ours else extras)(scope, receive, send)

    return app


class _Gateway:
    """Takes a request apart, has it answered in a thread, puts the answer together."""

    def __init__(self, service: Service, authenticator: Authenticator, settings: ApiSettings) -> None:
        self._service = service
        self._authenticator = authenticator
        self._settings = settings
        self._identity = IdentityApi(authenticator.tokens, settings) if authenticator.tokens else None
        self._quick = CapacityLimiter(settings.threads)
        self._waiting = CapacityLimiter(settings.waiting_threads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        started = time.perf_counter()
        request_id = f"req-{uuid.uuid4()}"
        headers = _headers(scope)
        version_headers: dict[str, str] = {}
        try:
            body = await self._body(headers, receive)
            answer, limiter = self._plan(scope, headers, body, request_id, version_headers)
            found = await anyio.to_thread.run_sync(partial(_guarded, answer, request_id), limiter=limiter)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer
            found = fault(error)
        if found.status == 401 and self._authenticator.challenge:
            found.headers["WWW-Authenticate"] = self._authenticator.challenge
        found.headers.update(
            {"x-compute-request-id": request_id, "x-openstack-request-id": request_id, **version_headers}
        )
        seconds = time.perf_counter() - started
        REQUESTS.labels(scope["method"] if scope["method"] in _METHODS else "other", found.status).observe(
            seconds
        )
        log.debug(
            "api.request",
            method=scope["method"],
            path=scope["path"],
            status=found.status,
            request_id=request_id,
        )
        await _send(scope, send, found)

    async def _body(self, headers: dict[str, str], receive: Receive) -> bytes:
        limit = self._settings.max_body_bytes
        length = headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length) > limit:
            raise HttpError(413, "Request is too large.", {"Connection": "close"})
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                raise HttpError(413, "Request is too large.", {"Connection": "close"})
            chunks.append(chunk)
            if not message.get("more_body", False):
                break
        return b"".join(chunks)

    def _plan(
        self,
        scope: Scope,
        headers: dict[str, str],
        body: bytes,
        request_id: str,
        version_headers: dict[str, str],
    ) -> tuple[Callable[[], Reply], CapacityLimiter]:
        """Return what will answer the request, and whose turn it must wait for."""
        method = scope["method"]
        base = self._base(scope, headers)
        segments = _segments(scope)
        if not segments or segments == ("v3",):
            if method not in _READING:
                raise HttpError(405, f"{method} is not allowed here.", {"Allow": "GET, HEAD"})
            status = 200 if segments else 300
            return partial(reply, versions.document(base), status), self._quick
        query = _query(scope)
        if self._identity is not None:
            inner = _identity_path(segments)
            if inner is not None:
                call = Call(method, inner, base, headers, query, body)
                return partial(self._identity.answer, call), self._quick
        if segments[0] != "v3":
            raise HttpError(404, "The resource could not be found.")
        rest = segments[1:]
        project_id = None
        if not ROUTES.knows(rest[0]) and (_PROJECT.fullmatch(rest[0]) or self._claims(headers, rest[0])):
            project_id, rest = rest[0], rest[1:]
        # What is wrong with version or path is told only to those who may ask at all.
        endpoint: Endpoint | HttpError
        version = versions.MINIMUM
        params: dict[str, str] = {}
        try:
            version = versions.negotiate(headers)
            endpoint, params = ROUTES.find(method, rest, version, slash=scope["path"].endswith("/"))
        except HttpError as error:
            endpoint = error
        version_headers["OpenStack-API-Version"] = f"volume {versions.text(version)}"
        version_headers["Vary"] = "OpenStack-API-Version"

        def answer() -> Reply:
            caller = self._authenticator.authenticate(headers, project_id, request_id)
            if isinstance(endpoint, HttpError):
                raise endpoint
            if method not in _READING and not caller.roles & {"admin", "member"}:
                raise ForbiddenError("Policy doesn't allow a reader to change anything.")
            _check_media_type(headers, body)
            return endpoint.handler(
                Request(
                    service=self._service,
                    settings=self._settings,
                    caller=caller,
                    version=version,
                    method=method,
                    base=base,
                    path="/" + "/".join(segments),
                    headers=headers,
                    query=query,
                    body=body,
                    params=params,
                )
            )

        waits = isinstance(endpoint, Endpoint) and endpoint.waits
        return answer, self._waiting if waits else self._quick

    def _claims(self, headers: dict[str, str], segment: str) -> bool:
        return self._authenticator.any_project and noauth_token(headers)[1] == segment

    def _base(self, scope: Scope, headers: dict[str, str]) -> str:
        if self._settings.public_url:
            return self._settings.public_url.rstrip("/")
        host = headers.get("host", "")
        if not _HOST.fullmatch(host):  # it goes into links: nothing but a host may stand there
            name, port = scope.get("server") or ("localhost", 8776)
            host = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
        return f"{scope.get('scheme', 'http')}://{host}"


def _guarded(answer: Callable[[], Reply], request_id: str) -> Reply:
    with structlog.contextvars.bound_contextvars(request_id=request_id):
        try:
            return answer()
        except Exception as error:  # noqa: BLE001 - the one place where errors become answers
            return fault(error)


def _headers(scope: Scope) -> dict[str, str]:
    found: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        found[name] = f"{found[name]},{value}" if name in found else value
    return found


def _segments(scope: Scope) -> tuple[str, ...]:
    """Split the path as it was sent, so that an encoded slash stays inside its segment."""
    raw = scope.get("raw_path") or quote(scope["path"]).encode()
    try:
        parts = [
            unquote(part, errors="strict") for part in raw.decode("ascii").split("?")[0].split("/") if part
        ]
    except UnicodeDecodeError as error:
        raise HttpError(404, "The resource could not be found.") from error
    if any(not part.isprintable() for part in parts):
        raise HttpError(404, "The resource could not be found.")
    return tuple(parts)


def _query(scope: Scope) -> dict[str, str]:
    raw = scope["query_string"]
    if len(raw) > MAX_QUERY_BYTES:
        raise HttpError(400, f"The query string is longer than {MAX_QUERY_BYTES} bytes.")
    try:
        pairs = parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS
        )
    except (UnicodeDecodeError, ValueError) as error:
        raise HttpError(400, "The query string is not well formed.") from error
    if any("\0" in key or "\0" in value for key, value in pairs):
        raise HttpError(400, "The query string must not contain the character NUL.")
    return dict(pairs)


def _identity_path(segments: tuple[str, ...]) -> tuple[str, ...] | None:
    if segments[0] == "identity":
        return segments[1:]
    # Clients that were given the bare address as auth_url look for the Identity API beside ours.
    if segments[0] == "v3" and segments[1] in _IDENTITY_AT_ROOT:
        return segments
    return None


def _check_media_type(headers: dict[str, str], body: bytes) -> None:
    kind = headers.get("content-type", "").lower()
    if body and kind and not kind.startswith(_JSON_TYPES):
        raise HttpError(415, "Unsupported Content-Type; send application/json.")


async def _send(scope: Scope, send: Send, found: Reply) -> None:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in found.headers.items()]
    headers.append((b"content-length", str(len(found.body)).encode()))
    if found.body:
        headers.append((b"content-type", b"application/json"))
    await send({"type": "http.response.start", "status": found.status, "headers": headers})
    body = b"" if scope["method"] == "HEAD" else found.body
    await send({"type": "http.response.body", "body": body})
