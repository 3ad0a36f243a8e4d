"""The pools of a `rest` back end: each an object store, opened anew for each verb on its own thread."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import msgspec
import structlog

from breezeblock.backends import rest_metrics, rest_readonly
from breezeblock.backends.contract import Capabilities, Endpoint, Finding, Health, Pool
from breezeblock.backends.rest_config import RestConfig, RestPool, find_pool, read_only, store_config
from breezeblock.backends.rest_layouts import capabilities
from breezeblock.backends.rest_served import views
from breezeblock.backends.usage import Samples, Usage, full_in_s
from breezeblock.errors import BreezeblockError, ConfigError, ConflictError, InvalidInputError, NotFoundError
from breezeblock.objects.mirrors.status import EndpointStatus, together, unreached
from breezeblock.objects.stores.opening import StoreConfig, endpoint, make_pool, open_store
from breezeblock.objects.stores.port import Item, Measured, Room, Store
from breezeblock.shares import files

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")
_AT_ONCE = 16
_ROOM_S = 5.0
_ANSWER_S = 1.0


class Pools:
    """Pool names to stores."""

    def __init__(self, backend: str, config: RestConfig, state_dir: Path) -> None:
        self.config = config
        self._backend, self._state_dir = backend, state_dir
        self._shown: dict[str, set[str]] = {}
        self._usage = Usage(state_dir / f"{backend}.usage.json")

    def store(self, pool: str, *, wait: bool = False) -> StoreConfig:
        """Return where a pool is, secrets included. Raises ConfigError, NotFoundError for a secret."""
        try:
            settings = msgspec.structs.replace(self._settings(pool), urls=self.urls(pool))
        except ValueError as error:
            text = f"An endpoint that was added to pool {pool} cannot be used: {error}."
            raise ConfigError(text, remedy="`breezeblock rest remove-urls` takes it away.") from None
        return store_config(settings, self.uuid(pool), self._state_dir, wait=wait)

    def with_url(self, pool: str, url: str) -> StoreConfig:
        """Return where a pool is by one more endpoint, and no other: to try that one.

        Raises InvalidInputError for what the settings could not name either: a password would be readable.
        """
        try:
            msgspec.structs.replace(self._settings(pool), urls=[*self.urls(pool), url])
        except ValueError as error:
            raise InvalidInputError(f"Pool {pool} can have no such endpoint: {error}.") from None
        return msgspec.structs.replace(self.made(pool), urls=[url], on_no_path="error")

    def urls(self, pool: str) -> list[str]:
        """Return a pool's endpoints: the configured ones, and those added on this host."""
        configured = self._settings(pool).urls
        return [*configured, *(url for url in self._noted(pool, ".urls") if url not in configured)]

    def uuid(self, pool: str) -> str:
        """Return a pool's identity; empty while it was never reached."""
        return self._settings(pool).uuid or next(iter(self._noted(pool)), "")

    def add_url(self, pool: str, url: str) -> None:
        """Use one more endpoint on this host; there already = done."""
        if not _same(url, self.urls(pool)):
            self._note(pool, [*self._noted(pool, ".urls"), url], ".urls")

    def remove_url(self, pool: str, url: str) -> str:
        """Use an endpoint no more; return how it was known.

        Raises NotFoundError, ConflictError for one of the configuration.
        """
        added = self._noted(pool, ".urls")
        if _same(url, self._settings(pool).urls):
            raise ConflictError(
                f"{url} is in the configuration of pool {pool}.", remedy="Remove it there, on every host."
            )
        known = _same(url, added)
        if not known:
            raise NotFoundError(f"Pool {pool} has no endpoint {url}.")
        self._note(pool, [one for one in added if one != known], ".urls")
        return known

    def run(self, pool: str, work: Callable[[Store], Awaitable[_T]]) -> _T:
        """Do something with a pool's store, and return its result."""
        config = self.made(pool)

        async def run() -> _T:
            store = await open_store(config)
            try:
                return await work(store)
            finally:
                await store.close()

        return asyncio.run(run())

    def items(self, pool: str) -> list[Item]:
        """Return the objects of a pool."""
        settings = self._settings(pool)
        return self.run(pool, lambda store: rest_readonly.items(store, settings.images))

    def describe(self) -> list[Pool]:
        """Look at every pool."""
        # At one time: one that does not answer keeps nobody waiting for the others.
        with ThreadPoolExecutor(min(_AT_ONCE, len(self.config.pools))) as threads:
            seen = list(threads.map(self._seen, self.config.pools))
        used = {
            one.name: one.total_bytes - one.free_bytes
            for one in seen
            if one.total_bytes is not None and one.free_bytes is not None
        }
        samples = self._usage.note(used)
        return [_with_outlook(one, samples.get(one.name, [])) for one in seen]

    def _seen(self, pool: str) -> Pool:
        try:
            return self._look(pool)
        except BreezeblockError as error:
            rest_metrics.show_lost(self._backend, pool, self._shown.get(pool, set()))
            reason = f"{error.message} {error.remedy}".strip()
            return Pool(
                name=pool,
                total_bytes=None,
                free_bytes=None,
                up=False,
                reason=reason,
                capabilities=self._able(pool),
                health=Health(endpoints=_shown(unreached(self.urls(pool), error.message))),
            )

    def _look(self, pool: str) -> Pool:
        config, settings = self.made(pool), self._settings(pool)
        reading = read_only(settings)
        served = views(Path(self.config.run_dir), timeout_s=_ANSWER_S)

        async def look() -> Pool:
            store = await open_store(config)
            try:
                if len(config.urls) > 1:
                    await store.settled()
                endpoints = store.status().endpoints
                rest_metrics.show(self._backend, pool, endpoints, self._shown.setdefault(pool, set()))
                missing = await rest_readonly.look(pool, store, settings.images) if reading else []
            finally:
                await store.close()
            used = [one.mirrors for one in served if config.pool and one.mirrors.pool == config.pool]
            health = Health(endpoints=_shown(together([endpoints, *(one.endpoints for one in used)])))
            reachable = [one.url for one in endpoints if one.state == "up"]
            room = Room(0, 0) if reading else await _room(config, reachable)
            lost = [_lost(pool, one) for one in endpoints if one.state in {"down", "refused"}]
            return Pool(
                name=pool,
                total_bytes=room.total_bytes if room else None,
                free_bytes=room.free_bytes if room else None,
                capabilities=self._able(pool),
                health=health,
                findings=(*missing, *lost),
            )

        return asyncio.run(look())

    def _able(self, pool: str) -> Capabilities:
        return capabilities(self._settings(pool))

    def made(self, pool: str) -> StoreConfig:
        """Return where a pool is; at its very first use make the pool, and remember which one it is."""
        config = self.store(pool)
        if config.pool or read_only(self._settings(pool)):
            return config
        identity = asyncio.run(make_pool(config))
        self._note(pool, [identity.uuid])
        _log.info("rest_pool_known", backend=self._backend, pool=pool, uuid=identity.uuid)
        return msgspec.structs.replace(config, pool=identity.uuid)

    def _settings(self, pool: str) -> RestPool:
        return find_pool(self._backend, self.config, pool)

    def _noted(self, pool: str, what: str = "") -> list[str]:
        """Return the lines of what this host knows of a pool."""
        note = self._path(pool, what)
        try:
            return note.read_text().split()
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{note} says what is known of pool {pool} and cannot be read: {error}.",
                remedy="Remove it, or write the pool's `uuid` into the configuration.",
            ) from error

    def _note(self, pool: str, lines: list[str], what: str = "") -> None:
        note = self._path(pool, what)
        with files.storage_errors(str(note)):
            note.parent.mkdir(parents=True, exist_ok=True)
            content = "".join(f"{line}\n" for line in lines).encode()
            files.replace(note, content, note.with_name(f"{files.TEMPORARY}{uuid4().hex}"), 0o600)

    def _path(self, pool: str, what: str) -> Path:
        return self._state_dir / "pools" / f"{self._backend}.{pool}{what}"


