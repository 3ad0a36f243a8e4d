"""Who may write a volume: an object that says so, and a lease where the store has such.

The object keeps honest hosts apart. It is no fence: what a host that lost its lock had sent before may still
arrive. So it is only broken by who knows that its holder is dead. A lease is a fence.
"""

import asyncio
import contextlib
import datetime as dt
import hashlib
import secrets
import socket
from pathlib import Path

import msgspec

from breezeblock.errors import ConflictError, NotFoundError
from breezeblock.objects.flat.watch import CHECK_S
from breezeblock.objects.stores.port import ExistsError, Leases, Store

_SETTLE_S = 0.5
"""Where creating is not atomic, of two who created at one moment the later one is seen by both after this."""


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """What the lock says."""

    holder: str
    """A host. Whoever has the same name may have the lock again: its process was killed."""
    token: str
    since: str
    """ISO 8601."""


class TakenError(ConflictError):
    """Somebody else has the volume."""


class Lock:
    """The right to write one volume."""

    def __init__(self, store: Store, key: str, holder: str, guarded: str) -> None:
        self._store, self._key, self._guarded = store, key, guarded
        self._own = Holder(
            holder=holder,
            token=secrets.token_hex(16),
            since=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        )

    async def take(self, *, steal: bool = False) -> None:
        """Become the holder. Raises TakenError if there is one of another name, unless told to `steal`."""
        body = msgspec.json.encode(self._own)
        try:
            await self._store.put(self._key, body, create=True)
        except ExistsError:
            found = await read(self._store, self._key)
            own = found is not None and found.holder == self._own.holder
            if found and not own and not steal:
                raise _taken(self._key, found) from None
            await self._store.put(self._key, body)
            if not own:
                await asyncio.sleep(2 * CHECK_S)  # by then whoever had it has looked, and stopped
        else:
            if not self._store.traits.create_only:
                await asyncio.sleep(_SETTLE_S)
        await self.check()
        if isinstance(self._store, Leases):
            await self._store.acquire(self._guarded, steal=True)

    async def check(self) -> None:
        """Raise TakenError if it was lost."""
        found = await read(self._store, self._key)
        if found != self._own:
            raise _taken(self._key, found)

    async def release(self) -> None:
        """Give it back; if it was lost, there is nothing to give."""
        with contextlib.suppress(TakenError):
            await self.check()
            if isinstance(self._store, Leases):
                await self._store.release(self._guarded)
            await self._store.delete(self._key)


def this_host() -> str:
    """Return this host as a holder: its name, and what tells it from another one of the same name."""
    try:
        machine = Path("/etc/machine-id").read_bytes().strip()
    except OSError:
        machine = b""
    return f"{socket.gethostname()} {hashlib.sha256(b'breezeblock' + machine).hexdigest()[:8]}"


async def read(store: Store, key: str) -> Holder | None:
    """Return who has a lock. One that cannot be read is somebody's."""
    try:
        return msgspec.json.decode(await store.get(key), type=Holder)
    except NotFoundError:
        return None
    except msgspec.DecodeError:
        return Holder(holder="unknown", token="", since="unknown")


def _taken(key: str, found: Holder | None) -> TakenError:
    volume = key.rpartition("/")[2]
    who = f"{found.holder} has it since {found.since}" if found else "its lock was removed"
    return TakenError(
        f"Volume {volume}: {who}.",
        remedy="Detach it there. If that host is dead for certain, attach with --steal.",
    )
