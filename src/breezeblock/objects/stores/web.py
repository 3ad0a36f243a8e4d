"""Objects at URLs, read only: base images on any HTTP server. WebDAV and CDMI build upon it."""

import base64
import ssl

from breezeblock.errors import UnsupportedError
from breezeblock.objects.http.client import Client
from breezeblock.objects.stores.answers import expect, part
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
        headers = self.headers
        if length is None and not first:
            reply = await self.client.request("GET", self.target(key), headers, limit=MAX_OBJECT_BYTES)
            return expect(reply, f"GET {key}", 200).body
        most = MAX_OBJECT_BYTES if length is None else length
        if not most:
            return b""
        last = "" if length is None else first + length - 1
        headers = {**headers, "Range": f"bytes={first}-{last}"}
        reply = await self.client.request("GET", self.target(key), headers, limit=most + (64 << 10))
        return part(reply, key, first, most)

    async def head(self, key: str) -> Item:
        """Tell length, tag and when it was changed; a weak tag counts as none."""
        reply = expect(
            await self.client.request("HEAD", self.target(key), self.headers), f"HEAD {key}", 200, 204
        )
        tag = reply.headers.get("etag", "")
        length = reply.headers.get("content-length", "")
        if not length.isdecimal():
            length = await self._length(key)  # Apache does not tell that of an empty object
        weak = tag.startswith("W/")
        return Item(key, int(length), "" if weak else tag, reply.headers.get("last-modified", ""))

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
