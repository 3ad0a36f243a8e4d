"""A small client of the Block Storage API on the standard library, which starts in milliseconds.

It says what the service says: a refusal becomes the error class of the same meaning with the
service's own text. It never retries a request that changes something.
"""

import base64
import http.client
import os
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from breezeblock.cli.clouds import Cloud, find
from breezeblock.errors import (
    BreezeblockError,
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    OverQuotaError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)

MICROVERSION = "3.71"
TIMEOUT_S = 120.0
PAGE = 1000
ANSWER_LIMIT = 64 * 1024**2
"""Bytes of one answer; a page of a thousand volumes has about two million."""

_BY_STATUS: Mapping[int, type[BreezeblockError]] = {
    400: InvalidInputError,
    401: UnauthenticatedError,
    403: ForbiddenError,
    404: NotFoundError,
    406: UnsupportedError,
    409: ConflictError,
    413: OverQuotaError,
    501: UnsupportedError,
    502: UnavailableError,
    503: UnavailableError,
    504: UnavailableError,
}
_SERVICE_TYPES = ("block-storage", "block-store", "volumev3", "volume")


def connect(name: str | None) -> "Client":
    """Return a client for the cloud that the option, the environment or clouds.yaml names."""
    return Client(find(name, os.environ, Path.cwd()))


class Client:
    """Requests to one cloud. Signs in when the first request needs it."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self._headers: dict[str, str] | None = None
        self._endpoint = cloud.endpoint.rstrip("/")
        self._opener: urllib.request.OpenerDirector | None = None

    def get(self, path: str, **query: object) -> Any:
        """Return the decoded answer of a GET; query values that are None are left out."""
        given = {key: value for key, value in query.items() if value is not None}
        return self._call("GET", path + (f"?{urllib.parse.urlencode(given)}" if given else ""))

    def post(self, path: str, body: Any) -> Any:
        """POST a JSON body and return the decoded answer, None when it is empty."""
        return self._call("POST", path, body)

    def put(self, path: str, body: Any) -> Any:
        """PUT a JSON body and return the decoded answer."""
        return self._call("PUT", path, body)

    def delete(self, path: str, **query: object) -> None:
        """DELETE a resource."""
        given = {key: value for key, value in query.items() if value is not None}
        self._call("DELETE", path + (f"?{urllib.parse.urlencode(given)}" if given else ""))

    def pages(self, path: str, key: str, *, limit: int | None = None, **query: object) -> Iterator[Any]:
        """Yield the items under `key` of a list, page after page, `limit` at most."""
        left, marker = limit, None
        while left is None or left > 0:
            answer = self.get(path, **query, limit=min(left or PAGE, PAGE), marker=marker)
            items = answer[key]
            yield from items
            # The service says by a link that there is more; its pages may be shorter than we asked.
            if not items or not any(name.endswith("_links") for name in answer):
                return
            marker = items[-1]["id"]
            left = None if left is None else left - len(items)

    def find(self, kind: str, name: str, *, all_projects: bool = False) -> dict[str, Any]:
        """Return the volume or snapshot with this id, or else with this name.

        Raises NotFoundError for none, ConflictError for several.
        """
        plural = f"{kind}s"
        if looks_like_id(name):
            try:
                found: dict[str, Any] = self.get(f"/{plural}/{name}")[kind]
            except NotFoundError:
                pass  # a name may look like an id
            else:
                return found
        query: dict[str, object] = {"name": name, "all_tenants": 1 if all_projects else None}
        items = self.get(f"/{plural}/detail", **query)[plural]
        named = [item for item in items if item["name"] == name]
        if not named:
            raise NotFoundError(
                f"there is no {kind} {name!r}",
                remedy=f"`breezeblock {kind} list` shows those you can see.",
            )
        if len(named) > 1:
            raise ConflictError(
                f"{len(named)} {plural} have the name {name!r}",
                remedy=f"Use one of their ids: {', '.join(item['id'] for item in named[:5])}.",
            )
        return dict(named[0])

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        if self._headers is None:
            self._sign_in()
        try:
            return self._send(method, self._endpoint + path, body, self._headers or {})[0]
        except UnauthenticatedError:
            # A token expires while we wait for a long operation. What was not let in did nothing.
            if self.cloud.auth_type != "password":
                raise
            self._sign_in()
            return self._send(method, self._endpoint + path, body, self._headers or {})[0]

    def _sign_in(self) -> None:
        cloud = self.cloud
        headers = {"OpenStack-API-Version": f"volume {MICROVERSION}"}
        match cloud.auth_type:
            case "http_basic":
                pair = base64.b64encode(f"{cloud.username}:{cloud.password}".encode()).decode()
                headers["Authorization"] = f"Basic {pair}"
            case "admin_token":
                headers["X-Auth-Token"] = cloud.token
            case "password" | "token":
                headers["X-Auth-Token"], token = self._token()
                self._endpoint = self._endpoint or _endpoint(token, cloud)
        self._headers = headers

    def _token(self) -> tuple[str, dict[str, Any]]:
        cloud = self.cloud
        identity: dict[str, Any]
        if cloud.auth_type == "token":
            identity = {"methods": ["token"], "token": {"id": cloud.token}}
        else:
            user = {
                "name": cloud.username,
                "password": cloud.password,
                "domain": {"name": cloud.user_domain_name},
            }
            identity = {"methods": ["password"], "password": {"user": user}}
        auth: dict[str, Any] = {"identity": identity}
        if cloud.project_name:
            project = {"name": cloud.project_name, "domain": {"name": cloud.project_domain_name}}
            auth["scope"] = {"project": project}
        url = cloud.auth_url.rstrip("/")
        url = url if url.endswith("/v3") else url + "/v3"
        answer, headers = self._send("POST", f"{url}/auth/tokens", {"auth": auth}, {})
        try:
            return headers["X-Subject-Token"], answer["token"]
        except (KeyError, TypeError):
            raise _strange(url) from None

    def _send(
        self, method: str, url: str, body: Any, headers: Mapping[str, str]
    ) -> tuple[Any, Mapping[str, str]]:
        data = None if body is None else msgspec.json.encode(body)
        request = urllib.request.Request(url, data=data, method=method)  # noqa: S310 - checked below
        if request.type not in {"http", "https"}:
            raise InvalidInputError(f"{url} is no http or https address", remedy="Correct clouds.yaml.")
        request.add_header("Accept", "application/json")
        if data is not None:
            request.add_header("Content-Type", "application/json")
        for key, value in headers.items():
            request.add_header(key, value)
        try:
            with self._open(request) as response:
                return _decode(response.read(ANSWER_LIMIT), url), response.headers
        except urllib.error.HTTPError as error:
            raise _refusal(error.code, error.read(ANSWER_LIMIT), url) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error or type(error).__name__
            raise UnavailableError(
                f"no answer from {request.host}: {reason}",
                remedy="Is the service running there? `breezeblock serve` starts it.",
            ) from None

    def _open(self, request: urllib.request.Request) -> Any:
        if self._opener is None:
            context = ssl.create_default_context(cafile=self.cloud.cacert or None)
            if not self.cloud.verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=context)]
            if request.host.rpartition(":")[0].strip("[]") in {"127.0.0.1", "::1", "localhost"}:
                handlers.append(urllib.request.ProxyHandler({}))  # no proxy can reach our own loopback
            self._opener = urllib.request.build_opener(*handlers)
        return self._opener.open(request, timeout=TIMEOUT_S)


def looks_like_id(text: str) -> bool:
    """Say whether a text has the form of a resource's id (RFC 4122)."""
    parts = text.lower().split("-")
    digits = all(c in "0123456789abcdef" for c in "".join(parts))
    return digits and [len(part) for part in parts] == [8, 4, 4, 4, 12]


