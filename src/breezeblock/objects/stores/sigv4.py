"""Signatures of requests to S3 (AWS Signature Version 4), with the day's key kept: a few µs a request."""

import datetime as dt
import functools
import hashlib
import hmac
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
    now: dt.datetime | None = None,
) -> dict[str, str]:
    """Return the headers with date and signature. All of them are signed, `Host` too."""
    moment = (now or dt.datetime.now(dt.UTC)).strftime("%Y%m%dT%H%M%SZ")
    signed = {name.lower(): value.strip() for name, value in headers.items()}
    signed |= {"x-amz-date": moment, "x-amz-content-sha256": payload}
    if credentials.token:
        signed["x-amz-security-token"] = credentials.token
    names = ";".join(sorted(signed))
    lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
    canonical = f"{method}\n{path}\n{search}\n{lines}\n{names}\n{payload}"
    scope = f"{moment[:8]}/{region}/s3/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{digest}"
    key = _day_key(credentials.secret_key, moment[:8], region)
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    signed["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, SignedHeaders={names}, "
        f"Signature={signature}"
    )
    del signed["host"]
    return signed


@functools.lru_cache(16)
def _day_key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
