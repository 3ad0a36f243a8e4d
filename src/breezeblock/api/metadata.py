"""The metadata of volumes and snapshots as resources of their own.

From 3.15 on an ETag (RFC 9110 section 8.8.3) protects against lost updates of a volume's metadata.
"""

import hashlib
from collections.abc import Callable

from breezeblock.api import inputs
from breezeblock.api.errors import HttpError
from breezeblock.api.http import Reply, Request, reply
from breezeblock.api.routing import Endpoint, Handler
from breezeblock.errors import InvalidInputError, NotFoundError
from breezeblock.service import details
from breezeblock.service.details import Kind, Metadata


def index(request: Request) -> Reply:
    """Return all metadata."""
    return _whole(request, details.metadata(request.service, request.caller, _kind(request), _id(request)))


def merge(request: Request) -> Reply:
    """Add to the metadata."""
    given = inputs.pairs("metadata", inputs.member(request.json(), "metadata"))
    return _whole(request, _change(request, lambda old: {**old, **given}))


def replace(request: Request) -> Reply:
    """Replace the metadata."""
    given = inputs.pairs("metadata", inputs.member(request.json(), "metadata"))
    return _whole(request, _change(request, lambda _: given))


def show(request: Request) -> Reply:
    """Return one entry of the metadata."""
    key = request.params["key"]
    found = details.metadata(request.service, request.caller, _kind(request), _id(request))
    if key not in found:
        raise _missing(request)
    return reply({"meta": {key: found[key]}})


def put(request: Request) -> Reply:
    """Set one entry of the metadata."""
    key = request.params["key"]
    given = inputs.pairs("meta", inputs.member(request.json(), "meta"))
    if key not in given:
        raise InvalidInputError("Request body and URI mismatch.")
    if len(given) > 1:
        raise InvalidInputError("Request body contains too many items.")
    _change(request, lambda old: {**old, **given})
    return reply({"meta": given})


def delete(request: Request) -> Reply:
    """Remove one entry of the metadata."""

    def without(old: Metadata) -> Metadata:
        if request.params["key"] not in old:
            raise _missing(request)
        return {key: value for key, value in old.items() if key != request.params["key"]}

    _change(request, without)
    return Reply(200)


def _change(request: Request, change: Callable[[Metadata], Metadata]) -> Metadata:
    def checked(old: Metadata) -> Metadata:
        expected = request.headers.get("if-match")
        if expected is not None and _kind(request) == "volume" and request.at_least(15):
            tags = [tag.strip().removeprefix("W/").strip('"') for tag in expected.split(",")]
            if "*" not in tags and _tag(old) not in tags:
                raise HttpError(412, "Precondition Failed: the metadata has changed since it was read.")
        return change(old)

    return details.change_metadata(request.service, request.caller, _kind(request), _id(request), checked)


def _whole(request: Request, found: Metadata) -> Reply:
    answer = reply({"metadata": found})
    if _kind(request) == "volume" and request.at_least(15):
        answer.headers["ETag"] = f'"{_tag(found)}"'
    return answer


def _tag(found: Metadata) -> str:
    # MD5 because Cinder's is; it guards against accidents, not against an attacker.
    return hashlib.md5(reply({"metadata": found}).body, usedforsecurity=False).hexdigest()


def _kind(request: Request) -> Kind:
    return "volume" if "volume_id" in request.params else "snapshot"


def _id(request: Request) -> str:
    return request.params[f"{_kind(request)}_id"]


def _missing(request: Request) -> NotFoundError:
    return NotFoundError(
        f"{_kind(request).capitalize()} {_id(request)} has no metadata with key {request.params['key']}."
    )


def _endpoints(kind: Kind) -> tuple[Endpoint, ...]:
    whole = f"/{kind}s/{{{kind}_id}}/metadata"
    table: tuple[tuple[str, str, Handler], ...] = (
        ("GET", whole, index),
        ("POST", whole, merge),
        ("PUT", whole, replace),
        ("GET", f"{whole}/{{key}}", show),
        ("PUT", f"{whole}/{{key}}", put),
        ("DELETE", f"{whole}/{{key}}", delete),
    )
    return tuple(Endpoint(method, path, handler) for method, path, handler in table)


ENDPOINTS = (*_endpoints("volume"), *_endpoints("snapshot"))
