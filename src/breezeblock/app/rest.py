"""Pools of object stores without the service: volumes by names of one's own, endpoints, what is here.

The verbs are those of /sys/class/srb. A name is an object `name/NAME` that holds the volume's id. Volumes
that the service made have none, and go by `volume-UUID`.
"""

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from breezeblock.app import attaching
from breezeblock.backends import rest_layouts
from breezeblock.backends import rest_reports as reports
from breezeblock.backends.rest_config import RestConfig, durability, read_only
from breezeblock.backends.rest_pools import Pools
from breezeblock.config import Config
from breezeblock.errors import (
    BreezeblockError,
    ConfigError,
    ConflictError,
    CorruptError,
    DuplicateError,
    InvalidInputError,
    NotFoundError,
    UnsupportedError,
)
from breezeblock.objects import serving
from breezeblock.objects.log import format as form
from breezeblock.objects.log import volumes
from breezeblock.objects.log.collecting import Collected, collect
from breezeblock.objects.mirrors.status import EndpointStatus, together, unreached
from breezeblock.objects.stores.opening import open_store
from breezeblock.objects.stores.port import ExistsError, Store, everything

_T = TypeVar("_T")
_NAMES = "name/"
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}", re.ASCII)
"""Of new volumes. One part of a key: where keys are paths, `a/b` would forbid `a`."""


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A volume of a pool."""

    name: str
    id: str
    length: int
    """Bytes."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """A pool's endpoints, as all that this host serves uses them, and the volumes that it serves."""

    pool: str
    """Its identity."""
    endpoints: list[EndpointStatus]
    attached: list[serving.View]


