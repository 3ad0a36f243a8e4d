"""Signatures of requests to S3 (AWS Signature Version 4), with the day's key kept: a few µs a request."""

import functools
import hashlib
import hmac
import time
from typing import NamedTuple
from urllib.parse import quote

UNSIGNED = "UNSIGNED-PAYLOAD"


class Credentials(NamedTuple):
    """Whom the store knows. Never logged: `repr` leaves the secret out."""

    access_key: str
    secret_key: str
    token: str = ""
    expires: float = float("inf")
    """When, as `time.time` has it."""

    def __repr__(self) -> str:
        """Name the access key only."""
        return f"Credentials({self.access_key!r})"


def query(pairs: dict[str, str]) -> str:
    """Return a query string in canonical order."""
    return "&".join(f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in sorted(pairs.items()))


def sign(
    credentials: Credentials,
    region: str,
    method: str,
    path: str,
    search: str,
    headers: dict[str, str],
    payload: str = UNSIGNED,
    now_s: float | None = None,
) -> dict[str, str]:
    """Return the headers with date and signature. All of them are signed, `host` too.

    Their names are in lower case, and their values have no spaces around them. `now_s` counts from 1970.
    """
    moment = _moment(int(time.time() if now_s is None else now_s))
    scope, credential, key = _day(credentials, region, moment[:8])
    signed = {**headers, "x-amz-date": moment, "x-amz-content-sha256": payload}
    if credentials.token:
        signed["x-amz-security-token"] = credentials.token
    ordered = sorted(signed)
    names = ";".join(ordered)
    lines = "".join([f"{name}:{signed[name]}\n" for name in ordered])
    canonical = f"{method}\n{path}\n{search}\n{lines}\n{names}\n{payload}"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{digest}"
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    signed["authorization"] = f"{credential}, SignedHeaders={names}, Signature={signature}"
    del signed["host"]
    return signed


@functools.lru_cache(4)
def _moment(now_s: int) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_s))


@functools.lru_cache(16)
def _day(credentials: Credentials, region: str, day: str) -> tuple[str, str, bytes]:
    """Return the scope, what says whose signature it is, and the key."""
    scope = f"{day}/{region}/s3/aws4_request"
    key = f"AWS4{credentials.secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return scope, f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}", key
