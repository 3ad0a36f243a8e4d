"""A flat volume as a block device: each request of a client becomes one of the store."""

import asyncio
import errno
from collections.abc import Sequence
from functools import partial

from breezeblock.errors import ConflictError, CorruptError
from breezeblock.objects.flat.lock import Lock
from breezeblock.objects.flat.order import Order
from breezeblock.objects.flat.watch import lost
from breezeblock.objects.nbd.device import DATA, Data, Extent, Soon
from breezeblock.objects.stores.port import Sized, Store

_STEP = 4 << 20


class FlatDevice:
    """One volume, open for writing. What is answered is in the store, so a flush has nothing to do."""

    preferred_bytes = 4096
    read_only = False

    def __init__(self, store: Store, key: str, length: int, lock: Lock) -> None:
        self.store, self.length = store, length
        self.minimum_bytes = store.traits.alignment
        self.failed: ConflictError | None = None
        """What ended it: the volume was taken over."""
        self._key, self._lock, self._order = key, lock, Order()
        self._watch = asyncio.ensure_future(lost(lock.check))
        self._watch.add_done_callback(self._ended)

    def read(self, offset: int, length: int) -> Soon[Data | list[Data]]:
        """Ask the store."""
        self.check()
        return self._read(offset, length)

    async def _read(self, offset: int, length: int) -> Data | list[Data]:
        data = await self.store.get(self._key, offset, length)
        if len(data) < length:
            raise CorruptError(f"{self._key} ends at byte {offset + len(data)} of {self.length}.")
        return data

    def write(self, offset: int, data: memoryview, *, fua: bool = False) -> Soon[None]:
        """Change a part of the object."""
        self.check()
        return self._order.behind(offset, len(data), partial(self.store.put_range, self._key, offset, data))

    def flush(self) -> None:
        """Nothing: what was answered is in the store."""
        self.check()

    def trim(self, offset: int, length: int, *, fua: bool = False) -> Soon[None]:
        """Give room back where the store can."""
        if self.store.traits.holes:
            return self.zero(offset, length, fua=fua)
        return None

    def zero(
        self, offset: int, length: int, *, fua: bool = False, may_trim: bool = True, fast: bool = False
    ) -> Soon[None]:
        """Make holes where the store can, else write zeros."""
        self.check()
        holes = self.store.traits.holes and may_trim
        if fast and not holes:
            raise OSError(errno.ENOTSUP, "zeros have to be written")
        return self._order.behind(
            offset, length, partial(self._clear if holes else self._zeros, offset, length)
        )

    async def _clear(self, offset: int, length: int) -> None:
        assert isinstance(self.store, Sized)  # noqa: S101 - who has holes is
        await self.store.clear(self._key, offset, length)

    async def _zeros(self, offset: int, length: int) -> None:
        for at in range(offset, offset + length, _STEP):
            await self.store.put_range(self._key, at, bytes(min(_STEP, offset + length - at)))

    def cache(self, offset: int, length: int) -> None:
        """Nothing: there is no cache."""

    def extents(self, offset: int, length: int, limit: int) -> Soon[Sequence[Extent]]:
        """Say that all is data: a store does not tell what is a hole."""
        return [Extent(length, DATA)]

    async def grow(self, length: int) -> None:
        """Become longer."""
        self.check()
        await stretch(self.store, self._key, length)
        self.length = max(self.length, length)

    async def close(self) -> None:
        """Wait for what is on its way, and give the volume back."""
        await self._order.idle()
        self._watch.cancel()
        await self._lock.release()

    def check(self) -> None:
        """Raise what ended this device, if anything did."""
        if self.failed:
            raise self.failed

    def _ended(self, watch: "asyncio.Task[ConflictError]") -> None:
        if not watch.cancelled():
            self.failed = watch.result()


async def stretch(store: Store, key: str, length: int) -> None:
    """Make an object as long as this if it is shorter; what is new reads as zeros."""
    if (await store.head(key)).length >= length:
        return
    if isinstance(store, Sized):
        await store.resize(key, length)
    else:
        await store.put_range(key, length - 1, b"\0")
