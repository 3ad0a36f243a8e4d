"""A pool's endpoints: who is in, who is up, and which is to be asked next."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from breezeblock.errors import (
    BreezeblockError,
    ConflictError,
    NotFoundError,
    UnavailableError,
)
from breezeblock.objects.mirrors.endpoint import Endpoint, Kind
from breezeblock.objects.mirrors.policy import Policy
from breezeblock.objects.stores.port import Store

_T = TypeVar("_T")
_BELIEVED_S = 1.0


class Gate(NamedTuple):
    """What an endpoint has to pass; both raise if it does not."""

    prove: Callable[[Store], Awaitable[None]]
    """Show that this is the pool: before it is used, and whenever it was down."""
    qualify: Callable[[Store, str], Awaitable[None]]
    """Show that it can hold the pool: once, by URL."""


class Group:
    """The endpoints. Each has a keeper, a task that asks it for the pool's identity while it is not up."""

    def __init__(
        self, urls: list[str], make: Callable[[str], Store], gate: Gate, policy: Policy, dice: random.Random
    ) -> None:
        self.policy, self.dice, self.waiting = policy, dice, 0
        self._make, self._gate = make, gate
        self.endpoints = {url: Endpoint(url, make, policy) for url in urls}
        self._tasks: dict[Endpoint, asyncio.Task[None]] = {}
        self._moved = asyncio.Event()
        self._now = asyncio.get_running_loop().time

    async def open(self) -> None:
        """Return when one endpoint is up. Raises what keeps the last one away, if none will be soon."""
        for endpoint in self.endpoints.values():
            self._look_after(endpoint)
        while not self.up():
            if all(one.state in {"down", "refused"} for one in self.endpoints.values()):
                raise self.no_path()
            await self._moved.wait()

    async def settled(self) -> None:
        """Return when no endpoint is looked at for the first time."""
        while any(one.state == "joining" for one in self.endpoints.values()):
            await self._moved.wait()

    def up(self) -> list[Endpoint]:
        """Return the endpoints that are up."""
        return [one for one in self.endpoints.values() if one.state == "up"]

    def add(self, url: str) -> None:
        """Use one more endpoint, once it has passed. One that is there already is kept."""
        if url not in self.endpoints:
            self.endpoints[url] = Endpoint(url, self._make, self.policy)
            self._look_after(self.endpoints[url])

    def remove(self, url: str) -> None:
        """Ask an endpoint no more; what it is doing ends first. Raises NotFoundError, ConflictError."""
        if url not in self.endpoints:
            raise NotFoundError(f"{url} is no endpoint of this pool.")
        if len(self.endpoints) == 1:
            raise ConflictError(f"{url} is the pool's last endpoint.", remedy="Add another one first.")
        endpoint = self.endpoints.pop(url)
        endpoint.turn("leaving")
        if keeper := self._tasks.pop(endpoint, None):
            keeper.cancel()
        self._task(endpoint, self._leave(endpoint))

    async def close(self) -> None:
        """End all tasks and connections."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for endpoint in self.endpoints.values():
            await endpoint.store.close()

    # --- asking ---------------------------------------------------------------------------------

    def pick(self, kind: Kind, tried: set[Endpoint]) -> Endpoint | None:
        """Return the better of two that are free, drawn at random, or None."""
        free = [one for one in self.endpoints.values() if one.free and one not in tried]
        if len(free) > 2:
            free = self.dice.sample(free, 2)
        if len(free) < 2:
            return free[0] if free else None
        return min(free, key=lambda one: one.cost(kind))

    async def path(self, kind: Kind, tried: set[Endpoint], left_s: float) -> tuple[Endpoint, float]:
        """Return an endpoint, one that was not tried if there is, and for how long none at all was up.

        Raises UnavailableError if those that are up stay busy for too long; what keeps the endpoints away
        if none is up and the policy is not to wait.
        """
        pathless, until = 0.0, self._now() + left_s
        while not (found := self.pick(kind, tried) or self.pick(kind, set())):
            up, now = self.up(), self._now()
            if up and now >= until:
                raise UnavailableError("All endpoints of the pool were busy for too long.")
            if not up and self.policy.on_no_path == "error":
                raise self.no_path()
            await self._change(min([until, *(one.rest_until for one in up if one.rest_until > now)]), up)
            if not up:
                pathless += self._now() - now
                until += self._now() - now
        return found, pathless

    async def _change(self, until: float, up: list[Endpoint]) -> None:
        self.waiting += 1
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until if up else None):
                    await self._moved.wait()
        finally:
            self.waiting -= 1

    async def ask(
        self, endpoint: Endpoint, kind: Kind, amount: int, call: Callable[[Store], Awaitable[_T]]
    ) -> _T:
        """Ask one endpoint; if that takes it down, its keeper begins. Raises what the store raises."""
        try:
            return await endpoint.ask(kind, amount, call)
        finally:
            if endpoint.state == "down":
                self._look_after(endpoint)
            if self.waiting or endpoint.state == "leaving":
                self._stir()

    async def believable(self, endpoint: Endpoint) -> bool:
        """Tell whether it still shows the pool: a directory that was unmounted has no objects either."""
        now = self._now()
        if now - endpoint.proved_at < _BELIEVED_S or await self._passed(endpoint):
            return True
        self._look_after(endpoint)
        return False

    def distrust(self, endpoint: Endpoint, why: BreezeblockError) -> None:
        """Leave an endpoint alone for as long as is ever done."""
        endpoint.pause_s = self.policy.down_most_s
        if endpoint.state == "up":
            endpoint.down(why)
            self._look_after(endpoint)

    # --- keepers --------------------------------------------------------------------------------

    def _look_after(self, endpoint: Endpoint) -> None:
        if endpoint.state == "leaving":
            return  # nobody will ask it again
        if endpoint not in self._tasks or self._tasks[endpoint].done():
            self._task(endpoint, self._keep(endpoint))

    def _task(self, endpoint: Endpoint, work: Awaitable[None]) -> None:
        task = self._tasks[endpoint] = asyncio.ensure_future(work)
        task.add_done_callback(lambda done: self._tasks.get(endpoint) is done and self._tasks.pop(endpoint))

    async def _keep(self, endpoint: Endpoint) -> None:
        while endpoint.state != "up":
            if endpoint.state != "joining":
                pause = endpoint.pause_s
                endpoint.pause_s = min(self.policy.down_most_s, 2 * pause)
                await asyncio.sleep(self.dice.uniform(pause / 2, pause))
            if await self._passed(endpoint, renew=endpoint.state != "joining"):
                endpoint.turn("up")
            self._stir()

    async def _passed(self, endpoint: Endpoint, *, renew: bool = False) -> bool:
        limit_s = self.policy.attempt_s
        try:
            if renew:
                await endpoint.renew(endpoint.store)
            async with asyncio.timeout(limit_s):
                await self._gate.prove(endpoint.store)
            if not endpoint.qualified:
                limit_s = self.policy.probe_s
                async with asyncio.timeout(limit_s):
                    await self._gate.qualify(endpoint.store, endpoint.url)
                endpoint.qualified = True
        except TimeoutError:
            endpoint.down(UnavailableError(f"{endpoint.url} did not prove itself within {limit_s:g} s."))
        except BreezeblockError as error:
            endpoint.down(error)
        except Exception as error:  # noqa: BLE001 - whoever waits for this endpoint must not wait for ever
            endpoint.down(UnavailableError(f"{endpoint.url}: {error!r}."))
        else:
            endpoint.proved_at = self._now()
            return True
        return False

    async def _leave(self, endpoint: Endpoint) -> None:
        try:
            while endpoint.requests:
                await self._moved.wait()
        finally:
            await endpoint.store.close()

    def _stir(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def no_path(self) -> BreezeblockError:
        """Return what keeps the endpoints away."""
        kinds = {type(one.trouble) for one in self.endpoints.values() if one.trouble}
        text = "; ".join(f"{one.url}: {one.trouble or one.state}" for one in self.endpoints.values())
        kind = kinds.pop() if len(kinds) == 1 else UnavailableError
        return kind(f"No endpoint of the pool can be used. {text}")
