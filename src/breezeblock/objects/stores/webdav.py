"""WebDAV as Apache's mod_dav has it (RFC 4918), which also writes ranges: `PUT` with `Content-Range`.

Most other servers take such a PUT for a whole object, or ignore conditions; the probe finds out.

Apache looks at `If-None-Match` and then writes: of two who create at one moment, both may be told that they
won (seen in one race of ten). So creating is no fence here, and the layout log cannot use it.
"""

from urllib.parse import unquote, urlsplit

from breezeblock.errors import NotFoundError
from breezeblock.objects.stores.answers import expect
from breezeblock.objects.stores.elements import records
from breezeblock.objects.stores.port import Body, Item, Page, Traits, is_key
from breezeblock.objects.stores.web import WebStore

_WANTED = (
    b'<?xml version="1.0"?><D:propfind xmlns:D="DAV:"><D:prop><D:getcontentlength/><D:resourcetype/>'
    b"</D:prop></D:propfind>"
)
MAX_LISTING_BYTES = 64 << 20


class WebDavStore(WebStore):
    """Objects below a URL of a WebDAV server."""

    traits = Traits(ranged_write=True, listing=True)

    async def put(self, key: str, body: Body, *, create: bool = False, match: str = "") -> None:
        """Store an object; the collections above it are made when they turn out to be missing."""
        headers = {**self.headers, **({"If-None-Match": "*"} if create else {})}
        if match:
            headers["If-Match"] = match
        reply = await self.client.request("PUT", self.target(key), headers, body)
        if reply.status in {403, 404, 409}:
            await self._collections(key)
            reply = await self.client.request("PUT", self.target(key), headers, body)
        expect(reply, f"PUT {key}", 200, 201, 204, create=create)

    async def put_range(self, key: str, offset: int, body: Body) -> None:
        """Change bytes. The condition keeps an absent object absent."""
        headers = {
            **self.headers,
            "Content-Range": f"bytes {offset}-{offset + len(body) - 1}/*",
            "If-Match": "*",
        }
        reply = await self.client.request("PUT", self.target(key), headers, body)
        if reply.status == 412:
            raise NotFoundError(f"{key} is not there.")
        expect(reply, f"PUT part of {key}", 200, 204)

    async def delete(self, key: str) -> None:
        """Remove an object."""
        reply = await self.client.request("DELETE", self.target(key), self.headers)
        expect(reply, f"DELETE {key}", 200, 202, 204, 404)

    async def page(self, prefix: str, after: str = "") -> Page:
        """List collection by collection: few servers allow an infinite depth."""
        folders = [prefix.rpartition("/")[0]]
        items: list[Item] = []
        while folders:
            folder = folders.pop()
            for name, length in await self._members(folder):
                key = f"{folder}/{name}".lstrip("/")
                if not is_key(key):
                    continue  # a stranger's, which we could not ask for; or the folder itself
                if length is None:
                    if key.startswith(prefix) or prefix.startswith(f"{key}/"):
                        folders.append(key)
                elif key.startswith(prefix):
                    items.append(Item(key, length))
        return Page(items)

    async def _members(self, folder: str) -> list[tuple[str, int | None]]:
        path = f"{self.client.path}/{folder}".rstrip("/") + "/"
        headers = {**self.headers, "Depth": "1", "Content-Type": "application/xml"}
        reply = await self.client.request("PROPFIND", path, headers, _WANTED, limit=MAX_LISTING_BYTES)
        if reply.status == 404:
            return []
        found: list[tuple[str, int | None]] = []
        for record in records(expect(reply, f"PROPFIND {path}", 207).body, "response")[:-1]:
            seen = unquote(urlsplit(record.get("href", "")).path).rstrip("/")
            if seen.startswith(path):
                length = record.get("getcontentlength", "").strip()
                collection = "collection" in record or not length.isdecimal()
                found.append((seen[len(path) :], None if collection else int(length)))
        return found

    async def _collections(self, key: str) -> None:
        parts = key.split("/")[:-1]
        for count in range(1, len(parts) + 1):
            path = f"{self.client.path}/{'/'.join(parts[:count])}/"
            reply = await self.client.request("MKCOL", path, self.headers)
            expect(reply, f"MKCOL {path}", 201, 405, 409, 301)