class Rest:
    """One pool, as this host's configuration has it."""

    def __init__(self, config: Config, backend: str = "", pool: str = "") -> None:
        """Find the pool; names may be left out where there is only one. Raises ConfigError."""
        self.config = config
        self.backend = _only(_backends(config), backend, "back end")
        self.settings: RestConfig = attaching.rest_config(config, self.backend)
        # What is only read has no volumes of ours to make, name or destroy.
        writable = [name for name, one in self.settings.pools.items() if not read_only(one)]
        self.pool = _only(writable, pool, "pool")
        self._layout = rest_layouts.of(self.settings.pools[self.pool])
        self._pools = Pools(self.backend, self.settings, Path(config.service.state_dir))

    def create(self, name: str, length: int) -> None:
        """Make a volume. Raises DuplicateError if there is one of that name; a half-made one is completed."""
        self._check_plain()

        async def work(store: Store) -> None:
            volume = secrets.token_hex(16)
            try:
                await store.put(_key(name), volume.encode(), create=True)
            except ExistsError:
                volume = await self._find(store, name)
                if await self._layout.published(store, volume):
                    raise DuplicateError(f"There is a volume {name}.") from None
            await self._layout.create(store, volume, length)

        if not _NAME.fullmatch(name):
            raise InvalidInputError(
                f"{name[:300]!r} is no volume's name: at most 200 letters, digits, '_', '-' and '.', "
                "which is not the first."
            )
        volumes.check("0" * 32, length)
        self._run(work)

    def extend(self, name: str, length: int) -> None:
        """Make a volume longer, also while this host uses it. Raises InvalidInputError if it is as long."""
        self._check_plain()

        async def now(store: Store) -> tuple[str, int]:
            volume = await self._find(store, name)
            return volume, await self._layout.length(store, volume)

        volume, before = self._run(now)
        if length <= before:
            raise InvalidInputError(f"{name} has {before} bytes; {length} is not more.")
        volumes.check(volume, length)

        async def work(store: Store) -> None:
            await self._check_at_rest(store, volume)
            await self._layout.extend(store, volume, length)

        try:
            serving.call(self._socket(volume), serving.Grow(length))
        except NotFoundError:
            self._run(work)

    def destroy(self, name: str) -> None:
        """Remove a volume with its snapshots. Raises ConflictError while a host uses it."""
        self._check_plain()
        volume = self._run(lambda store: self._find(store, name))
        if serving.running(self._socket(volume)):
            raise ConflictError(f"{name} is attached to this host.", remedy="Detach it first.")

        async def work(store: Store) -> None:
            await self._check_at_rest(store, volume)
            await self._layout.remove(store, volume)
            if not name.startswith("volume-"):
                await store.delete(_key(name))

        self._run(work)

    def volumes(self) -> list[Listed]:
        """Return all volumes, by name."""

        async def work(store: Store) -> list[Listed]:
            ids = {volume for volume in await self._layout.listed(store) if form.is_volume(volume)}
            names = {}
            for item in await everything(store, _NAMES):
                with suppress(NotFoundError, CorruptError):  # deleted meanwhile, or a stranger's
                    names[await _named(store, item.key)] = item.key.removeprefix(_NAMES)
            found = []
            for volume in sorted(ids):
                with suppress(NotFoundError):  # deleted meanwhile
                    name = names.get(volume) or reports.reference(str(UUID(volume)))
                    length = await self._layout.length(store, volume)
                    found.append(Listed(name=name, id=volume, length=length))
            return sorted(found, key=lambda one: one.name)

        return self._run(work)

    def data(self, name: str) -> dict[str, Any]:
        """Return what a host is told of a volume that it is to serve to itself."""
        self._check_plain()
        volume = self._run(lambda store: self._find(store, name))
        return {
            "volume_id": name,
            "export": volume,
            "backend": self.backend,
            "pool": self.pool,
            "pool_uuid": self._pools.uuid(self.pool),
            "durability": durability(self.settings.pools[self.pool]),
        }

    def collect(self) -> Collected:
        """Remove what the last look found to be nobody's, and look again. Raises UnsupportedError."""
        if self.settings.pools[self.pool].layout == "flat":
            raise UnsupportedError(f"Pool {self.pool} has the layout flat: what is deleted is gone at once.")
        return self._run(collect)

    def add_url(self, url: str) -> None:
        """Use one more endpoint, which has to show this pool; volumes in use here use it at once."""
        config = self._pools.with_url(self.pool, url)

        async def proven() -> None:
            await (await open_store(config)).close()

        asyncio.run(proven())
        self._pools.add_url(self.pool, url)
        self._tell(serving.Endpoints(add=self.urls()))

    def remove_url(self, url: str) -> None:
        """Use an endpoint no more. Raises NotFoundError, ConflictError for the last or a configured one."""
        known = self._pools.remove_url(self.pool, url)
        self._tell(serving.Endpoints(remove=[known]))

    def urls(self) -> list[str]:
        """Return the endpoints that this host uses."""
        return self._pools.urls(self.pool)

    def view(self, volume: str) -> serving.View | None:
        """Return how the process does that serves a volume, by its id, to this host; None = there is none."""
        return serving.running(self._socket(volume))

    def status(self) -> Status:
        """Look at every endpoint, and at what this host serves."""

        async def look() -> list[EndpointStatus]:
            config = self._pools.made(self.pool)
            try:
                store = await open_store(config)
            except BreezeblockError as error:
                return unreached(config.urls, error.message)
            try:
                await store.settled()
                return store.status().endpoints
            finally:
                await store.close()

        seen = [serving.running(path) for path in self._sockets()]
        attached = [one for one in seen if one is not None]
        now, uuid = asyncio.run(look()), self._pools.uuid(self.pool)
        users = [one.mirrors.endpoints for one in attached if one.mirrors.pool == uuid]
        return Status(pool=uuid, endpoints=together([now, *users]), attached=attached)

    async def _check_at_rest(self, store: Store, volume: str) -> None:
        """Raise ConflictError if another host has the volume. Of the layout flat, what changes it looks."""
        if self.settings.pools[self.pool].layout == "log":
            await volumes.check_at_rest(store, volume)

    def _check_plain(self) -> None:
        """Raise UnsupportedError for a thin pool: what its volumes hold is the service's to make."""
        if self.settings.pools[self.pool].thin:
            raise UnsupportedError(
                f"Pool {self.pool} is thin: its volumes are made and changed through the service.",
                remedy="Use `breezeblock volume` and `breezeblock attach`.",
            )

    async def _find(self, store: Store, name: str) -> str:
        """Return a volume's id. Raises NotFoundError."""
        if name.startswith("volume-"):
            with suppress(ValueError):
                volume = UUID(name.removeprefix("volume-")).hex
                if await self._layout.published(store, volume):
                    return volume
        else:
            with suppress(NotFoundError):
                return await _named(store, _key(name))
        raise NotFoundError(f"There is no volume {name}.", remedy="`breezeblock rest volumes` lists them.")

    def _run(self, work: Callable[[Store], Awaitable[_T]]) -> _T:
        return self._pools.run(self.pool, work)

    def _socket(self, volume: str) -> Path:
        return Path(self.settings.run_dir, volume)

    def _sockets(self) -> list[Path]:
        return serving.sockets(Path(self.settings.run_dir))

    def _tell(self, request: serving.Request) -> None:
        uuid = self._pools.uuid(self.pool)
        for path in self._sockets():
            view = serving.running(path)
            if view is not None and view.mirrors.pool == uuid:
                serving.call(path, request)


def _backends(config: Config) -> list[str]:
    return [name for name, section in config.backends.items() if section.get("kind") == "rest"]


def _only(known: list[str], asked: str, what: str) -> str:
    if asked in known:
        return asked
    if not asked and len(known) == 1:
        return known[0]
    listed = ", ".join(known) or "none"
    raise ConfigError(
        f"There is no {what} {asked} of object stores." if asked else f"Which {what} of object stores?",
        remedy=f"Configured here: {listed}.",
    )


def _key(name: str) -> str:
    if name.startswith("volume-"):
        raise UnsupportedError(f"{name}: names that begin with volume- are the service's.")
    return f"{_NAMES}{name}"


async def _named(store: Store, key: str) -> str:
    """Return the id that a name stands for; paths are made of it. Raises CorruptError for anything else."""
    said = (await store.get(key, 0, 64)).decode("ascii", "replace")
    if not form.is_volume(said):
        raise CorruptError(f"{key} in the store names no volume.", remedy="Delete that object.")
    return said
