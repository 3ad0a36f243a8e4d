"""Azure's blobs: block blobs for objects, page blobs for what is written in parts.

Page blobs have what the layout flat misses elsewhere: a length, holes, snapshots in constant time, and leases
that are a true fence: the store refuses whoever has lost his. Requests are signed with the account's key
(Shared Key, service version 2021-12-02).
"""

import base64
import binascii
import datetime as dt
import hashlib
import hmac
import ssl
import uuid
from email.utils import format_datetime
from urllib.parse import quote

from breezeblock.errors import ConfigError
from breezeblock.objects.http.client import Client, Reply
from breezeblock.objects.stores import elements
from breezeblock.objects.stores.answers import CLOCKS_AGREE, clock_ahead, expect, part
from breezeblock.objects.stores.port import (
    MAX_OBJECT_BYTES,
    Body,
    ChangedError,
    ExistsError,
    Item,
    Page,
    Traits,
    checked,
)

_VERSION = "2021-12-02"
MAX_LISTING_BYTES = 8 << 20
MAX_PAGES_BYTES = 4 << 20
"""The most that one request writes into a page blob."""


class AzureStore:
    """A container, or what lies under a prefix in it.

    The URL is `https://ACCOUNT.blob.core.windows.net/CONTAINER[/PREFIX]`, or, as emulators have it, one whose
    path begins with the account's name. `leases` is shared by all who write through the same lease.
    """

    traits = Traits(
        create_only=True,
        conditional=True,
        ranged_write=True,
        listing=True,
        alignment=512,
        fixed_length=True,
        holes=True,
    )

    def __init__(
        self,
        url: str,
        *,
        user: str,
        password: str,
        leases: dict[str, str] | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.client = Client(url, context=context)
        self.leases = {} if leases is None else leases
        """Ours, by key."""
        self._account = user
        self._ahead = dt.timedelta(0)
        try:
            self._key = base64.b64decode(password, validate=True)
        except binascii.Error:
            raise ConfigError(f"The key of the account {user} is not in Base64.") from None
        parts = self.client.path.strip("/").split("/")
        depth = 2 if parts[0] == user else 1
        if not user or not self._key or len(parts) < depth or not parts[0]:
            raise ConfigError("Azure needs an account, its key, and a container in the URL.")
        self._container = "/" + "/".join(parts[:depth])
        self._prefix = "".join(f"{one}/" for one in parts[depth:])

    # --- objects --------------------------------------------------------------------------------

    async def get(self, key: str, first: int = 0, length: int | None = None) -> bytes:
        """Return bytes of an object."""
        return await self._get(key, {}, first, length)

    async def _get(self, key: str, query: dict[str, str], first: int, length: int | None) -> bytes:
        if length is None and not first:
            reply = await self._send("GET", self._path(key), query, limit=MAX_OBJECT_BYTES)
            return expect(reply, f"GET {key}", 200).body
        most = MAX_OBJECT_BYTES if length is None else length
        if not most:
            return b""
        last = "" if length is None else first + length - 1
        headers = {"range": f"bytes={first}-{last}"}
        reply = await self._send("GET", self._path(key), query, headers, limit=most + (64 << 10))
        return part(reply, key, first, most)

    async def put(self, key: str, body: Body, *, create: bool = False, match: str = "") -> None:
        """Store an object as a block blob."""
        headers = {"x-ms-blob-type": "BlockBlob", "content-type": "application/octet-stream"}
        headers |= {"if-none-match": "*"} if create else {"if-match": match} if match else {}
        await self._change("PUT", key, {}, headers, body, create=create)

    async def put_range(self, key: str, offset: int, body: Body) -> None:
        """Change whole pages of 512 bytes; what is longer than 4 MiB in several steps."""
        view = memoryview(body)
        for at in range(0, len(view), MAX_PAGES_BYTES):
            piece = view[at : at + MAX_PAGES_BYTES]
            await self._pages(key, "update", offset + at, len(piece), piece)

    async def clear(self, key: str, offset: int, length: int) -> None:
        """Make a hole."""
        await self._pages(key, "clear", offset, length, b"")

    async def _pages(self, key: str, what: str, offset: int, length: int, body: bytes | memoryview) -> None:
        headers = {"x-ms-page-write": what, "x-ms-range": f"bytes={offset}-{offset + length - 1}"}
        await self._change("PUT", key, {"comp": "page"}, headers, body)

    async def resize(self, key: str, length: int, *, create: bool = False) -> None:
        """Give a page blob a length; with `create`, make it."""
        headers = {"x-ms-blob-content-length": str(length)}
        if create:
            headers |= {"x-ms-blob-type": "PageBlob", "if-none-match": "*"}
        await self._change("PUT", key, {} if create else {"comp": "properties"}, headers, create=create)

    async def delete(self, key: str) -> None:
        """Remove an object, with snapshots of it that nobody knows: those of attempts that were cut off."""
        headers = {"x-ms-delete-snapshots": "include", **self._leased(key)}
        reply = await self._send("DELETE", self._path(key), {}, headers)
        expect(reply, f"DELETE {key}", 202, 404)

    async def head(self, key: str) -> Item:
        """Tell length and tag."""
        reply = expect(await self._send("HEAD", self._path(key), {}), f"HEAD {key}", 200)
        return Item(key, int(reply.headers.get("content-length", "0")), reply.headers.get("etag", ""))

    async def page(self, prefix: str, after: str = "") -> Page:
        """List up to 5,000 objects."""
        query = {"restype": "container", "comp": "list", "prefix": self._prefix + prefix}
        query |= {"marker": after} if after else {}
        reply = await self._send("GET", self._container, query, limit=MAX_LISTING_BYTES)
        found = elements.records(expect(reply, f"List {prefix}", 200).body, "Blob")
        items = [elements.item(one, self._prefix, "Name", "Content-Length", "Etag") for one in found[:-1]]
        return Page(items, found[-1].get("NextMarker", ""))

    # --- snapshots and leases -------------------------------------------------------------------

    async def snapshot(self, key: str) -> str:
        """Take one; its name is the moment."""
        reply = await self._change("PUT", key, {"comp": "snapshot"})
        return reply.headers["x-ms-snapshot"]

    async def get_snapshot(self, key: str, name: str, first: int, length: int) -> bytes:
        """Read bytes of a snapshot."""
        return await self._get(key, {"snapshot": name}, first, length)

    async def delete_snapshot(self, key: str, name: str) -> None:
        """Remove one."""
        reply = await self._send("DELETE", self._path(key), {"snapshot": name})
        expect(reply, f"DELETE snapshot of {key}", 202, 404)

    async def acquire(self, key: str, *, steal: bool = False) -> str:
        """Take the lease, for good; whoever had it is refused from then on. Raises ChangedError if taken."""
        name = str(uuid.uuid4())
        wanted = {"x-ms-lease-duration": "-1", "x-ms-proposed-lease-id": name}
        reply = await self._lease(key, "acquire", wanted)
        if reply.status == 409 and steal:
            broken = await self._lease(key, "break", {"x-ms-lease-break-period": "0"})
            expect(broken, f"Break the lease of {key}", 202, 409)
            reply = await self._lease(key, "acquire", wanted)
        if reply.status == 409:
            raise ChangedError(f"Somebody else has the lease of {key}.")
        expect(reply, f"Lease {key}", 201)
        self.leases[key] = name
        return name

    async def release(self, key: str) -> None:
        """Give the lease back."""
        name = self.leases.get(key, "")
        if name:
            reply = await self._lease(key, "release", {"x-ms-lease-id": name})
            expect(reply, f"Release {key}", 200, 404, 409, 412)
            self.leases.pop(key, None)

    @property
    def connections(self) -> int:
        """How many are open."""
        return self.client.connections

    async def close(self) -> None:
        """End all connections."""
        await self.client.close()

    # --- requests -------------------------------------------------------------------------------

    async def _lease(self, key: str, action: str, headers: dict[str, str]) -> Reply:
        full = {"x-ms-lease-action": action, **headers}
        return await self._send("PUT", self._path(key), {"comp": "lease"}, full)

    def _leased(self, key: str) -> dict[str, str]:
        return {"x-ms-lease-id": self.leases[key]} if key in self.leases else {}

    async def _change(
        self,
        method: str,
        key: str,
        query: dict[str, str],
        headers: dict[str, str] | None = None,
        body: bytes | bytearray | memoryview = b"",
        *,
        create: bool = False,
    ) -> Reply:
        full = {**(headers or {}), **self._leased(key)}
        reply = await self._send(method, self._path(key), query, full, body)
        if reply.status == 409 and create and _code(reply) == "BlobAlreadyExists":
            raise ExistsError(f"{key} exists.")
        if reply.status == 412 and "Lease" in _code(reply):
            raise ChangedError(f"{key} is leased by somebody else.")
        return expect(reply, f"{method} {key}", 200, 201, create=create)

    def _path(self, key: str) -> str:
        return f"{self._container}/{self._prefix}{checked(key)}"

    async def _send(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        headers: dict[str, str] | None = None,
        body: bytes | bytearray | memoryview = b"",
        *,
        limit: int = 1 << 20,
    ) -> Reply:
        search = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
        target = f"{path}?{search}" if search else path
        for last in (False, True):
            moment = format_datetime(dt.datetime.now(dt.UTC) + self._ahead, usegmt=True)
            full = {"x-ms-date": moment, "x-ms-version": _VERSION, **(headers or {})}
            full["authorization"] = self._signature(method, path, query, full, len(body))
            reply = await self.client.request(method, target, full, body, limit=limit)
            if last or reply.status != 403 or abs(clock_ahead(reply) - self._ahead) < CLOCKS_AGREE:
                break
            self._ahead = clock_ahead(reply)  # our clock is wrong: sign anew by the server's
        return reply

    def _signature(
        self, method: str, path: str, query: dict[str, str], headers: dict[str, str], length: int
    ) -> str:
        plain = ("content-type", "date", "if-modified-since", "if-match", "if-none-match")
        lines = [method, "", "", str(length or ""), "", *(headers.get(name, "") for name in plain)]
        lines += ["", headers.get("range", "")]
        lines += [f"{name}:{headers[name]}" for name in sorted(headers) if name.startswith("x-ms-")]
        lines.append(f"/{self._account}{path}")
        lines += [f"{name}:{query[name]}" for name in sorted(query)]
        digest = hmac.digest(self._key, "\n".join(lines).encode(), hashlib.sha256)
        return f"SharedKey {self._account}:{base64.b64encode(digest).decode()}"


def _code(reply: Reply) -> str:
    return reply.headers.get("x-ms-error-code", "")
