"""Credentials that Amazon's metadata services, of containers and of instances, lend for some hours.

As published: "Container credential provider" of the AWS SDKs reference (which EKS Pod Identity uses too), and
"Instance Metadata Service Version 2" of the EC2 user guide. Version 1, which anybody who can make this host
fetch a URL can use, is not spoken. Asked are fixed addresses and this host itself, no proxy and no redirect.
"""

import datetime as dt
import http.client
import ipaddress
import os
import re
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Annotated, NamedTuple
from urllib.parse import SplitResult, urlsplit

import msgspec
from msgspec import Meta

from breezeblock.errors import BreezeblockError, ConfigError, UnavailableError
from breezeblock.objects.stores.sigv4 import Credentials

INSTANCE = "http://169.254.169.254"
CONTAINER = "http://169.254.170.2"
_CONTAINERS = {"169.254.170.2", "169.254.170.23", "fd00:ec2::23"}
"""Of ECS, and of EKS in both families."""
_PRINTABLE = r"^[\x21-\x7e][\x20-\x7e]{0,8191}$"
_ROLES = "/latest/meta-data/iam/security-credentials/"
_ROLE = re.compile(r"[\w+=,.@-]{1,64}", re.ASCII)
_TOKEN = re.compile(_PRINTABLE)
_VALID_S = "300"
_TIMEOUT_S = 1.0
_MOST = 1 << 16

EARLY_S = 300.0
"""Credentials are replaced so long before they expire: from then on the services have new ones."""
_KEPT_S, _FAILED_S = 60.0, 5.0


_Word = Annotated[str, Meta(pattern=_PRINTABLE)]


class _Lent(msgspec.Struct, frozen=True, rename="pascal"):
    """What a service lends, as it writes it."""

    access_key_id: _Word
    secret_access_key: _Word
    token: _Word
    expiration: Annotated[dt.datetime, Meta(tz=True)]


class _Known(NamedTuple):
    """What a service said."""

    source: str
    answer: Credentials | BreezeblockError
    until: float
    """When it is asked again, by `time.monotonic`."""


_lock = threading.Lock()
_known: _Known | None = None


def found() -> Credentials | None:
    """Return what the service of this container or instance lends; None where there is none.

    Each verb asks, so an answer is kept for a while. Raises ConfigError for settings that cannot be used,
    UnavailableError if a container's service does not answer: it was said to be there.
    """
    global _known  # noqa: PLW0603 - what the service said is the process's
    source = _container()
    if not source and os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return None
    with _lock:
        if _known is None or _known.source != source or time.monotonic() >= _known.until:
            _known = _asked(source, _known)
        answer = _known.answer
    if isinstance(answer, Credentials):
        return answer
    if not source:
        return None  # not on Amazon's machines, as a rule
    raise answer


def _asked(source: str, before: _Known | None) -> _Known:
    try:
        answer = of_container(source) if source else of_instance()
    except BreezeblockError as error:
        # What is still good is used on: the service may have a bad moment.
        good = before and before.source == source and isinstance(before.answer, Credentials)
        if before and good and before.answer.expires > time.time():  # type: ignore[union-attr] # see good
            return before._replace(until=time.monotonic() + _FAILED_S)
        return _Known(source, error, time.monotonic() + _FAILED_S)
    return _Known(source, answer, time.monotonic() + min(_KEPT_S, answer.expires - time.time() - EARLY_S))


def _container() -> str:
    """Return the URL of the container's service; empty: there is none."""
    relative = os.environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "")
    if relative:
        return f"{CONTAINER}/{relative.lstrip('/')}"
    return os.environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI", "")


def of_container(url: str) -> Credentials:
    """Return what a container's service lends. Raises ConfigError, UnavailableError."""
    parts = _split(url)
    host = parts.hostname or ""
    known = host in _CONTAINERS or _is_here(host)
    if not known or parts.scheme not in {"http", "https"} or "@" in parts.netloc:
        raise ConfigError(
            "AWS_CONTAINER_CREDENTIALS_FULL_URI leads to another host than a container's service.",
            remedy=f"It may lead to {', '.join(sorted(_CONTAINERS))} and to this host.",
        )
    token = os.environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", "")
    path = os.environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "")
    if path:
        try:
            token = Path(path).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{path}, the container's token, cannot be read: {type(error).__name__}."
            ) from None
    headers = {"Authorization": _checked(token.strip())} if token.strip() else {}
    target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    return _lent(_ask(f"{parts.scheme}://{parts.netloc}", "GET", target, headers))


def of_instance(service: str = INSTANCE) -> Credentials:
    """Return what an instance's role is lent. Raises UnavailableError."""
    made = _ask(service, "PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": _VALID_S})
    headers = {"X-aws-ec2-metadata-token": _checked(made.strip())}
    role = next(iter(_ask(service, "GET", _ROLES, headers).split("\n")), "").strip()
    if not _ROLE.fullmatch(role):
        raise UnavailableError("The instance's metadata service names no role.")
    return _lent(_ask(service, "GET", _ROLES + role, headers))


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - it is parsed when it is asked for
    except ValueError:  # which may quote a password
        raise ConfigError("The address of the metadata service cannot be read.") from None
    return parts


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _checked(token: str) -> str:
    """Return what may stand in a header: the libraries' own messages would show it."""
    if not _TOKEN.fullmatch(token):
        raise ConfigError("The token for the metadata service has characters that it cannot have.")
    return token


def _ask(service: str, method: str, target: str, headers: Mapping[str, str]) -> str:
    """Return the answer, of limited length. Raises UnavailableError, which shows no secret."""
    parts = _split(service)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    try:
        with closing(kind(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)) as connection:
            connection.request(method, target, headers=dict(headers))
            reply = connection.getresponse()
            body = reply.read(_MOST)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UnavailableError(
            f"The metadata service at {parts.netloc} does not answer: {type(error).__name__}."
        ) from None
    if reply.status != 200:
        raise UnavailableError(f"The metadata service at {parts.netloc} answered {reply.status}.")
    return body.decode("utf-8", "replace")


def _lent(text: str) -> Credentials:
    try:
        said = msgspec.json.decode(text, type=_Lent)
    except msgspec.DecodeError:
        raise UnavailableError("The metadata service's answer has no credentials.") from None
    return Credentials(said.access_key_id, said.secret_access_key, said.token, said.expiration.timestamp())
