"""S3: conditional puts (`If-None-Match`, `If-Match`), ranged reads, paged listings."""

import asyncio
import contextlib
import datetime as dt
import hashlib
import ssl
import time
from collections.abc import Callable

from breezeblock.errors import BreezeblockError, ConfigError, UnsupportedError
from breezeblock.objects.http.client import Client, Reply
from breezeblock.objects.stores import elements, sigv4
from breezeblock.objects.stores.answers import CLOCKS_AGREE, clock_ahead, expect, part, part_of, seen
from breezeblock.objects.stores.credentials import found
from breezeblock.objects.stores.metadata import EARLY_S
from breezeblock.objects.stores.port import MAX_OBJECT_BYTES, Body, Item, Page, Traits, checked

MAX_LISTING_BYTES = 4 << 20
_LARGE_BYTES = 1 << 18
_LOOK_S = 30.0
"""Where there are no fresher credentials yet, it is looked again after this."""


class S3Store:
    """A bucket, or the keys under a prefix of it: the URL is `https://host/bucket[/prefix]`."""

    traits = Traits(create_only=True, conditional=True, listing=True)

    def __init__(
        self,
        url: str,
        *,
        region: str = "us-east-1",
        credentials: Callable[[], sigv4.Credentials] = found,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.client = Client(url, context=context)
        bucket, _, prefix = self.client.path.lstrip("/").partition("/")
        if not bucket:
            raise ConfigError("The URL names no bucket.", remedy="Write https://host/bucket[/prefix].")
        self._bucket, self._prefix = f"/{bucket}", f"{prefix}/" if prefix else ""
        self._region, self._find = region, credentials
        self._credentials = credentials()
        self._look_at = 0.0
        self._ahead = dt.timedelta(0)
        """How far the server's clock is ahead of ours."""

    async def get(self, key: str, first: int = 0, length: int | None = None) -> bytes:
        """Return bytes of an object."""
        if length is None and not first:
            reply = await self._request("GET", key, limit=MAX_OBJECT_BYTES)
            return expect(reply, f"GET {key}", 200).body
        if length == 0:
            return b""
        return part(await self._part(key, first, length), key, first, length or MAX_OBJECT_BYTES)

    async def get_same(self, item: Item, first: int, length: int) -> bytes:
        """Return bytes of an object that is what it was. Raises ChangedError."""
        return part_of(await self._part(item.key, first, length), item, first, length)

    async def _part(self, key: str, first: int, length: int | None) -> Reply:
        last = "" if length is None else first + length - 1
        limit = (length or MAX_OBJECT_BYTES) + (64 << 10)
        return await self._request("GET", key, {"range": f"bytes={first}-{last}"}, limit=limit)

    async def put(self, key: str, body: Body, *, create: bool = False, match: str = "") -> None:
        """Store an object. Its SHA-256 is signed, so that what arrives is what was sent."""
        headers = {"if-none-match": "*"} if create else {"if-match": match} if match else {}
        # Without the interpreter's lock: the loop goes on while 4 MiB are hashed.
        large = len(body) > _LARGE_BYTES
        payload = await asyncio.to_thread(_digest, body) if large else _digest(body)
        reply = await self._request("PUT", key, headers, body, payload=payload)
        expect(reply, f"PUT {key}", 200, create=create)

    async def put_range(self, key: str, offset: int, body: Body) -> None:
        """Refuse: S3 changes no part of an object."""
        raise UnsupportedError("S3 changes no part of an object.", remedy="Use the layout log.")

    async def delete(self, key: str) -> None:
        """Remove an object."""
        expect(await self._request("DELETE", key), f"DELETE {key}", 200, 204, 404)

    async def head(self, key: str) -> Item:
        """Tell length, tag and when it was changed."""
        reply = expect(await self._request("HEAD", key), f"HEAD {key}", 200)
        return seen(reply, key, int(reply.headers.get("content-length", "0")))

    async def page(self, prefix: str, after: str = "") -> Page:
        """List up to 1,000 objects (ListObjectsV2)."""
        pairs = {"list-type": "2", "prefix": self._prefix + prefix}
        if after:
            pairs["continuation-token"] = after
        reply = await self._send("GET", self._bucket, sigv4.query(pairs), {}, b"", MAX_LISTING_BYTES)
        found = elements.records(expect(reply, f"List {prefix}", 200).body, "Contents")
        items = [elements.item(one, self._prefix, "Key", "Size", "ETag") for one in found[:-1]]
        return Page(items, found[-1].get("NextContinuationToken", ""))

    @property
    def connections(self) -> int:
        """How many are open."""
        return self.client.connections

    async def close(self) -> None:
        """End all connections."""
        await self.client.close()

    async def _request(
        self,
        method: str,
        key: str,
        headers: dict[str, str] | None = None,
        body: Body = b"",
        *,
        limit: int = 1 << 20,
        payload: str = sigv4.UNSIGNED,
    ) -> Reply:
        path = f"{self._bucket}/{self._prefix}{checked(key)}"
        return await self._send(method, path, "", headers or {}, body, limit, payload)

    async def _send(
        self,
        method: str,
        path: str,
        search: str,
        headers: dict[str, str],
        body: Body,
        limit: int,
        payload: str = sigv4.UNSIGNED,
    ) -> Reply:
        target = f"{path}?{search}" if search else path
        await self._renew()
        for last in (False, True):
            full = {"host": self.client.authority, **headers}
            now_s = time.time() + self._ahead.total_seconds()
            signed = sigv4.sign(self._credentials, self._region, method, path, search, full, payload, now_s)
            reply = await self.client.request(method, target, signed, body, limit=limit)
            if reply.status == 400 and (method == "HEAD" or b"<Code>ExpiredToken<" in reply.body):
                reply = reply._replace(status=401)
            if reply.status not in {401, 403} or last:
                break
            # Credentials that rotate, or a clock that is wrong: look once more, and sign anew.
            fresh, ahead = await asyncio.to_thread(self._find), clock_ahead(reply)
            if fresh == self._credentials and abs(ahead - self._ahead) < CLOCKS_AGREE:
                break
            self._credentials, self._ahead = fresh, ahead
        return reply

    async def _renew(self) -> None:
        """Replace credentials that expire soon. One request waits, the others use those there are."""
        now = time.time()
        if now < max(self._look_at, self._credentials.expires - EARLY_S):
            return
        self._look_at = now + _LOOK_S
        with contextlib.suppress(BreezeblockError):  # the store will say when they are no good any more
            self._credentials = await asyncio.to_thread(self._find)


def _digest(body: Body) -> str:
    return hashlib.sha256(body).hexdigest()
