"""Which addresses a user may name for an image. To check one opens nothing.

Schemes, directories, buckets and network addresses are allowed by the configuration, everything else is
refused: a user who may name an address makes this machine ask it (SSRF).
"""

import os
from pathlib import Path
from urllib import parse

import msgspec

from breezeblock.errors import InvalidInputError, NoSpaceError

MAX_URL = 2048


class S3(msgspec.Struct, frozen=True, kw_only=True):
    """The one S3 service that `s3://bucket/key` means."""

    endpoint: str
    """`https://host[:port]`; buckets are the first part of the path."""
    region: str
    credentials_file: str
    """Two lines: the access key's id, the secret. Read when needed, so that it can be changed."""
    buckets: tuple[str, ...]
    """What users may name: everything in these is theirs to read and write."""


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
    s3: S3 | None = None
    scratch: str = "/var/tmp"  # noqa: S108 - the configuration always names one
    """Where images are kept while they are converted."""


NOTHING = Policy(schemes=())
"""Allows no address at all."""


def check(url: str, policy: Policy) -> None:
    """Raise InvalidInputError unless the policy allows the address; nothing is opened."""
    parsed(url, policy)


def shown(url: str) -> str:
    """Return an address without what may be secret in it."""
    parts = parse.urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"[:200]


def parsed(url: str, policy: Policy) -> parse.SplitResult:
    """Return the parts of an address that is allowed. Raises InvalidInputError."""
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
    elif parts.scheme == "s3":
        _check_object(parts, policy)
    elif not parts.hostname:
        raise InvalidInputError("The image's address names no host.")
    return parts


def local_path(parts: parse.SplitResult, policy: Policy) -> Path:
    """Return the path of a file: address, which lies below an allowed directory once links are resolved.

    That may be so no more when it is opened: `local` opens it.
    """
    path = Path(os.path.realpath(parse.unquote(parts.path)))
    require_allowed(path, parts.path, policy)
    return path


def require_allowed(path: Path, named: str, policy: Policy) -> None:
    """Raise InvalidInputError, which says what was named, unless a path without links is allowed."""
    if not any(Path(os.path.realpath(directory)) in path.parents for directory in policy.directories):
        raise InvalidInputError(
            f"{named[:200]} is not below a directory that images may be in.",
            remedy="[images] directories lists them.",
        )


def check_bytes(count: int, policy: Policy) -> None:
    """Raise NoSpaceError if an image of `count` bytes, or more, is over the limit."""
    if count > policy.max_bytes:
        raise NoSpaceError(
            f"The image has {count} bytes or more; the limit is {policy.max_bytes}.",
            remedy="[images] max_bytes is the limit.",
        )


def _check_object(parts: parse.SplitResult, policy: Policy) -> None:
    if policy.s3 is None or parts.netloc not in policy.s3.buckets:
        raise InvalidInputError(
            f"{parts.netloc[:80]!a} is no bucket that images may be in.",
            remedy="[images.s3] buckets lists them.",
        )
    # A server that resolved dots in a path would leave the bucket by them.
    steps = parse.unquote(parts.path).split("/")[1:]
    if parts.query or parts.fragment or not steps or any(step in {"", ".", ".."} for step in steps):
        raise InvalidInputError("An image in S3 is s3://BUCKET/KEY, with no empty and no dotted part.")