def _endpoint(token: Mapping[str, Any], cloud: Cloud) -> str:
    for kind in _SERVICE_TYPES:
        for service in token.get("catalog", ()):
            if service.get("type") != kind:
                continue
            for endpoint in service.get("endpoints", ()):
                if endpoint.get("interface") == cloud.interface and (
                    not cloud.region_name or endpoint.get("region") == cloud.region_name
                ):
                    return str(endpoint["url"]).rstrip("/")
    region = f" in the region {cloud.region_name}" if cloud.region_name else ""
    raise NotFoundError(
        f"{cloud.name}: the catalogue has no block-storage service{region}",
        remedy="Correct region_name or interface, or give block_storage_endpoint_override.",
    )


def _decode(body: bytes, url: str) -> Any:
    if not body:
        return None
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        raise _strange(url) from None


def _strange(url: str) -> BreezeblockError:
    host = urllib.parse.urlsplit(url).netloc
    return BreezeblockError(
        f"{host} does not answer as an OpenStack service",
        remedy="Correct auth_url or the endpoint: another program may listen there.",
    )


def _refusal(status: int, body: bytes, url: str) -> BreezeblockError:
    """Return the error that an answer means: the service's text under our class."""
    message = ""
    try:
        document = msgspec.json.decode(body)
        fault = next(iter(document.values()))
        message = str(fault["message"])
    except (msgspec.DecodeError, AttributeError, StopIteration, KeyError, TypeError):
        message = f"{urllib.parse.urlsplit(url).netloc} answered {status}"
    remedy = ""
    if status == 403:
        remedy = "With quickstart's clouds.yaml, `--cloud breezeblock-admin` may."
    return _BY_STATUS.get(status, BreezeblockError)(message, remedy=remedy)


def quoted(text: str) -> str:
    """Return a text as one segment of a path."""
    return urllib.parse.quote(text, safe="")
