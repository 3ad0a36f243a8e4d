"""The one place where our errors become HTTP: Block Storage faults, and Keystone's shape for 401."""

import structlog

from breezeblock.api.http import Reply, reply
from breezeblock.errors import (
    BreezeblockError,
    ConflictError,
    DuplicateError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    OverQuotaError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)

log = structlog.get_logger(__name__)

_STATUS: tuple[tuple[type[BreezeblockError], int], ...] = (
    (InvalidInputError, 400),
    (ConflictError, 400),  # a state that does not allow the request, as Cinder's "Invalid volume"
    (UnsupportedError, 400),
    (UnauthenticatedError, 401),
    (ForbiddenError, 403),
    (NotFoundError, 404),
    (DuplicateError, 409),
    (OverQuotaError, 413),
    (UnavailableError, 503),
)

_NAMES = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    405: "badMethod",
    409: "conflictingRequest",
    413: "overLimit",
    415: "badMediaType",
    501: "notImplemented",
    503: "serviceUnavailable",
}


class HttpError(Exception):
    """A refusal that only HTTP knows: method, media type, precondition, version, size of a body."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or {}


def fault(error: Exception) -> Reply:
    """Turn whatever a handler raised into an answer that gives nothing inside away."""
    if isinstance(error, HttpError):
        return _fault(error.status, error.message, error.headers)
    for kind, status in _STATUS:
        if isinstance(error, kind):
            if status == 401:
                return unauthenticated(error)
            return _fault(status, str(error), {})
    if isinstance(error, BreezeblockError):
        log.error("request failed", error=str(error), kind=type(error).__name__)
        return _fault(500, str(error), {})
    log.error("request failed unexpectedly", exc_info=error)
    return _fault(
        500,
        "The server has either erred or is incapable of performing the requested operation.",
        {},
    )


def unauthenticated(error: Exception) -> Reply:
    """Answer 401 as Keystone and its middleware do."""
    message = str(error)
    return reply({"error": {"code": 401, "title": "Unauthorized", "message": message}}, 401)


def _fault(status: int, message: str, headers: dict[str, str]) -> Reply:
    content: dict[str, object] = {"code": status, "message": message}
    if status == 413:
        content["retryAfter"] = "0"
        headers = {**headers, "Retry-After": "0"}
    return reply({_NAMES.get(status, "computeFault"): content}, status, headers)
