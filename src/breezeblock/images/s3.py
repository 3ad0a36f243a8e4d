"""Images in S3: `s3://bucket/key` becomes a signed HTTP address; what is large goes out in parts.

The address is signed, not the request (AWS Signature Version 4, "Authenticating Requests: Using Query
Parameters"), so that limits and resumption are those of HTTP. An upload in parts is noted beside the file
that is sent; whoever sends that again goes on with it.
"""

import contextlib
import hashlib
import hmac
import os
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib import parse

import msgspec

from breezeblock.errors import ConfigError, InvalidInputError, UnavailableError
from breezeblock.images import web
from breezeblock.images.addresses import S3, Policy, shown

PART_BYTES = 64 << 20
MAX_PARTS = 10_000
"""Both as AWS has them; a part may have up to 5 GiB."""
VALID_S = 3600
CHUNK_BYTES = 1 << 20
_ALGORITHM = "AWS4-HMAC-SHA256"
_UPLOAD_ID = re.compile(rb"<UploadId>([^<]{1,1024})</UploadId>")


class _Upload(msgspec.Struct):
    """An upload in parts that was begun."""

    id: str
    part_bytes: int
    tags: list[str] = []
    """Of the parts that are there: the MD5 of each, as the server said."""


def signed(store: S3, method: str, url: str, query: Mapping[str, str], moment: datetime) -> str:
    """Return the HTTP address at which whoever has it may do `method` with the object for an hour."""
    key_id, secret = _credentials(store)
    parts = parse.urlsplit(url)
    path = f"/{parts.netloc}{parse.quote(parse.unquote(parts.path), safe='/-_.~')}"
    day, time = moment.strftime("%Y%m%d"), moment.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{day}/{store.region}/s3/aws4_request"
    table = {
        "X-Amz-Algorithm": _ALGORITHM,
        "X-Amz-Credential": f"{key_id}/{scope}",
        "X-Amz-Date": time,
        "X-Amz-Expires": str(VALID_S),
        "X-Amz-SignedHeaders": "host",
        **query,
    }
    asked = "&".join(f"{_quoted(name)}={_quoted(table[name])}" for name in sorted(table))
    host = parse.urlsplit(store.endpoint).netloc
    request = f"{method}\n{path}\n{asked}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD"
    digest = hashlib.sha256(request.encode()).hexdigest()
    proof = f"AWS4{secret}".encode()
    for text in (day, store.region, "s3", "aws4_request", f"{_ALGORITHM}\n{time}\n{scope}\n{digest}"):
        proof = hmac.digest(proof, text.encode(), "sha256")
    return f"{store.endpoint}{path}?{asked}&X-Amz-Signature={proof.hex()}"


def address(url: str, policy: Policy, method: str = "GET", **query: str) -> str:
    """Return the signed address of an object that the policy allows, good from now on."""
    assert policy.s3 is not None  # noqa: S101 - the address was checked
    return signed(policy.s3, method, url, query, datetime.now(UTC))


def reachable(policy: Policy) -> Policy:
    """Return the policy for the service itself: the operator named it, wherever it is."""
    return msgspec.structs.replace(policy, private_addresses=True, max_redirects=0)


