"""Of several who want the same thing at one moment, one fetches it."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class Shared(Generic[_K, _V]):
    """What is being fetched now, by key. Nothing is kept: that is for `fetch` to do."""

    def __init__(self, fetch: Callable[[_K], Awaitable[_V]]) -> None:
        self._fetch = fetch
        self._coming: dict[_K, asyncio.Future[_V]] = {}

    async def get(self, key: _K) -> _V:
        """Return what is fetched, with all others who want it now; raises what `fetch` raises."""
        coming = self._coming.get(key)
        if coming is None:
            coming = self._coming[key] = asyncio.ensure_future(self._fetch(key))
            coming.add_done_callback(lambda done: self._came(key, done))
        # One that gives up must not take the others' answer away.
        return await asyncio.shield(coming)

    def _came(self, key: _K, done: "asyncio.Future[_V]") -> None:
        del self._coming[key]
        if not done.cancelled():
            done.exception()  # perhaps nobody waits any more

    async def stop(self) -> None:
        """Give up what is on its way."""
        coming = list(self._coming.values())
        for one in coming:
            one.cancel()
        await asyncio.gather(*coming, return_exceptions=True)
