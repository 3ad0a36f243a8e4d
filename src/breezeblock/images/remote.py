"""Bringing images in and out: the only way to open an address that a user named."""

import hashlib
import http.client
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from breezeblock.attempt import Attempt
from breezeblock.errors import InvalidInputError, UnavailableError
from breezeblock.images import local, raw, s3, web
from breezeblock.images.addresses import Policy, check_bytes, local_path, parsed, shown

CHUNK_BYTES = 1 << 20
MAX_TRIES = 4
"""Of a server that breaks off, without a byte being won."""
PAUSE_S = 0.25
T = TypeVar("T")


# ── in ───────────────────────────────────────────────────────────────────────────────────────────────


def fetch(url: str, target: Path, policy: Policy, attempt: Attempt) -> None:
    """Bring an image into a file, going on where a connection, or an attempt before this one, broke off."""
    parts = parsed(url, policy)
    if parts.scheme == "file":
        local.copy_in(local_path(parts, policy), target, policy, attempt)
        return
    tries, had = 0, -1
    while True:
        have = _resumable(target)
        tries, had = (0, have) if have > had else (tries + 1, had)
        try:
            _go_on(url, target, policy, attempt, have)
        except UnavailableError:
            if tries + 1 >= MAX_TRIES:
                raise
            raw.check_cancelled(attempt)
            time.sleep(PAUSE_S * 2**tries)
        else:
            return


def validator(url: str, policy: Policy) -> str:
    """Return what changes when the image at the address does; empty if its server does not tell.

    Raises InvalidInputError where it may not, or no longer, be read.
    """
    parts = parsed(url, policy)
    if parts.scheme == "file":
        return local.validator(local_path(parts, policy), policy)
    # Not HEAD: a signed address is good for one method only.
    with _patiently(lambda: _got(url, policy, {"Range": "bytes=0-0"})) as answer:
        return answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""


def _patiently(ask: Callable[[], T]) -> T:
    for tries in range(MAX_TRIES - 1):
        try:
            return ask()
        except UnavailableError:
            time.sleep(PAUSE_S * 2**tries)
    return ask()


def _got(url: str, policy: Policy, headers: dict[str, str]) -> web.Answer:
    headers = {"Accept-Encoding": "identity", **headers}
    if url[:3].lower() == "s3:":
        return web.opened("GET", s3.address(url, policy), s3.reachable(policy), headers)
    return web.opened("GET", url, policy, headers)


def _tag_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.tag")


def _resumable(target: Path) -> int:
    """Return how many bytes are there to go on from: less the last, so that the rest is never empty."""
    there = target.exists() and _tag_of(target).exists()
    return max(0, target.stat().st_size - 1) if there else 0


def _go_on(url: str, target: Path, policy: Policy, attempt: Attempt, have: int) -> None:
    tag = _tag_of(target)
    known = tag.read_text() if have else ""
    headers = {"Range": f"bytes={have}-", "If-Range": known} if have else {}
    try:
        opened = _got(url, policy, headers)
    except InvalidInputError as error:
        if web.code(error) == 416:  # shorter by now than what is here, from a server without If-Range
            raise _changed(url, tag) from error
        raise
    with opened as answer:
        etag = answer.headers.get("ETag") or ""
        # A server that knows no If-Range tells by the tag that it has another image by now.
        resumed = answer.status == 206 and (answer.headers.get("Content-Range") or "").startswith(
            f"bytes {have}-"
        )
        if (answer.status == 206 and not resumed) or (resumed and etag not in {"", known}):
            raise _changed(url, tag)
        if not resumed:
            have = 0
            tag.unlink(missing_ok=True)
        length = answer.headers.get("Content-Length")
        total = have + int(length or 0)
        check_bytes(total, policy)
        with target.open("r+b" if resumed else "wb") as file:
            file.seek(have)
            file.truncate()
            if etag.startswith('"') and not resumed:
                tag.write_text(etag)  # a strong validator: a range of it is a range of the same bytes
            try:
                _stream(partial(answer.read, CHUNK_BYTES), file.write, have, total, policy, attempt)
            finally:
                file.flush()
                os.fsync(file.fileno())
        if length is not None and target.stat().st_size != total:
            raise UnavailableError(
                f"{shown(url)} broke off at {target.stat().st_size} of {total} bytes.", remedy="Repeat it."
            )


def _changed(url: str, tag: Path) -> UnavailableError:
    tag.unlink(missing_ok=True)
    return UnavailableError(f"{shown(url)} is another image by now.", remedy="Repeat it.")


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
        check_bytes(done, policy)
        write(data)
        attempt.progress(done, max(done, total))


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
    """Bring a file out: below an allowed directory, where nothing has the name yet, by HTTP PUT, or to S3."""
    parts = parsed(url, policy)
    if parts.scheme == "file":
        local.copy_out(source, local_path(parts, policy), policy, attempt)
        return
    total = source.stat().st_size

    def told(done: int) -> None:
        raw.check_cancelled(attempt)
        attempt.progress(done, total)

    def put() -> None:
        if parts.scheme == "s3":
            s3.send(source, url, policy, told)
            return
        with source.open("rb") as file, web.opened("PUT", url, policy, headers, _read(file, told)):
            pass

    headers = {"Content-Length": str(total), "Content-Type": "application/octet-stream"}
    _patiently(put)


def _read(file: Any, told: Callable[[int], None]) -> Any:
    while data := file.read(CHUNK_BYTES):
        told(file.tell())
        yield data


def abandon(source: Path, url: str, policy: Policy, operation_id: str) -> None:
    """Remove what attempts of an operation left unfinished where they sent something to."""
    try:
        parts = parsed(url, policy)
        if parts.scheme == "file":
            local.sweep(local_path(parts, policy), policy, operation_id)
        elif parts.scheme == "s3":
            s3.abandon(source, url, policy)
    except InvalidInputError:
        return  # it was refused before anything was written
