"""Objects at URLs, read only: base images on any HTTP server. WebDAV and CDMI build upon it."""

import base64
import ssl

from breezeblock.errors import UnsupportedError
from breezeblock.objects.http.client import Client, Reply
from breezeblock.objects.stores.answers import expect, part, part_of, seen
from breezeblock.objects.stores.port import MAX_OBJECT_BYTES, Body, Item, Page, Traits, checked


class WebStore:
    """Objects below a URL."""

    traits = Traits(writable=False)

    def __init__(
        self, url: str, *, user: str = "", password: str = "", context: ssl.SSLContext | None = None
    ) -> None:
        self.client = Client(url, context=context)
        self.headers: dict[str, str] = {}
        if user:
            pair = base64.b64encode(f"{user}:{password}".encode()).decode()
            self.headers["Authorization"] = f"Basic {pair}"

    def target(self, key: str) -> str:
        """Return the path of a key."""
        return f"{self.client.path}/{checked(key)}"

    async def get(self, key: str, first: int = 0, length: int | None = None) -> bytes:
        """Return bytes of an object."""
        if length is None and not first:
            reply = await self.client.request("GET", self.target(key), self.headers, limit=MAX_OBJECT_BYTES)
            return expect(reply, f"GET {key}", 200).body
        if length == 0:
            return b""
        return part(await self._part(key, first, length), key, first, length or MAX_OBJECT_BYTES)

    async def get_same(self, item: Item, first: int, length: int) -> bytes:
        """Return bytes of an object that is what it was. Raises ChangedError."""
        return part_of(await self._part(item.key, first, length), item, first, length)

    async def _part(self, key: str, first: int, length: int | None) -> Reply:
        last = "" if length is None else first + length - 1
        headers = {**self.headers, "Range": f"bytes={first}-{last}"}
        limit = (length or MAX_OBJECT_BYTES) + (64 << 10)
        return await self.client.request("GET", self.target(key), headers, limit=limit)

    async def head(self, key: str) -> Item:
        """Tell length, tag and when it was changed; a weak tag counts as none."""
        reply = expect(
            await self.client.request("HEAD", self.target(key), self.headers), f"HEAD {key}", 200, 204
        )
        length = reply.headers.get("content-length", "")
        if not length.isdecimal():
            length = await self._length(key)  # Apache does not tell that of an empty object
        return seen(reply, key, int(length))

    async def _length(self, key: str) -> str:
        """Return what the answer to a GET of the first byte says of the whole (RFC 9110, 14.4)."""
        headers = {**self.headers, "Range": "bytes=0-0"}
        reply = await self.client.request("GET", self.target(key), headers)
        if reply.status == 200 and not reply.body:
            return "0"
        whole = expect(reply, f"GET {key}", 206, 416).headers.get("content-range", "").rpartition("/")[2]
        if not whole.isdecimal():
            raise UnsupportedError(f"HEAD {key}: the store does not tell a length.")
        return whole

    async def put(self, key: str, body: Body, *, create: bool = False, match: str = "") -> None:
        """Refuse."""
        raise UnsupportedError("This store is read-only.")

    async def put_range(self, key: str, offset: int, body: Body) -> None:
        """Refuse."""
        raise UnsupportedError("This store is read-only.")

    async def delete(self, key: str) -> None:
        """Refuse."""
        raise UnsupportedError("This store is read-only.")

    async def page(self, prefix: str, after: str = "") -> Page:
        """Refuse."""
        raise UnsupportedError("A plain HTTP server does not list.")

    @property
    def connections(self) -> int:
        """How many are open."""
        return self.client.connections

    async def close(self) -> None:
        """End all connections."""
        await self.client.close()
