"""A store in memory: for tests, and for volumes that may vanish."""

import hashlib

from breezeblock.errors import NotFoundError
from breezeblock.objects.stores.port import Body, ChangedError, ExistsError, Item, Page, Traits, checked


class MemoryStore:
    """All verbs, none of which waits: atomic because nothing else runs meanwhile."""

    traits = Traits(create_only=True, conditional=True, ranged_write=True, listing=True, host_local=True)

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    async def get(self, key: str, first: int = 0, length: int | None = None) -> bytes:
        """Return bytes of an object."""
        body = self._body(key)
        return body[first:] if length is None else body[first : first + length]

    async def put(self, key: str, body: Body, *, create: bool = False, match: str = "") -> None:
        """Store an object."""
        if create and checked(key) in self.objects:
            raise ExistsError(f"{key} exists.")
        if match and match != (await self.head(key)).tag:
            raise ChangedError(f"{key} was changed.")
        self.objects[checked(key)] = bytes(body)

    async def put_range(self, key: str, offset: int, body: Body) -> None:
        """Change bytes of an object."""
        old = self._body(key)
        self.objects[key] = old[:offset].ljust(offset, b"\0") + bytes(body) + old[offset + len(body) :]

    async def delete(self, key: str) -> None:
        """Remove an object."""
        self.objects.pop(checked(key), None)

    async def head(self, key: str) -> Item:
        """Tell an object's length and tag."""
        body = self._body(key)
        return Item(key, len(body), hashlib.sha256(body).hexdigest())

    async def page(self, prefix: str, after: str = "") -> Page:
        """List what begins with a prefix."""
        return Page([Item(key, len(body)) for key, body in self.objects.items() if key.startswith(prefix)])

    async def close(self) -> None:
        """Nothing is open."""

    def _body(self, key: str) -> bytes:
        try:
            return self.objects[checked(key)]
        except KeyError:
            raise NotFoundError(f"{key} is not there.") from None