def _same(url: str, known: list[str]) -> str:
    """Return the one of these that is the same endpoint, or nothing: a slash at the end means nothing."""
    return next((one for one in known if one.rstrip("/") == url.rstrip("/")), "")


def _lost(pool: str, endpoint: EndpointStatus) -> Finding:
    return Finding(
        subject=f"pool {pool}, endpoint {endpoint.url}",
        problem=f"it is {endpoint.state}: {endpoint.trouble}",
        remedy="The others are used meanwhile. Mend it, or take it out of the pool's urls.",
        severity="warning",
    )


def _with_outlook(pool: Pool, samples: Samples) -> Pool:
    if pool.total_bytes is None:
        return pool
    health = msgspec.structs.replace(pool.health, full_in_s=full_in_s(samples, pool.total_bytes))
    return msgspec.structs.replace(pool, health=health)


def _shown(endpoints: list[EndpointStatus]) -> tuple[Endpoint, ...]:
    return msgspec.convert(endpoints, tuple[Endpoint, ...], from_attributes=True)


async def _room(config: StoreConfig, urls: list[str]) -> Room | None:
    """Return what the first of these endpoints that answers tells of its room; None if it tells nothing."""
    for url in urls:
        store = endpoint(config, url)
        try:
            async with asyncio.timeout(_ROOM_S):
                return await store.room() if isinstance(store, Measured) else None
        except (BreezeblockError, TimeoutError):
            continue
        finally:
            await store.close()
    return None
