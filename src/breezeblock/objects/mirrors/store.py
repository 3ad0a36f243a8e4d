"""The store that is all endpoints together.

A failed attempt is made again elsewhere: at once if there is an endpoint that was not tried, else after a
pause of random length. Reads that are late are asked for a second time at another endpoint, within a budget.
Writes never are: a copy that arrives late would undo what was written since. A write whose answer was lost
is sent again all the same. That is harmless for objects that are only created, as those of the layout log;
`put_range` relies on the server to give up what came over a connection that has ended.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from breezeblock.errors import CorruptError, ForbiddenError, NotFoundError, UnavailableError
from breezeblock.objects.mirrors.endpoint import Endpoint, Kind
from breezeblock.objects.mirrors.group import Gate, Group
from breezeblock.objects.mirrors.pace import Budget, Late
from breezeblock.objects.mirrors.policy import Policy
from breezeblock.objects.mirrors.status import MirrorsStatus
from breezeblock.objects.stores.port import (
    Body,
    ChangedError,
    ExistsError,
    Item,
    Page,
    Sized,
    Store,
    Traits,
    get_same,
)

_T = TypeVar("_T")
_WHOLE_BYTES, _LISTING_BYTES = 8 << 20, 32 << 20
"""What time is allowed for where it is not known how much will come."""


class Mirrors:
    """Endpoints of one store, on one event loop. `open` comes first."""

    def __init__(
        self,
        urls: list[str],
        make: Callable[[str], Store],
        gate: Gate,
        *,
        pool: str = "",
        policy: Policy | None = None,
        dice: random.Random | None = None,
    ) -> None:
        policy = policy or Policy()
        self.pool = pool
        """The pool's UUID."""
        self._policy = policy
        self._dice = dice or random.Random()  # noqa: S311 - nothing secret depends on it
        self._group = Group(urls, make, gate, policy, self._dice)
        self._late, self._budget = Late(), Budget(policy.hedge_share)
        self._now = asyncio.get_running_loop().time
        self._hedges: set[asyncio.Task[bytes]] = set()

    async def open(self) -> None:
        """Return when one endpoint is up. Raises what keeps them away, if all were tried."""
        await self._group.open()

    async def settled(self) -> None:
        """Return when each endpoint has passed, or failed to."""
        await self._group.settled()

    def add(self, url: str) -> None:
        """Use one more endpoint as soon as it has shown the pool's identity and passed its probe."""
        self._group.add(url)

    def remove(self, url: str) -> None:
        """Use an endpoint no more. Raises NotFoundError, ConflictError for the last one."""
        self._group.remove(url)

    def status(self) -> MirrorsStatus:
        """Tell how the endpoints are."""
        return MirrorsStatus(
            pool=self.pool,
            on_no_path=self._policy.on_no_path,
            waiting=self._group.waiting,
            late_ms=round(1000 * self._late.after_s, 3),
            endpoints=[one.status() for one in self._group.endpoints.values()],
        )

    @property
    def trouble(self) -> str:
        """Tell what keeps all endpoints away; empty while one is up."""
        return "" if self._group.up() else str(self._group.no_path())

    @property
    def traits(self) -> Traits:
        """What the endpoints' protocol promises."""
        return next(iter(self._group.endpoints.values())).store.traits

    # --- the verbs of a store -------------------------------------------------------------------

    async def get(self, key: str, first: int = 0, length: int | None = None) -> bytes:
        """Return bytes of an object."""
        amount = _WHOLE_BYTES if length is None else length
        return await self._run("read", amount, lambda store: store.get(key, first, length), self._hedged)

    async def get_same(self, item: Item, first: int, length: int) -> bytes:
        """Return bytes of an object that is what it was, as far as its endpoints can tell."""
        return await self._run(
            "read", length, lambda store: get_same(store, item, first, length), self._hedged
        )

    async def get_judged(self, key: str, first: int, length: int | None, judge: Callable[[bytes], _T]) -> _T:
        """Return what is made of bytes. Raises CorruptError if no endpoint gives sound ones.

        Who gave others is left alone for a while; if all did, it is the object that is damaged.
        """
        try:
            return judge(await self.get(key, first, length))
        except CorruptError as error:
            damage = error
        liars: list[Endpoint] = []
        for endpoint in self._group.up():
            try:
                data = await self._ask(
                    endpoint, "read", length or _WHOLE_BYTES, lambda store: store.get(key, first, length)
                )
                made = judge(data)
            except CorruptError:
                liars.append(endpoint)
            except NotFoundError:
                if await self._group.believable(endpoint):
                    raise
            except (UnavailableError, ForbiddenError):
                continue
            else:
                for liar in liars:
                    self._group.distrust(liar, CorruptError(f"{liar.url} gave damaged bytes of {key}."))
                return made
        raise damage

    async def put(self, key: str, body: Body, *, create: bool = False, match: str = "") -> None:
        """Store an object; one's own work of an attempt whose answer was lost counts as success."""
        attempts = 0

        async def once(store: Store) -> None:
            nonlocal attempts
            attempts += 1
            try:
                await store.put(key, body, create=create, match=match)
            except (ExistsError, ChangedError):
                if attempts == 1 or await store.get(key, 0, len(body) + 1) != body:
                    raise

        await self._run("write", len(body), once)

    async def put_range(self, key: str, offset: int, body: Body) -> None:
        """Change bytes of an object."""
        await self._run("write", len(body), lambda store: store.put_range(key, offset, body))

    async def delete(self, key: str) -> None:
        """Remove an object."""
        await self._run("other", 0, lambda store: store.delete(key))

    async def head(self, key: str) -> Item:
        """Tell length and tag."""
        return await self._run("other", 0, lambda store: store.head(key))

    async def page(self, prefix: str, after: str = "") -> Page:
        """List objects."""
        return await self._run("other", _LISTING_BYTES, lambda store: store.page(prefix, after))

    async def close(self) -> None:
        """End all tasks and connections."""
        for task in self._hedges:
            task.cancel()
        await self._group.close()

    # --- one operation --------------------------------------------------------------------------

    async def _run(
        self,
        kind: Kind,
        amount: int,
        call: Callable[[Store], Awaitable[_T]],
        ask: "Callable[[Endpoint, Kind, int, Callable[[Store], Awaitable[_T]]], Awaitable[_T]] | None" = None,
    ) -> _T:
        """Do it at some endpoint; raises the last error when the deadline is over."""
        policy = self._policy
        left, rounds, tried = policy.deadline_s, 0, set[Endpoint]()
        while True:
            begun = self._now()
            endpoint, pathless = self._group.pick(kind, tried), 0.0
            if endpoint is None:
                endpoint, pathless = await self._group.path(kind, tried, left)
            try:
                return await (ask or self._ask)(endpoint, kind, amount, call)
            except NotFoundError:
                if await self._group.believable(endpoint):
                    raise
                error: UnavailableError | ForbiddenError = UnavailableError(
                    f"{endpoint.url} shows the pool no more."
                )
            except (UnavailableError, ForbiddenError) as failure:
                error = failure
            tried.add(endpoint)
            if not self._group.pick(kind, tried):
                tried.clear()
                rounds += 1
                most = min(policy.retry_most_s, policy.retry_first_s * 2**rounds)
                await asyncio.sleep(self._dice.uniform(0, most))
            left -= self._now() - begun - pathless
            if left <= 0:
                raise error

    async def _ask(
        self, endpoint: Endpoint, kind: Kind, amount: int, call: Callable[[Store], Awaitable[_T]]
    ) -> _T:
        result = await self._group.ask(endpoint, kind, amount, call)
        if kind == "write":
            endpoint.bytes_written += amount
        elif isinstance(result, bytes):
            endpoint.bytes_read += len(result)
        return result

    async def _hedged(
        self, endpoint: Endpoint, kind: Kind, amount: int, call: Callable[[Store], Awaitable[bytes]]
    ) -> bytes:
        """Ask; if the answer is late, ask another one too, and take what comes first."""
        self._budget.earn()
        begun = self._now()
        if len(self._group.endpoints) == 1 or self._late.count < self._policy.hedge_after:
            result = await self._ask(endpoint, kind, amount, call)
            self._late.add(self._now() - begun)
            return result
        tasks = [self._begin(endpoint, kind, amount, call)]
        try:
            done, _ = await asyncio.wait(tasks, timeout=self._late.after_s)
            if not done and (other := self._group.pick(kind, {endpoint})) and self._budget.spend():
                other.hedged += 1
                tasks.append(self._begin(other, kind, amount, call))
            while True:
                for task in tasks:
                    if task.done() and (len(tasks) == 1 or not task.exception()):
                        return task.result()
                tasks = [task for task in tasks if not task.done()] or tasks[:1]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._late.add(self._now() - begun)
            for task in tasks:
                task.cancel()

    def _begin(
        self, endpoint: Endpoint, kind: Kind, amount: int, call: Callable[[Store], Awaitable[bytes]]
    ) -> "asyncio.Task[bytes]":
        task = asyncio.ensure_future(self._ask(endpoint, kind, amount, call))
        self._hedges.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[bytes]") -> None:
        self._hedges.discard(task)
        if not task.cancelled():
            task.exception()  # seen: who asked has an answer already


class SizedMirrors(Mirrors):
    """The same for stores whose objects have a length that can be set."""

    async def resize(self, key: str, length: int, *, create: bool = False) -> None:
        """Give an object a length; with `create`, ExistsError if it is there.

        One that has this length, or none yet, is one's own if an answer was lost.
        """
        attempts = 0

        async def once(store: Store) -> None:
            nonlocal attempts
            attempts += 1
            try:
                await _sized(store).resize(key, length, create=create)
            except ExistsError:
                if attempts == 1 or (await store.head(key)).length not in {0, length}:
                    raise
                await _sized(store).resize(key, length)

        await self._run("other", 0, once)

    async def clear(self, key: str, offset: int, length: int) -> None:
        """Let bytes read as zeros."""
        await self._run("write", length, lambda store: _sized(store).clear(key, offset, length))


def _sized(store: Store) -> Sized:
    assert isinstance(store, Sized)  # noqa: S101 - all endpoints are of one kind
    return store
