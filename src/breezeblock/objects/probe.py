"""Find out what a store really does, on scratch keys, before a pool may be written.

Half of all servers ignore conditions silently, or take a part for the whole object: what a protocol
promises says little. The trials destroy nothing but their own scratch objects.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable

import msgspec

from breezeblock.errors import BreezeblockError, NotFoundError, UnsupportedError
from breezeblock.objects.stores.port import ChangedError, ExistsError, Sized, Store

_ROUNDS = 12
"""A race that is lost now and then must be run several times to be seen."""
_CLEAN_S = 5.0
_OLD, _NEW = b"old" * 3000, b"new" * 2000


class Finding(msgspec.Struct, frozen=True):
    """One trial."""

    trial: str
    passed: bool
    seen: str = ""
    """What happened instead."""
    needed_by: tuple[str, ...] = ()
    """The layouts that cannot do without."""
    again: bool = False
    """It failed in a way that may be another one next time: it says little of the store."""


class Probe(msgspec.Struct, frozen=True):
    """What is known of a store now."""

    findings: list[Finding]

    def can(self, layout: str) -> bool:
        """Tell whether a layout (`log`, `flat`) may be used."""
        return any(layout in one.needed_by for one in self.findings) and not self.against(layout)

    def against(self, layout: str) -> list[Finding]:
        """Return what speaks against a layout."""
        return [one for one in self.findings if layout in one.needed_by and not one.passed]

    def require(self, layout: str) -> None:
        """Raise UnsupportedError, with the findings, if the layout may not be used."""
        if self.can(layout):
            return
        reasons = "; ".join(f"{one.trial}: {one.seen}" for one in self.against(layout))
        raise UnsupportedError(
            f"This store cannot hold volumes in the layout {layout}. {reasons or 'It was not tried.'}",
            remedy="Use another server or another layout; nothing but scratch objects was written.",
        )


_Trial = Callable[[Store, str], Awaitable[str]]
"""Returns what was wrong, or nothing."""


async def probe(store: Store) -> Probe:
    """Try everything that the store's protocol promises. Raises UnavailableError if it does not answer."""
    scratch = f"scratch/{secrets.token_hex(8)}"
    traits = store.traits
    if not traits.writable:
        return Probe([])
    both, log, flat = ("log", "flat"), ("log",), ("flat",)
    trials: list[tuple[str, _Trial, tuple[str, ...], bool]] = [
        ("store and read back", _whole, both, True),
        ("read a part", _part, both, True),
        ("create only what is not there", _create, both, True),
        ("of many creators one wins", _race, log, traits.create_only),
        ("list what was just stored", _list, log, traits.listing),
        ("delete", _delete, both, True),
        ("change only what was not changed", _match, (), traits.conditional),
        ("write a part and nothing else", _range, flat, traits.ranged_write),
    ]
    findings = []
    for number, (name, trial, needed_by, promised) in enumerate(trials):
        key, again = f"{scratch}-{number}", False
        try:
            seen = await trial(store, key) if promised else "the protocol does not have it"
        except BreezeblockError as error:
            if not error.permanent and not number:
                raise
            seen, again = str(error), not error.permanent
        finally:  # also of a probe that is broken off, but it must not wait long then
            with contextlib.suppress(BreezeblockError, TimeoutError):  # the trial of deleting says so
                async with asyncio.timeout(_CLEAN_S):
                    await store.delete(key)
        findings.append(Finding(name, not seen, seen, needed_by, again))
    return Probe(findings)


async def _whole(store: Store, key: str) -> str:
    await store.put(key, _OLD)
    if await store.get(key) != _OLD:
        return "what was read is not what was stored"
    await store.put(key, _NEW)
    return "" if await store.get(key) == _NEW else "an object that was replaced kept its old content"


async def _part(store: Store, key: str) -> str:
    await store.put(key, _OLD)
    if await store.get(key, 1000, 10) != _OLD[1000:1010]:
        return "a part that was read is not that part"
    if await store.get(key, len(_OLD) - 5, 100) != _OLD[-5:]:
        return "a part across the end is not what is there"
    if await store.get(key, len(_OLD) + 5, 10):
        return "there is something behind the end"
    try:
        await store.get(f"{key}-absent", 0, 10)
    except NotFoundError:
        return ""
    return "an object that was never stored can be read"


async def _create(store: Store, key: str) -> str:
    await store.put(key, _OLD, create=True)
    try:
        await store.put(key, _NEW, create=True)
    except ExistsError:
        return "" if await store.get(key) == _OLD else "it refused to overwrite, and overwrote"
    return "the condition is ignored: an object was overwritten"


async def _race(store: Store, key: str) -> str:
    bodies = [bytes([number]) * 5000 for number in range(8)]
    for _ in range(_ROUNDS):
        results = await asyncio.gather(
            *(store.put(key, body, create=True) for body in bodies), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BreezeblockError) and not result.permanent:
                raise result  # nobody knows whether that one won
        won = [number for number, result in enumerate(results) if result is None]
        if len(won) != 1:
            return f"{len(won)} of 8 creators were told that they had won"
        if await store.get(key) != bodies[won[0]]:
            return "the winner's object is not the one there"
        await store.delete(key)
    return ""


async def _list(store: Store, key: str) -> str:
    await store.put(key, _OLD)
    page = await store.page(key)
    return (
        "" if [item.key for item in page.items] == [key] else "an object that was just stored is not listed"
    )


async def _delete(store: Store, key: str) -> str:
    await store.put(key, _OLD)
    await store.delete(key)
    await store.delete(key)
    try:
        await store.get(key)
    except NotFoundError:
        return ""
    return "an object that was deleted can be read"


async def _match(store: Store, key: str) -> str:
    await store.put(key, _OLD)
    tag = (await store.head(key)).tag
    if not tag:
        return "there are no strong tags"
    await store.put(key, _NEW, match=tag)
    try:
        await store.put(key, _OLD, match=tag)
    except ChangedError:
        return ""
    return "the condition is ignored: what somebody else had changed was overwritten"


async def _range(store: Store, key: str) -> str:
    if isinstance(store, Sized) and store.traits.fixed_length:
        await store.resize(key, 34 * 512, create=True)
        await store.put_range(key, 0, _OLD[:8704])
        await store.put_range(key, 512, _NEW[:512])
        return (
            ""
            if await store.get(key, 0, 8704) == _OLD[:512] + _NEW[:512] + _OLD[1024:8704]
            else "other bytes changed"
        )
    await store.put(key, _OLD)
    await store.put_range(key, 1000, b"part")
    if await store.get(key) != _OLD[:1000] + b"part" + _OLD[1004:]:
        return "writing a part destroyed the rest of the object"
    await store.put_range(key, len(_OLD) + 4096, b"end")
    if await store.get(key, len(_OLD), 5000) != bytes(4096) + b"end":
        return "what lies between the old end and a part behind it is not zeros"
    return ""
