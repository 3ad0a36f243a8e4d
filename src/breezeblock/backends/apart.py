"""A back end whose verbs run in helper processes, one for each pool: a dead share hurts nobody else.

No thread of this process ever touches the storage. A call that stays silent makes us look at its pool;
a pool that does not answer is down at once, its helpers are killed with all that they were doing, and
every call on it is refused in no time until it has answered several looks in a row. The contract allows
killing a verb at any instruction, so a helper may be killed at any instruction.

A call that touches two pools runs in a helper for that pair, so that a dead source harms nobody who
works on the target alone.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, TypeVar, cast

import msgspec
import structlog
from prometheus_client import Counter, Gauge

from breezeblock.attempt import Attempt
from breezeblock.backends import wire
from breezeblock.backends.contract import Backend, Capabilities, Found, Pool, Volume
from breezeblock.backends.copying import with_copies
from breezeblock.backends.health import Health
from breezeblock.backends.parts import Key, Parts
from breezeblock.backends.process import DiedError, Helper, LostError, Role
from breezeblock.errors import (
    BreezeblockError,
    CutOffError,
    PoolDownError,
    UnavailableError,
    UnsupportedError,
)

T = TypeVar("T")

RECHECK_S = 1.0
"""How often a pool that is down is tried."""
BLIND_RECHECKS = 10
"""Where the server does not answer outside the mount, the mount itself is tried only each so many times."""
MOST_STUCK = 3
"""Processes of one pool that hang unkillably; beyond it no more are given to it."""
KILL_WAIT_S = 2.0
LOOKS_AGAIN = 5
"""A helper that is killed under a look says nothing about its pool."""

_FALLS = Counter("breezeblock_pool_falls", "How often a pool went down.", ["backend", "pool"])
_STUCK = Gauge("breezeblock_helpers_leaving", "Killed helper processes that are not gone yet.", ["backend"])
log = structlog.get_logger(__name__)


class Apart:
    """The verbs of a back end, by whatever helper serves their pools."""

    def __init__(
        self,
        name: str,
        opener: Callable[[str, Any, Path], Backend],
        state_dir: Path,
        parts: Parts,
        capabilities: Capabilities,
    ) -> None:
        self.name = name
        self._opener = opener
        self._state_dir = state_dir
        self._parts = parts
        # Open files do not travel; what copying can stand in for is done inside the helper.
        self._capabilities = msgspec.structs.replace(capabilities, data=False)
        self._lock = Lock()
        self._helpers: dict[Key, Helper] = {}
        self._leaving: list[tuple[Key, Helper]] = []
        """Helpers that were killed and are perhaps not gone."""
        self._health = {pool: Health(f"{name}#{pool}") for pool in parts.pools}
        self._looks: dict[str, Future[Pool]] = {}
        self._seen: dict[str, Pool] = {}
        """How each pool was at the last look that ended."""
        self._stopping = Event()

    # ── the contract ─────────────────────────────────────────────────────────────────────────────────

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        """Return any verb of the contract that is not below."""
        if verb not in wire.verbs():
            raise AttributeError(verb)
        return partial(self._call, verb)

    def capabilities(self) -> Capabilities:
        """Say what it can do."""
        return self._capabilities

    def open_data(self, *_arguments: object, **_keywords: object) -> Any:
        """Refuse: an open file is no value."""
        raise UnsupportedError(f"Back end {self.name} does not open the bytes of volumes.")

    def start(self) -> None:
        """Try to reach every pool; `stats` tells of those that were not."""
        self._stopping.clear()
        self.stats()

    def stop(self) -> None:
        """End the helpers, and what they are doing."""
        self._stopping.set()
        with self._lock:
            helpers = list(self._helpers.items())
            self._helpers.clear()
            self._leaving += helpers
        for _key, helper in helpers:
            helper.kill("The service is stopping")

    def stats(self) -> list[Pool]:
        """Look at every pool at once. One that is down says so in no time.

        One that is still being looked at after a while (it may have to be mounted) is told of as it was last
        seen, so that it does not keep the news of all others back.
        """
        looks = {pool: self._looking(pool) for pool in self._parts.pools}
        wait(looks.values(), self._parts.answer_timeout_s + 1)
        for pool, look in looks.items():
            if look.done():
                self._seen[pool] = look.result()
        return [self._seen.get(pool, _not_yet(pool)) for pool in self._parts.pools]

    def _looking(self, pool: str) -> "Future[Pool]":
        with self._lock:
            look = self._looks.get(pool)
            if look is None or look.done():
                look = self._looks[pool] = Future()
                Thread(target=_into, args=(look, self._pool, pool), daemon=True).start()
        return look

    def inventory(self) -> Any:
        """Yield everything in every reachable pool."""
        return iter([found for of_pool in self._each(self._everything) for found in of_pool])

    def sweep(self, live_operations: frozenset[str]) -> list[str]:
        """Remove temporary work in every reachable pool."""
        swept = self._each(lambda pool: self._reachable(pool, "sweep", live_operations))
        return [name for of_pool in swept for name in of_pool]

    def _everything(self, pool: str) -> list[Any]:
        return self._reachable(pool, "inventory")

    def _reachable(self, pool: str, verb: str, *arguments: Any) -> list[Any]:
        if not self._is_up(pool):
            return []
        try:
            found: list[Any] = self._of((pool,), verb, arguments)
        except UnavailableError:
            return []  # what is there waits until the pool is back; stats tells why it is away
        return found

    def _each(self, task: Callable[[str], T]) -> list[T]:
        if len(self._parts.pools) == 1:
            return [task(self._parts.pools[0])]
        with ThreadPoolExecutor(min(len(self._parts.pools), 32)) as threads:
            return list(threads.map(task, self._parts.pools))

    # ── calls ────────────────────────────────────────────────────────────────────────────────────────

    def _call(self, verb: str, *positional: Any, **named: Any) -> Any:
        bound = wire.verbs()[verb].signature.bind(*positional, **named)
        bound.apply_defaults()
        placed = (argument for argument in bound.args if isinstance(argument, Volume | Found))
        pools = dict.fromkeys(argument.pool for argument in placed)
        # A pool that is not configured has no helper; any other knows how to say that.
        key = tuple(pool for pool in pools if pool in self._health) or self._parts.pools[:1]
        return self._of(key, verb, bound.args)

    def _of(self, key: Key, verb: str, arguments: tuple[Any, ...]) -> Any:
        for pool in key:
            self._health[pool].check()
        helper = self._helper(key, changing=any(isinstance(one, Attempt) for one in arguments))
        began = time.monotonic()

        def quiet() -> None:
            for pool in key:
                self._pool(pool)
            if time.monotonic() - began >= self._parts.silence_timeout_s:
                helper.kill(
                    f"{verb} on {' and '.join(key)} said nothing for {self._parts.silence_timeout_s:g} s"
                )

        try:
            return helper.call(verb, arguments, silence_s=self._parts.answer_timeout_s, quiet=quiet)
        except UnavailableError as error:
            # Was it this call alone, or is the whole pool away? (A look also replaces a lost helper.)
            for pool in key:
                self._pool(pool)
                self._health[pool].check()
            kind = CutOffError if isinstance(error, DiedError) else UnavailableError
            raise kind(error.message, remedy=error.remedy) from error

    def _helper(self, key: Key, *, changing: bool) -> Helper:
        """Return the live helper for these pools, started if need be.

        As long as any process of a predecessor is left, it may yet finish the one system call that it
        hangs in; so until it is gone, nothing is changed there.
        """
        end = time.monotonic() + KILL_WAIT_S
        while True:
            with self._lock:
                self._bury()
                left = [one for other, one in self._leaving if set(other) & set(key)]
                if not left or (not changing and len(left) < MOST_STUCK and time.monotonic() >= end):
                    helper = self._helpers.get(key)
                    if helper is None:
                        role = Role(
                            name=self.name,
                            opener=self._opener,
                            config=self._parts.narrow(key),
                            state_dir=self._state_dir,
                        )
                        helper = self._helpers[key] = Helper(role)
                    return helper
            if time.monotonic() >= end:
                raise PoolDownError(
                    f"Pool {self.name}#{key[0]}: process {left[0].pid} of an earlier attempt hangs in the "
                    f"kernel ({len(left)} in all).",
                    remedy="It ends when the server answers; until then nothing is changed there.",
                )
            left[0].gone.wait(end - time.monotonic())

    def _bury(self) -> None:
        for key, helper in list(self._helpers.items()):
            if helper.lost:
                del self._helpers[key]
                self._leaving.append((key, helper))
        self._leaving = [(key, helper) for key, helper in self._leaving if not helper.gone.is_set()]
        _STUCK.labels(self.name).set(len(self._leaving))

    # ── health ───────────────────────────────────────────────────────────────────────────────────────

    def _pool(self, pool: str) -> Pool:
        """Look at a pool, unless it is known to be down."""
        if reason := self._health[pool].down:
            return Pool(name=pool, total_bytes=None, free_bytes=None, up=False, reason=reason)
        seen = self._look(pool)
        if seen.up or self._works(pool):
            return msgspec.structs.replace(seen, up=True)
        self._fell(pool, seen.reason)
        return msgspec.structs.replace(seen, reason=self._health[pool].down)

    def _look(self, pool: str) -> Pool:
        reason = ""
        for _ in range(LOOKS_AGAIN):
            try:
                helper = self._helper((pool,), changing=False)
                (seen,) = helper.call("stats", (), silence_s=self._parts.look_limit_s, quiet=None)
            except LostError as error:
                reason = str(error)  # that tells of the helper, not of the pool: look with a new one
            except BreezeblockError as error:
                reason = str(error)
                break
            else:
                return cast("Pool", seen)
        return Pool(name=pool, total_bytes=None, free_bytes=None, up=False, reason=reason)

    def _is_up(self, pool: str) -> bool:
        """Tell whether a pool can be used, without waiting for one that is just being looked at."""
        if self._health[pool].down:
            return False
        if pool not in self._looks:
            self.stats()
        look = self._looks[pool]
        return look.done() and (look.result().up or self._pool(pool).up)

    def _works(self, pool: str) -> bool:
        """Tell whether some call on the pool made progress just now: then it is slow, not dead."""
        with self._lock:
            helpers = [helper for key, helper in self._helpers.items() if pool in key and not helper.lost]
        return any(time.monotonic() - helper.worked < self._parts.answer_timeout_s for helper in helpers)

    def _fell(self, pool: str, reason: str) -> None:
        with suppress(UnavailableError):
            self._parts.ping(pool)
            reason = f"{reason} (Its server answers outside the mount.)"
        if not self._health[pool].fell(reason):
            return
        _FALLS.labels(self.name, pool).inc()
        log.warning("pool.fell", backend=self.name, pool=pool, reason=reason)
        self._kill_all_of(pool, f"Pool {self.name}#{pool} is down: {reason}")
        Thread(target=self._revive, args=(pool,), name=f"revive-{self.name}", daemon=True).start()

    def _kill_all_of(self, pool: str, reason: str) -> None:
        with self._lock:
            helpers = [helper for key, helper in self._helpers.items() if pool in key]
        for helper in helpers:
            helper.kill(reason.rstrip("."))

    def _revive(self, pool: str) -> None:
        """Try a pool that is down until it is up."""
        round_ = 0
        while not self._stopping.wait(RECHECK_S):
            round_ += 1
            try:
                self._parts.ping(pool)
            except UnavailableError:
                # Perhaps it cannot be asked like this (another port, a firewall): the mount decides.
                if round_ % BLIND_RECHECKS:
                    continue
            seen = self._look(pool)
            if not seen.up:
                self._health[pool].fell(seen.reason)
                self._kill_all_of(pool, f"Pool {self.name}#{pool} is still down")
            elif self._health[pool].answered():
                log.info("pool.up", backend=self.name, pool=pool)
                return


def _not_yet(pool: str) -> Pool:
    return Pool(name=pool, total_bytes=None, free_bytes=None, up=False, reason="It has not answered yet.")


def _into(answer: "Future[Pool]", look: Callable[[str], Pool], pool: str) -> None:
    try:
        answer.set_result(look(pool))
    except BaseException as error:  # noqa: BLE001 - handed to the waiting thread
        answer.set_exception(error)


def apart(
    name: str,
    opener: Callable[[str, Any, Path], Backend],
    config: msgspec.Struct,
    state_dir: Path,
    parts: Parts,
) -> Backend:
    """Return the back end, not started, its verbs in helper processes.

    Raises ConfigError as `opener` does.
    """
    capabilities = with_copies(opener(name, config, state_dir)).capabilities()
    return cast("Backend", Apart(name, opener, state_dir, parts, capabilities))
