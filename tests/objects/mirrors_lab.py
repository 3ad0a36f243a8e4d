"""An event loop whose clock jumps to whatever is due next, and stores that misbehave by plan."""

import asyncio
import random
import selectors
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from breezeblock.errors import BreezeblockError, ConflictError
from breezeblock.objects.mirrors import Gate, Mirrors, Policy
from breezeblock.objects.stores.memory import MemoryStore
from breezeblock.objects.stores.port import Body, Store

_T = TypeVar("_T")


class _Selector(selectors.SelectSelector):
    """Never waits: the time that the loop wanted to wait is over at once."""

    skipped = 0.0

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        if not found:
            self.skipped += timeout or 0
        return found


class Jumping(asyncio.SelectorEventLoop):
    """Hours pass in milliseconds, always in the same order."""

    def __init__(self) -> None:
        self._jumps = _Selector()
        super().__init__(self._jumps)

    def time(self) -> float:
        return 1000 + self._jumps.skipped


def run(work: Awaitable[_T]) -> _T:
    async def main() -> _T:
        return await work

    with asyncio.Runner(loop_factory=Jumping) as runner:
        return runner.run(main())


def now() -> float:
    return asyncio.get_running_loop().time()


class Flaky:
    """One endpoint of a store in memory; fails by plan, before or after a request has its effect."""

    def __init__(self, inner: MemoryStore, name: str) -> None:
        self.inner, self.name = inner, name
        self.traits = inner.traits
        self.delay_s: float = 0.01
        self.before: Callable[[str], BreezeblockError | None] = lambda _: None
        self.after: Callable[[str], BreezeblockError | None] = lambda _: None
        self.taint: Callable[[bytes], bytes] = lambda data: data
        self.asked: list[str] = []
        self.shows = True
        self.closed = 0

    async def _do(self, verb: str, work: Callable[[], Awaitable[_T]]) -> _T:
        self.asked.append(verb)
        await asyncio.sleep(self.delay_s)
        if error := self.before(verb):
            raise error
        result = await work()
        if error := self.after(verb):
            raise error
        return result

    async def get(self, key: str, first: int = 0, length: int | None = None) -> bytes:
        return self.taint(await self._do("get", lambda: self.inner.get(key, first, length)))

    async def put(self, key: str, body: Body, *, create: bool = False, match: str = "") -> None:
        await self._do("put", lambda: self.inner.put(key, body, create=create, match=match))

    async def put_range(self, key: str, offset: int, body: Body) -> None:
        await self._do("put_range", lambda: self.inner.put_range(key, offset, body))

    async def delete(self, key: str) -> None:
        await self._do("delete", lambda: self.inner.delete(key))

    async def head(self, key: str) -> Any:
        return await self._do("head", lambda: self.inner.head(key))

    async def page(self, prefix: str, after: str = "") -> Any:
        return await self._do("page", lambda: self.inner.page(prefix, after))

    async def close(self) -> None:
        self.closed += 1


class Lab:
    """Mirrors over some endpoints of one store."""

    def __init__(self, count: int = 3, *, seed: int = 1, **policy: Any) -> None:
        self.inner = MemoryStore()
        self.ends = {f"e{number}": Flaky(self.inner, f"e{number}") for number in range(count)}
        self.made: list[str] = []
        self.mirrors = Mirrors(
            list(self.ends),
            self._make,
            Gate(self._prove, self._qualify),
            policy=Policy(**policy),
            dice=random.Random(seed),
        )
        self.qualified: list[str] = []

    def _make(self, url: str) -> Store:
        self.made.append(url)
        return self.ends[url]

    async def _prove(self, store: Store) -> None:
        assert isinstance(store, Flaky)
        await store._do("prove", lambda: asyncio.sleep(0))
        if not store.shows:
            raise ConflictError(f"{store.name} is another pool.")

    async def _qualify(self, store: Store, url: str) -> None:
        self.qualified.append(url)

    def states(self) -> list[str]:
        return [one.state for one in self.mirrors.status().endpoints]

    def counts(self, verb: str) -> list[int]:
        return [end.asked.count(verb) for end in self.ends.values()]
