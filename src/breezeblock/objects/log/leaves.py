"""Leaves of the map in the store: each is an object that is never changed."""

import asyncio
import contextlib
from array import array
from collections.abc import Callable

from breezeblock.errors import BreezeblockError
from breezeblock.objects.log import format as form
from breezeblock.objects.log.pages import Frozen, PageMap
from breezeblock.objects.log.sharing import Shared
from breezeblock.objects.log.together import each
from breezeblock.objects.stores.port import Store, judged

_AT_ONCE = 4
"""So many are in memory beside those that the map keeps there."""
_WARM = 16
"""So many are fetched before anybody reads, the whole map of a small volume; half of what is kept at most."""


async def fetch(store: Store, root: form.Root, ref: tuple[int, int]) -> "array[int]":
    """Return a leaf. Raises CorruptError, NotFoundError."""
    key = form.leaf_key(root.sources[ref[0]], ref[1])
    return await judged(store, key, lambda data: form.unpack_leaf(data, key))


async def store(
    store: Store,
    root: form.Root,
    frozen: dict[int, Frozen],
    refs: dict[int, tuple[int, int]],
    new_ref: Callable[[], int],
) -> dict[int, tuple[int, int]]:
    """Store leaves and return where; those that are nothing but holes are left out.

    `refs` is where they were, for what was changed without being fetched.
    """
    stored: dict[int, tuple[int, int]] = {}

    async def put(number: int, one: Frozen) -> None:
        base = one.base
        if base is None and not one.blank:
            base = await fetch(store, root, refs[number])
        body = await asyncio.to_thread(form.pack_changed, base, one.changes)
        if body:
            ref = new_ref()
            await store.put(form.leaf_key(root.volume, ref), body)
            stored[number] = (root.own, ref)

    await each((put(number, one) for number, one in frozen.items()), _AT_ONCE)
    return stored


class Fetcher:
    """Brings leaves of one volume into its map."""

    def __init__(self, store: Store, root: form.Root, pages: PageMap) -> None:
        self._store, self._root, self._pages = store, root, pages
        self._coming = Shared(self._bring)
        self._warming: asyncio.Task[None] | None = None

    async def bring(self, number: int) -> None:
        """Have a leaf in memory. Raises CorruptError, NotFoundError."""
        await self._coming.get(number)

    async def _bring(self, number: int) -> None:
        ref = self._pages.refs.get(number)
        if ref is not None:
            self._pages.fetched(number, ref, await fetch(self._store, self._root, ref))

    def warm(self) -> None:
        """Begin to fetch the first leaves, so that the first reads need not wait for them."""
        self._warming = asyncio.ensure_future(self._warm())

    async def _warm(self) -> None:
        for number in sorted(self._pages.refs)[: min(_WARM, self._pages.limit // 2)]:
            if self._pages.at(number) is None:
                with contextlib.suppress(BreezeblockError):  # whoever reads it meets the error
                    await self.bring(number)

    async def stop(self) -> None:
        """Give up what is on its way."""
        if self._warming:
            self._warming.cancel()
            await asyncio.gather(self._warming, return_exceptions=True)
        await self._coming.stop()
