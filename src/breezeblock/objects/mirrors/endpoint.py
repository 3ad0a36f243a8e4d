"""One endpoint: its requests under way, how quick it is, and when it is to be left alone."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

from breezeblock.errors import BreezeblockError, ConfigError, ForbiddenError, UnavailableError
from breezeblock.objects.mirrors.pace import Latency
from breezeblock.objects.mirrors.policy import Policy
from breezeblock.objects.mirrors.status import EndpointStatus, State
from breezeblock.objects.stores.answers import BusyError
from breezeblock.objects.stores.port import Connected, Store

_T = TypeVar("_T")
Kind = Literal["read", "write", "other"]


class Endpoint:
    """A store seen through one address. Some failures in a row take it down."""

    def __init__(self, url: str, make: Callable[[str], Store], policy: Policy) -> None:
        self.url, self._make, self._policy = url, make, policy
        self.store = make(url)
        self._now = asyncio.get_running_loop().time
        """No other clock is read: a loop whose clock jumps makes all of this repeatable."""
        self.state: State = "joining"
        self.trouble: BreezeblockError | None = None
        """The last failure."""
        self.pause_s = policy.down_first_s
        """For how long it is left alone before it is tried next."""
        self.qualified, self.proved_at = False, 0.0
        self.requests, self.asked, self.failed, self.hedged = 0, 0, 0, 0
        self.bytes_read, self.bytes_written = 0, 0
        self.rest_until = 0.0
        """It said that it wants to be left alone until then."""
        self._since = self._now()
        self._limit = float(policy.concurrent_first)
        self._shrunk_at = 0.0
        self._row = 0
        self._latency = _unknown()

    @property
    def free(self) -> bool:
        """Whether one more request may be sent now."""
        return self.state == "up" and self.requests < int(self._limit) and self.rest_until <= self._now()

    def cost(self, kind: Kind) -> float:
        """Return what one more request of this kind will take, in seconds, in proportion to the others'."""
        return self._latency[kind].expected(self._now()) * (self.requests + 1)

    def turn(self, state: State) -> None:
        """Change the state. What comes up again is as quick as any until it shows otherwise."""
        if state != self.state:
            self.state, self._since, self._row = state, self._now(), 0
            if state == "up":
                self._latency = _unknown()

    def down(self, error: BreezeblockError) -> None:
        """Use it no more until it passes again."""
        self.failed += 1
        self.trouble = error
        if self.state != "leaving":
            ours = isinstance(error, ForbiddenError | ConfigError)
            self.turn("refused" if error.permanent and not ours else "down")

    async def ask(self, kind: Kind, amount: int, call: Callable[[Store], Awaitable[_T]]) -> _T:
        """Ask for something that moves so many bytes; with fresh credentials if they were refused.

        Raises what the store raises, UnavailableError for no answer in time.
        """
        self.requests += 1
        self.asked += 1
        try:
            store = self.store
            try:
                return await self._attempt(store, kind, amount, call)
            except ForbiddenError:
                pass
            try:
                await self.renew(store)
                return await self._attempt(self.store, kind, amount, call)
            except (ForbiddenError, ConfigError) as error:
                self.down(error)
                raise ForbiddenError(error.message, remedy=error.remedy) from error
        finally:
            self.requests -= 1

    async def _attempt(
        self, store: Store, kind: Kind, amount: int, call: Callable[[Store], Awaitable[_T]]
    ) -> _T:
        begun, limit_s = self._now(), self._policy.attempt_s + amount / self._policy.slowest_bytes
        try:
            async with asyncio.timeout(limit_s):
                result = await call(store)
        except asyncio.CancelledError:
            # Another endpoint was quicker: this one takes at least so long.
            self._latency[kind].add(self._now() - begun, self._now())
            raise
        except TimeoutError:
            error = UnavailableError(f"{self.url} did not answer within {limit_s:.1f} s.")
            self._latency[kind].add(limit_s, self._now())
            self._shrink()
            self._fail(error)
            raise error from None
        except BusyError as busy:
            self._shrink()
            if busy.retry_after_s is None:
                self._fail(busy)
            else:
                self.rest_until = self._now() + min(busy.retry_after_s, self._policy.rest_most_s)
            raise
        except UnavailableError as failure:
            self._fail(failure)
            raise
        except ForbiddenError:
            raise
        except BreezeblockError:
            self._answered(kind, begun)  # it says no, as it should
            raise
        self._answered(kind, begun)
        return result

    def _answered(self, kind: Kind, begun: float) -> None:
        self._row, self.pause_s = 0, self._policy.down_first_s
        self._latency[kind].add(self._now() - begun, self._now())
        self._limit = min(float(self._policy.concurrent_most), self._limit + 1 / self._limit)

    def _fail(self, error: BreezeblockError) -> None:
        self.failed += 1
        self._row += 1
        self.trouble = error
        if self.state == "up" and self._row >= self._policy.fails:
            self.turn("down")

    def _shrink(self) -> None:
        """Halve what may be under way, once for all that were sent together."""
        if self._now() - self._shrunk_at > 0.1:
            self._limit, self._shrunk_at = max(1.0, self._limit / 2), self._now()

    async def renew(self, seen: Store) -> None:
        """Make the store anew, unless somebody did since: credentials are read again.

        Raises ForbiddenError, ConfigError if they cannot be read.
        """
        if seen is self.store:
            self.store = self._make(self.url)
            await seen.close()

    def status(self) -> EndpointStatus:
        """Tell how it is."""
        now = self._now()
        return EndpointStatus(
            url=self.url,
            state=self.state,
            trouble=str(self.trouble or ""),
            for_s=round(now - self._since, 3),
            connections=self.store.connections if isinstance(self.store, Connected) else 0,
            requests=self.requests,
            limit=int(self._limit),
            asked=self.asked,
            failed=self.failed,
            hedged=self.hedged,
            bytes_read=self.bytes_read,
            bytes_written=self.bytes_written,
            read_ms=round(1000 * self._latency["read"].expected(now), 3),
            write_ms=round(1000 * self._latency["write"].expected(now), 3),
        )


def _unknown() -> dict[Kind, Latency]:
    return {"read": Latency(), "write": Latency(), "other": Latency()}
