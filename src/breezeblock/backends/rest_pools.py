"""The pools of a `rest` back end: each an object store, opened anew for each verb on its own thread."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import msgspec
import structlog

from breezeblock.backends.contract import Health, Pool
from breezeblock.backends.rest_config import RestConfig, find_pool, store_config
from breezeblock.backends.usage import Samples, Usage, full_in_s
from breezeblock.errors import BreezeblockError, ConfigError
from breezeblock.objects.stores.opening import StoreConfig, endpoint, make_pool, open_store
from breezeblock.objects.stores.port import Measured, Room, Store
from breezeblock.shares import files

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")


class Pools:
    """Pool names to stores."""

    def __init__(self, backend: str, config: RestConfig, state_dir: Path) -> None:
        self.config = config
        self._backend, self._state_dir = backend, state_dir
        self._usage = Usage(state_dir / f"{backend}.usage.json")

    def store(self, pool: str, *, wait: bool = False) -> StoreConfig:
        """Return where a pool is, secrets included. Raises ConfigError, NotFoundError for a secret."""
        settings = find_pool(self._backend, self.config, pool)
        return store_config(settings, self.uuid(pool), self._state_dir, wait=wait)

    def uuid(self, pool: str) -> str:
        """Return a pool's identity; empty while it was never reached."""
        return find_pool(self._backend, self.config, pool).uuid or self._remembered(pool)

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

    def describe(self) -> list[Pool]:
        """Look at every pool."""
        seen: list[Pool] = []
        for pool in self.config.pools:
            try:
                seen.append(self._look(pool))
            except BreezeblockError as error:
                reason = f"{error.message} {error.remedy}".strip()
                seen.append(Pool(name=pool, total_bytes=None, free_bytes=None, up=False, reason=reason))
        used = {
            one.name: one.total_bytes - one.free_bytes
            for one in seen
            if one.total_bytes is not None and one.free_bytes is not None
        }
        samples = self._usage.note(used)
        return [_with_outlook(one, samples.get(one.name, [])) for one in seen]

    def _look(self, pool: str) -> Pool:
        async def look(_store: Store) -> Room | None:
            return await _room(config)

        config = self.made(pool)
        room = self.run(pool, look)
        if room is None:
            return Pool(name=pool, total_bytes=None, free_bytes=None)
        return Pool(name=pool, total_bytes=room.total_bytes, free_bytes=room.free_bytes)

    def made(self, pool: str) -> StoreConfig:
        """Return where a pool is; at its very first use make the pool, and remember which one it is."""
        config = self.store(pool)
        if config.pool:
            return config
        identity = asyncio.run(make_pool(config))
        self._remember(pool, identity.uuid)
        _log.info("rest_pool_known", backend=self._backend, pool=pool, uuid=identity.uuid)
        return msgspec.structs.replace(config, pool=identity.uuid)

    def _remembered(self, pool: str) -> str:
        note = self._note(pool)
        try:
            return note.read_text().strip()
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{note} says which pool this is and cannot be read: {error}.",
                remedy="Remove it, or write the pool's `uuid` into the configuration.",
            ) from error

    def _remember(self, pool: str, uuid: str) -> None:
        note = self._note(pool)
        with files.storage_errors(str(note)):
            note.parent.mkdir(parents=True, exist_ok=True)
            temp = note.with_name(f".tmp-{uuid4().hex}")
            temp.write_text(f"{uuid}\n")
            temp.rename(note)

    def _note(self, pool: str) -> Path:
        return self._state_dir / "pools" / f"{self._backend}.{pool}"


def _with_outlook(pool: Pool, samples: Samples) -> Pool:
    if pool.total_bytes is None:
        return pool
    return msgspec.structs.replace(pool, health=Health(full_in_s=full_in_s(samples, pool.total_bytes)))


async def _room(config: StoreConfig) -> Room | None:
    """Return what the first endpoint that answers tells of its room; None if it tells nothing."""
    for url in config.urls:
        store = endpoint(config, url)
        try:
            return await store.room() if isinstance(store, Measured) else None
        except BreezeblockError:
            continue
        finally:
            await store.close()
    return None
