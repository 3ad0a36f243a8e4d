"""CDMI 1.0.2 and 1.1 (ISO/IEC 17826): plain bodies for data, JSON for containers.

Ranges are written in the standard's way (`Content-Range`), or as Scality's servers once took them (`Range`
on a PUT, length by `X-Scal-Truncate`). To a server of the other kind the latter replaces the whole object,
so a pool says which dialect it speaks and the probe makes sure.
"""

import ssl
from typing import Literal

import msgspec

from breezeblock.errors import NotFoundError, UnavailableError
from breezeblock.objects.stores.answers import expect
from breezeblock.objects.stores.port import Body, Item, Page, Room, Traits, is_key
from breezeblock.objects.stores.web import WebStore

VERSIONS = "1.0.2,1.1"
_CONTAINER = "application/cdmi-container"
MAX_LISTING_BYTES = 64 << 20
USED, AVAILABLE = "quota-used-bytes", "quota-available-bytes"


class _Children(msgspec.Struct):
    children: list[str] = []


class _Described(msgspec.Struct):
    metadata: dict[str, str] = {}


class CdmiStore(WebStore):
    """Objects below a container's URL."""

    traits = Traits(create_only=True, ranged_write=True, listing=True)

    def __init__(
        self,
        url: str,
        *,
        dialect: Literal["standard", "scality"] = "standard",
        user: str = "",
        password: str = "",
        context: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(url, user=user, password=password, context=context)
        self._dialect = dialect

    async def put(self, key: str, body: Body, *, create: bool = False, match: str = "") -> None:
        """Store an object; the containers above it are made when they turn out to be missing."""
        headers = {**self.headers, "Content-Type": "application/octet-stream"}
        headers |= {"If-None-Match": "*"} if create else {}
        headers |= {"If-Match": match} if match else {}
        reply = await self.client.request("PUT", self.target(key), headers, body)
        if reply.status == 404:
            await self._containers(key)
            reply = await self.client.request("PUT", self.target(key), headers, body)
        expect(reply, f"PUT {key}", 200, 201, 204, create=create)

    async def put_range(self, key: str, offset: int, body: Body) -> None:
        """Change bytes."""
        span = f"{offset}-{offset + len(body) - 1}"
        headers = {**self.headers, "Content-Type": "application/octet-stream", "If-Match": "*"}
        headers |= (
            {"Range": f"bytes={span}"} if self._dialect == "scality" else {"Content-Range": f"bytes {span}/*"}
        )
        reply = await self.client.request("PUT", self.target(key), headers, body)
        if reply.status == 412:
            raise NotFoundError(f"{key} is not there.")
        expect(reply, f"PUT part of {key}", 204)

    async def delete(self, key: str) -> None:
        """Remove an object."""
        reply = await self.client.request("DELETE", self.target(key), self.headers)
        expect(reply, f"DELETE {key}", 200, 204, 404)

    async def resize(self, key: str, length: int, *, create: bool = False) -> None:
        """Give an object a length: by Scality's header, or by a byte at its end."""
        if create:
            await self.put(key, b"", create=True)
        if self._dialect == "scality":
            headers = {**self.headers, "X-Scal-Truncate": str(length)}
            expect(await self.client.request("PUT", self.target(key), headers), f"PUT {key}", 200, 201, 204)
        elif (await self.head(key)).length < length:
            await self.put_range(key, length - 1, b"\0")

    async def clear(self, key: str, offset: int, length: int) -> None:
        """Write zeros: the standard knows no holes that come back."""
        step = 4 << 20
        for at in range(offset, offset + length, step):
            await self.put_range(key, at, bytes(min(step, offset + length - at)))

    async def page(self, prefix: str, after: str = "") -> Page:
        """List container by container. Children do not tell lengths; -1 stands for unknown."""
        folders = [prefix.rpartition("/")[0]]
        items: list[Item] = []
        while folders:
            folder = folders.pop()
            for child in await self._children(folder):
                key = f"{folder}/{child}".lstrip("/")
                if not is_key(key.removesuffix("/")):
                    continue  # a stranger's, which we could not ask for
                if child.endswith("/"):
                    if key.startswith(prefix) or prefix.startswith(key):
                        folders.append(key[:-1])
                elif key.startswith(prefix):
                    items.append(Item(key, -1))
        return Page(items)

    async def room(self) -> Room | None:
        """Ask the container, which need not know: the standard has no such metadata.

        The names are those that WebDAV has for it (RFC 4331).
        """
        headers = {**self.headers, "Accept": _CONTAINER, "X-CDMI-Specification-Version": VERSIONS}
        reply = await self.client.request("GET", f"{self.client.path}/?metadata", headers)
        try:
            found = msgspec.json.decode(expect(reply, "GET of the metadata", 200).body, type=_Described)
            used, free = (int(found.metadata[name]) for name in (USED, AVAILABLE))
        except (msgspec.DecodeError, KeyError, ValueError):
            return None
        return Room(used + free, free)

    async def _children(self, folder: str) -> list[str]:
        path = f"{self.client.path}/{folder}".rstrip("/") + "/"
        headers = {**self.headers, "Accept": _CONTAINER, "X-CDMI-Specification-Version": VERSIONS}
        reply = await self.client.request("GET", path, headers, limit=MAX_LISTING_BYTES)
        if reply.status == 404:
            return []
        try:
            return msgspec.json.decode(expect(reply, f"GET {path}", 200).body, type=_Children).children
        except msgspec.DecodeError as error:
            raise UnavailableError(f"GET {path}: the answer is no CDMI container: {error}.") from error

    async def _containers(self, key: str) -> None:
        parts = key.split("/")[:-1]
        headers = {**self.headers, "Content-Type": _CONTAINER, "Accept": _CONTAINER}
        headers["X-CDMI-Specification-Version"] = VERSIONS
        for count in range(1, len(parts) + 1):
            path = f"{self.client.path}/{'/'.join(parts[:count])}/"
            expect(await self.client.request("PUT", path, headers, b"{}"), f"PUT {path}", 200, 201, 202, 204)
