"""What a handler is given, and what it answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import msgspec

from breezeblock.errors import InvalidInputError
from breezeblock.service.core import Caller, Service

Version = tuple[int, int]

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()


class ApiSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The part of the configuration that the HTTP side depends on."""

    public_url: str | None = None
    """What clients call this service; None: what the request's Host header says."""
    max_body_bytes: int = 114_688
    max_limit: int = 1000
    """Most items in one page."""
    threads: int = 16
    """Requests worked on at once; more wait their turn."""
    waiting_threads: int = 32
    """Requests that wait for a worker (connecting an attachment) have threads of their own."""
    region: str = "RegionOne"


@dataclass(slots=True)
class Request:
    """One authenticated request to the Block Storage API."""

    service: Service
    settings: ApiSettings
    caller: Caller
    version: Version
    method: str
    base: str
    """Scheme, host and whatever stands before /v3, without a slash at the end."""
    path: str
    """As the client wrote it, from /v3 on."""
    headers: Mapping[str, str]
    query: dict[str, str]
    body: bytes
    params: dict[str, str] = field(default_factory=dict)
    """The variable parts of the path."""

    def at_least(self, minor: int) -> bool:
        """Say whether the client speaks 3.`minor` or later."""
        return self.version >= (3, minor)

    @property
    def project_url(self) -> str:
        """The base of links to resources."""
        return f"{self.base}/v3/{quote(self.caller.project_id)}"

    @property
    def bookmark_url(self) -> str:
        """The base of links without a version."""
        return f"{self.base}/{quote(self.caller.project_id)}"

    def json(self) -> dict[str, Any]:
        """Return the body, which must be a JSON object."""
        return decode_object(self.body)

    def member(self, key: str) -> dict[str, Any]:
        """Return the object under the one key that the body must have."""
        value = self.json().get(key)
        if not isinstance(value, dict):
            raise InvalidInputError(
                f"Invalid input for field/attribute {key}: the body must be a JSON object with the "
                f"object '{key}' in it."
            )
        return value


@dataclass(slots=True)
class Reply:
    """An answer."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def reply(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    """Answer with JSON."""
    return Reply(status, _encoder.encode(value), headers or {})


def decode_object(body: bytes) -> dict[str, Any]:
    """Decode a JSON object. Raises InvalidInputError for anything else, however it is broken."""
    try:
        value = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInputError(
            f"Malformed request body: it is not JSON ({type(error).__name__}).",
            remedy="Send a JSON object in UTF-8.",
        ) from error
    if not isinstance(value, dict):
        raise InvalidInputError("Malformed request body: it must be a JSON object.")
    # PostgreSQL cannot keep NUL in text, and no field has a use for it.
    if b"\\u0000" in body and _has_nul(value):
        raise InvalidInputError("Malformed request body: text must not contain the character NUL.")
    return value


def _has_nul(value: object) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any("\0" in key or _has_nul(item) for key, item in value.items())
    return isinstance(value, list) and any(map(_has_nul, value))