def send(
    source: Path, url: str, policy: Policy, told: Callable[[int], None], *, part_bytes: int = PART_BYTES
) -> None:
    """Send a file, replacing the object; `told` hears how many bytes are there, and may raise to stop."""
    total = source.stat().st_size
    if total <= part_bytes:
        with source.open("rb") as file:
            body = _piece(file.fileno(), 0, total, told)
            with _asked("PUT", url, policy, data=body, length=total):
                return
    upload = _begun(source, url, policy, max(part_bytes, -(-total // MAX_PARTS)))
    with source.open("rb") as file:
        for start in range(len(upload.tags) * upload.part_bytes, total, upload.part_bytes):
            length = min(upload.part_bytes, total - start)
            body = _piece(file.fileno(), start, length, told)
            query = {"partNumber": str(len(upload.tags) + 1), "uploadId": upload.id}
            with _asked("PUT", url, policy, data=body, length=length, **query) as answer:
                upload.tags.append((answer.headers.get("ETag") or "").strip('"'))
            _note(source, upload)
    _complete(url, policy, upload)


def abandon(source: Path, url: str, policy: Policy) -> None:
    """Let the service forget the parts of an upload that will not be completed."""
    upload = _noted(source)
    if upload is not None:
        # It may have been completed, or forgotten, already.
        with contextlib.suppress(InvalidInputError), _asked("DELETE", url, policy, uploadId=upload.id):
            pass
        _journal(source).unlink(missing_ok=True)


def _begun(source: Path, url: str, policy: Policy, part_bytes: int) -> _Upload:
    upload = _noted(source)
    if upload is None:
        with _asked("POST", url, policy, data=b"", length=0, uploads="") as answer:
            found = _UPLOAD_ID.search(answer.read(1 << 16))
        if found is None:
            raise UnavailableError(f"{shown(url)}: the service began no upload.")
        upload = _Upload(found[1].decode(), part_bytes)
        _note(source, upload)
    return upload


def _complete(url: str, policy: Policy, upload: _Upload) -> None:
    listed = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>"
        for number, tag in enumerate(upload.tags, 1)
    )
    body = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()
    try:
        with _asked("POST", url, policy, data=body, length=len(body), uploadId=upload.id) as answer:
            said = answer.read(1 << 16)
    except InvalidInputError as error:
        # Completed by an attempt that was killed before it heard so, an upload is no longer there.
        if web.code(error) == 404 and _tag(url, policy) == _whole(upload.tags):
            return
        raise
    if b"<Error>" in said:  # with status 200: the service did not know yet when it began to answer
        raise UnavailableError(f"{shown(url)}: the service did not complete the upload.", remedy="Repeat it.")


def _tag(url: str, policy: Policy) -> str:
    headers = {"Range": "bytes=0-0"}
    with web.opened("GET", address(url, policy), reachable(policy), headers) as answer:
        return (answer.headers.get("ETag") or "").strip('"')


def _whole(tags: list[str]) -> str:
    """Return the tag of an object made of parts with these."""
    try:
        joined = hashlib.md5(b"".join(map(bytes.fromhex, tags)), usedforsecurity=False)
    except ValueError:
        return "unknown"  # the service's tags are no MD5
    return f"{joined.hexdigest()}-{len(tags)}"


@contextlib.contextmanager
def _asked(
    method: str, url: str, policy: Policy, *, data: object = None, length: int | None = None, **query: str
) -> Iterator[web.Answer]:
    headers = {} if length is None else {"Content-Length": str(length)}
    # An empty type: without one, the library says that a body is a form.
    headers |= {"Content-Type": "application/octet-stream"} if data is not None else {}
    where = address(url, policy, method, **query)
    with web.opened(method, where, reachable(policy), headers, data) as answer:
        yield answer


def _piece(fd: int, start: int, length: int, told: Callable[[int], None]) -> Iterator[bytes]:
    end = start + length
    while start < end:
        told(start)
        data = os.pread(fd, min(CHUNK_BYTES, end - start), start)
        if not data:
            return
        start += len(data)
        yield data
    told(end)


def _journal(source: Path) -> Path:
    return source.with_name(f"{source.name}.parts")


def _note(source: Path, upload: _Upload) -> None:
    new = source.with_name(f"{source.name}.parts-new")
    new.write_bytes(msgspec.json.encode(upload))
    new.rename(_journal(source))


def _noted(source: Path) -> _Upload | None:
    try:
        return msgspec.json.decode(_journal(source).read_bytes(), type=_Upload)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None  # what a crash of the machine left is begun anew


def _credentials(store: S3) -> tuple[str, str]:
    where = f"images.s3.credentials_file: {store.credentials_file}"
    try:
        lines = Path(store.credentials_file).read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where} cannot be read: {error.__class__.__name__}.") from error
    if len(lines) != 2:
        raise ConfigError(f"{where} must hold two lines: the access key's id, and its secret.")
    return lines[0], lines[1]


def _quoted(text: str) -> str:
    return parse.quote(text, safe="-_.~")
