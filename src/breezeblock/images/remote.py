"""Bringing images in and out: the only place that opens an address which a user named.

Schemes, directories and addresses are allowed by the configuration, everything else is refused: a user who
may name an address makes this machine ask it (SSRF). No proxies, no cookies, no credentials.
"""

import hashlib
import http.client
import ipaddress
import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib import error as urllib_error
from urllib import parse, request

import msgspec

from breezeblock.attempt import Attempt
from breezeblock.errors import InvalidInputError, NoSpaceError, UnavailableError
from breezeblock.images import raw

CHUNK_BYTES = 1 << 20
MAX_URL = 2048


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What users may name."""

    schemes: tuple[str, ...] = ("https",)
    directories: tuple[str, ...] = ()
    """Where file: may read and write."""
    private_addresses: bool = False
    """Let http and https reach loopback, private and link-local addresses."""
    max_bytes: int = 1 << 40
    timeout_s: float = 30.0
    """Without a byte for so long, a server counts as gone."""
    max_redirects: int = 3
    scratch: str = "/var/tmp"  # noqa: S108 - the configuration always names one
    """Where images are kept while they are converted."""


NOTHING = Policy(schemes=())
"""Allows no address at all."""


def check(url: str, policy: Policy) -> None:
    """Raise InvalidInputError unless the policy allows the address; nothing is opened."""
    _parsed(url, policy)


def shown(url: str) -> str:
    """Return an address without what may be secret in it."""
    parts = parse.urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"[:200]


def _parsed(url: str, policy: Policy) -> parse.SplitResult:
    try:
        parts = parse.urlsplit(url)
        _port = parts.port
    except ValueError as error:
        raise InvalidInputError(f"The image's address is none: {error}.") from error
    if len(url) > MAX_URL or not url.isprintable() or " " in url:
        raise InvalidInputError(f"The image's address is longer than {MAX_URL} characters, or not printable.")
    if parts.scheme not in policy.schemes:
        raise InvalidInputError(
            f"Addresses that begin with {parts.scheme[:20]!a} are not allowed for images.",
            remedy=f"[images] allows {', '.join(policy.schemes) or 'none'}.",
        )
    if parts.username is not None or parts.password is not None:
        raise InvalidInputError("The image's address must hold no user name and no password.")
    if parts.scheme == "file":
        if parts.hostname not in {None, "localhost"}:
            raise InvalidInputError("A file: address names no host: write file:///path.")
        local_path(parts, policy)
    elif not parts.hostname:
        raise InvalidInputError("The image's address names no host.")
    return parts


def local_path(parts: parse.SplitResult, policy: Policy) -> Path:
    """Return the path of a file: address, which lies below an allowed directory once links are resolved."""
    path = Path(os.path.realpath(parse.unquote(parts.path)))
    for directory in policy.directories:
        if Path(os.path.realpath(directory)) in path.parents:
            return path
    raise InvalidInputError(
        f"{parts.path[:200]} is not below a directory that images may be in.",
        remedy="[images] directories lists them.",
    )


# ── in ───────────────────────────────────────────────────────────────────────────────────────────────


def fetch(url: str, target: Path, policy: Policy, attempt: Attempt) -> None:
    """Bring an image into a file, going on where an attempt before this one was cut off."""
    parts = _parsed(url, policy)
    if parts.scheme == "file":
        _copy_in(local_path(parts, policy), target, policy, attempt)
        return
    tag = target.with_name(f"{target.name}.tag")
    have = target.stat().st_size if target.exists() and tag.exists() else 0
    headers = {"User-Agent": "breezeblock", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag.read_text()}
    with _opened(request.Request(url, headers=headers), policy) as answer:  # noqa: S310 - the scheme is checked
        resumed = answer.status == 206 and (answer.headers.get("Content-Range") or "").startswith(
            f"bytes {have}-"
        )
        if not resumed:
            have = 0
            tag.unlink(missing_ok=True)
        total = have + int(answer.headers.get("Content-Length") or 0)
        if total > policy.max_bytes:
            raise _too_large(total, policy)
        with target.open("r+b" if resumed else "wb") as file:
            file.seek(have)
            file.truncate()
            etag = answer.headers.get("ETag") or ""
            if etag.startswith('"') and not resumed:
                tag.write_text(etag)  # a strong validator: a range of it is a range of the same bytes
            _stream(partial(answer.read, CHUNK_BYTES), file.write, have, total, policy, attempt)
            file.flush()
            os.fsync(file.fileno())
        length = answer.headers.get("Content-Length")
        if length is not None and target.stat().st_size != total:
            raise UnavailableError(
                f"{shown(url)} broke off at {target.stat().st_size} of {total} bytes.", remedy="Repeat it."
            )


def _stream(
    read: Callable[[], bytes],
    write: Callable[[bytes], Any],
    done: int,
    total: int,
    policy: Policy,
    attempt: Attempt,
) -> None:
    while True:
        raw.check_cancelled(attempt)
        try:
            data = read()
        except (OSError, http.client.HTTPException) as error:
            raise UnavailableError(
                f"The server broke off after {done} bytes: {error}.", remedy="Repeat it."
            ) from error
        if not data:
            return
        done += len(data)
        if done > policy.max_bytes:
            raise _too_large(done, policy)
        write(data)
        attempt.progress(done, max(done, total))


def _copy_in(source: Path, target: Path, policy: Policy, attempt: Attempt) -> None:
    # A copy, not the file itself: what was inspected must be what is converted.
    try:
        fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidInputError(f"{source} cannot be read: {error.strerror}.") from error
    try:
        if not Path(os.path.realpath(f"/proc/self/fd/{fd}")).is_file():
            raise InvalidInputError(f"{source} is not a regular file.")
        if os.fstat(fd).st_size > policy.max_bytes:
            raise _too_large(os.fstat(fd).st_size, policy)
        with target.open("w+b") as file:
            raw.copy(fd, file.fileno(), attempt)
    finally:
        os.close(fd)


def verify(path: Path, checksum: str, attempt: Attempt) -> None:
    """Compare a file with `sha256:…` or `sha512:…`. Raises InvalidInputError."""
    name, _, wanted = checksum.partition(":")
    digest = hashlib.new(name)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            raw.check_cancelled(attempt)
            digest.update(chunk)
    if digest.hexdigest() != wanted.lower():
        raise InvalidInputError(f"The image has the {name} {digest.hexdigest()}, not {wanted}.")


def check_checksum(checksum: str) -> None:
    """Raise InvalidInputError unless this is a checksum that `verify` understands."""
    name, _, wanted = checksum.partition(":")
    if name not in {"sha256", "sha512"} or len(wanted) != hashlib.new(name).digest_size * 2:
        raise InvalidInputError("A checksum is sha256: or sha512: and its hexadecimal digits.")
    if set(wanted.lower()) - set("0123456789abcdef"):
        raise InvalidInputError("A checksum has hexadecimal digits.")


# ── out ──────────────────────────────────────────────────────────────────────────────────────────────


def send(source: Path, url: str, policy: Policy, attempt: Attempt) -> None:
    """Bring a file out: below an allowed directory, where nothing has the name yet, or by an HTTP PUT."""
    parts = _parsed(url, policy)
    if parts.scheme == "file":
        _copy_out(source, local_path(parts, policy), attempt)
        return
    total, done = source.stat().st_size, 0

    def told(file: Any) -> Any:
        nonlocal done
        while data := file.read(CHUNK_BYTES):
            raw.check_cancelled(attempt)
            done += len(data)
            attempt.progress(done, total)
            yield data

    with source.open("rb") as file:
        wanted = request.Request(  # noqa: S310 - the scheme is checked
            url,
            data=told(file),
            method="PUT",
            headers={"Content-Length": str(total), "User-Agent": "breezeblock"},
        )
        with _opened(wanted, policy):
            pass


def abandon(url: str, policy: Policy, operation_id: str) -> None:
    """Remove what attempts of an operation left unfinished where they sent something to."""
    try:
        parts = _parsed(url, policy)
        if parts.scheme == "file":
            _sweep(local_path(parts, policy), operation_id)
    except InvalidInputError:
        return  # it was refused before anything was written


def _sweep(target: Path, operation_id: str) -> None:
    for old in target.parent.glob(f".tmp-{operation_id}-*"):
        old.unlink(missing_ok=True)


def _copy_out(source: Path, target: Path, attempt: Attempt) -> None:
    temp = target.with_name(attempt.temp_name)
    _sweep(target, attempt.operation_id)
    try:
        with source.open("rb") as file, temp.open("x+b") as new:
            raw.copy(file.fileno(), new.fileno(), attempt)
            os.fsync(new.fileno())
        # A link, not a rename: it never replaces what somebody has put there.
        os.link(temp, target)
    except FileExistsError as error:
        if not _same(source, target):
            raise InvalidInputError(f"{target} exists already.") from error
    finally:
        temp.unlink(missing_ok=True)


def _same(one: Path, other: Path) -> bool:
    """Tell whether an attempt before this one has published the file already."""
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as a, other.open("rb") as b:
        while data := a.read(CHUNK_BYTES):
            if data != b.read(CHUNK_BYTES):
                return False
    return True


def _too_large(count: int, policy: Policy) -> NoSpaceError:
    return NoSpaceError(
        f"The image has {count} bytes or more; the limit is {policy.max_bytes}.",
        remedy="[images] max_bytes is the limit.",
    )


# ── HTTP ─────────────────────────────────────────────────────────────────────────────────────────────


def _opened(wanted: request.Request, policy: Policy) -> Any:
    errors = (request.HTTPErrorProcessor(), request.HTTPDefaultErrorHandler())
    opener = request.OpenerDirector()  # no default handlers: those would open files, FTP and proxies
    for handler in (_Plain(policy), _Tls(policy), _Redirects(policy), *errors):
        opener.add_handler(handler)
    try:
        answer = opener.open(wanted, timeout=policy.timeout_s)
    except urllib_error.HTTPError as error:
        kind = UnavailableError if error.code >= 500 or error.code == 429 else InvalidInputError
        raise kind(f"{shown(wanted.full_url)} answered {error.code}.") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UnavailableError(f"{shown(wanted.full_url)} did not answer: {reason}.") from error
    if answer is None or answer.status not in {200, 201, 204, 206}:
        raise InvalidInputError(f"{shown(wanted.full_url)} did not answer with an image.")
    return answer


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
        parts = _parsed(url, self._policy)
        # Counted as urllib counts: it keeps the addresses that it was sent on to in the request.
        if sum(getattr(req, "redirect_dict", {}).values()) >= self._policy.max_redirects:
            raise InvalidInputError(f"{shown(url)}: more than {self._policy.max_redirects} redirections.")
        if parts.scheme == "file" or (req.type == "https" and parts.scheme != "https"):
            raise InvalidInputError("The server sent the request on to a place that is not allowed.")
        return super().redirect_request(req, *more)
