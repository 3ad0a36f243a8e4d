"""A pool's identity: one small object, which every endpoint shows before it is used.

Two addresses that were thought to be one store, or a directory that is not mounted, would otherwise take
writes that nobody finds again. Beside it lies, for each endpoint, what its probe found: an endpoint is
written only after its own probe, for two gateways to one store may be of different kinds.
"""

import contextlib
import datetime as dt
import hashlib
import uuid
from typing import TypeVar

import msgspec

from breezeblock.errors import ConflictError, CorruptError, NotFoundError
from breezeblock.objects.probe import Probe, probe
from breezeblock.objects.stores.port import ExistsError, Store

KEY = "pool/identity"
VERSION = 1
_MOST = 1 << 16
_T = TypeVar("_T")


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What a pool says of itself."""

    uuid: str
    layout: str
    """`log` or `flat`: how its volumes lie in it."""
    made: str
    """When, as ISO 8601."""
    version: int = VERSION


class Probed(msgspec.Struct, frozen=True, kw_only=True):
    """What was found at one endpoint."""

    endpoint: str
    at: str
    probe: Probe


async def shown(store: Store) -> Identity | None:
    """Return the identity that is there, if one is."""
    try:
        return _decoded(await store.get(KEY, 0, _MOST), Identity)
    except NotFoundError:
        return None


async def prove(store: Store, expected: str, layout: str) -> None:
    """Make sure that this is the pool expected. Raises ConflictError."""
    found = await shown(store)
    if found is None:
        raise ConflictError(
            f"There is no pool {expected}, nor any other.", remedy="Look whether this is the right place."
        )
    if found.uuid != expected:
        raise ConflictError(
            f"There is the pool {found.uuid} instead of {expected}.",
            remedy="Remove this endpoint: it belongs to another store.",
        )
    if found.layout != layout:
        raise ConflictError(f"The pool {expected} has the layout {found.layout}, not {layout}.")
    if found.version != VERSION:
        raise ConflictError(f"The pool {expected} is of version {found.version}, we know {VERSION}.")


async def make(store: Store, endpoint: str, layout: str) -> Identity:
    """Make a pool where none is; if somebody else does so at the same time, there is one for both.

    Raises UnsupportedError if its probe speaks against the layout.
    """
    found = await probe(store)
    found.require(layout)
    identity = Identity(uuid=str(uuid.uuid4()), layout=layout, made=_now())
    with contextlib.suppress(ExistsError):  # somebody else, or our own answer was lost
        await store.put(KEY, msgspec.json.encode(identity), create=True)
    await _keep(store, endpoint, found)
    return await shown(store) or identity


async def qualify(store: Store, endpoint: str, layout: str) -> None:
    """Make sure that an endpoint was probed; do it now if not.

    Raises UnsupportedError if it may not be written in this layout.
    """
    try:
        found = _decoded(await store.get(_probe_key(endpoint), 0, _MOST), Probed).probe
    except NotFoundError:
        found = await probe(store)
        # A server that had a bad moment is refused now, and probed again; not for ever.
        if not any(one.again for one in found.findings):
            await _keep(store, endpoint, found)
    found.require(layout)


async def _keep(store: Store, endpoint: str, found: Probe) -> None:
    kept = Probed(endpoint=endpoint, at=_now(), probe=found)
    await store.put(_probe_key(endpoint), msgspec.json.encode(kept))


def _probe_key(endpoint: str) -> str:
    return f"pool/probe-{hashlib.sha256(endpoint.encode()).hexdigest()[:16]}"


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def _decoded(data: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise CorruptError(f"The pool's {kind.__name__.lower()} cannot be read: {error}.") from error
