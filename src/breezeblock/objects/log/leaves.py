"""Leaves of the map in the store: each is an object that is never changed."""

import asyncio
from array import array
from collections.abc import Callable

from breezeblock.objects.log import format as form
from breezeblock.objects.log.pages import Frozen
from breezeblock.objects.log.together import each
from breezeblock.objects.stores.port import Store, judged

_AT_ONCE = 4
"""So many are in memory beside those that the map keeps there."""


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
