"""What a store of objects can do for us: a few verbs, and a declaration of which ones it really has.

The layouts above ask for traits, never for a brand: *log* needs `create_only`, *flat* needs
`ranged_write`. What a store claims here is what its protocol promises; whether the server keeps that is
found out by `breezeblock.objects.probe` before a pool is written.

Keys are relative paths of `[A-Za-z0-9._-]` parts joined by `/`. Every verb may be cancelled and run again.
Errors: `NotFoundError` for an absent key, `ExistsError` for a create-only put that lost, `ChangedError` for
a condition that failed, `UnavailableError` for what may work later, `ForbiddenError` for credentials.
"""

import functools
import re
from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

import msgspec

from breezeblock.errors import ConflictError, DuplicateError, InvalidInputError

_T = TypeVar("_T")
MAX_OBJECT_BYTES = 64 << 20
"""The largest object that is ever read or written as a whole: a segment has 8 MiB."""

Body = bytes | bytearray | memoryview
"""What is stored; it stays as it is until the call returns."""

_KEY = re.compile(r"(?!.*(^|/)\.)[A-Za-z0-9._-]{1,200}(/[A-Za-z0-9._-]{1,200}){0,7}", re.ASCII)


class ExistsError(DuplicateError):
    """A put that may only create met an object under that key."""


class ChangedError(ConflictError):
    """The object is not the one that the condition named."""


class Traits(msgspec.Struct, frozen=True, kw_only=True):
    """What the protocol promises."""

    writable: bool = True
    create_only: bool = False
    """`put(create=True)` is atomic: of two, exactly one wins."""
    conditional: bool = False
    """`put(match=tag)` is atomic, and `tag` of `head` is strong."""
    ranged_write: bool = False
    """`put_range` changes exactly its bytes, past the end too."""
    listing: bool = False
    alignment: int = 1
    """Ranged writes begin and end at multiples of so many bytes."""
    fixed_length: bool = False
    """Objects written by range are made with a length (`Sized.resize`) before."""
    holes: bool = False
    """`Sized.clear` is quick and gives room back."""
    host_local: bool = False
    """Only one host sees it: whoever has a file lock is the only writer."""


class Item(msgspec.Struct, frozen=True):
    """What is known of an object without reading it."""

    key: str
    length: int
    """Bytes."""
    tag: str = ""
    """Changes with the content; empty if the store has none, or only a weak one."""
    modified: str = ""
    """When it last changed, as the store writes it; empty where it was not told."""


def same(was: Item, now: Item) -> bool:
    """Tell whether an object is what it was, by its length, and by its tag or date if both times it was told.

    A server that has a strong tag only some time after a change (Apache) is not one that lies.
    """
    if was.length != now.length:
        return False
    if was.tag and now.tag:
        return was.tag == now.tag
    return was.modified == now.modified or not (was.modified and now.modified)


class Page(msgspec.Struct, frozen=True):
    """A part of a listing."""

    items: list[Item]
    more: str = ""
    """Where to go on, for `after`; empty at the end."""


class Store(Protocol):
    """A store, or the part of one under a prefix. Lives on one event loop."""

    @property
    def traits(self) -> Traits:
        """What may be asked of it."""

    async def get(self, key: str, first: int = 0, length: int | None = None) -> bytes:
        """Return so many bytes from `first` on, or all; fewer where the object ends before.

        Raises NotFoundError; InvalidInputError for a whole object of over 64 MiB.
        """

    async def put(self, key: str, body: Body, *, create: bool = False, match: str = "") -> None:
        """Store the object, atomically. Raises ExistsError (`create`), ChangedError (`match`).

        A put whose answer was lost may have happened: ExistsError after a repeat can be one's own work.
        """

    async def put_range(self, key: str, offset: int, body: Body) -> None:
        """Change bytes of an object that is there. Durable when done. Raises NotFoundError."""

    async def delete(self, key: str) -> None:
        """Remove the object; one that is absent counts as success."""

    async def head(self, key: str) -> Item:
        """Tell length and tag. Raises NotFoundError."""

    async def page(self, prefix: str, after: str = "") -> Page:
        """Return objects whose keys begin with `prefix`, in no order; `after` is an earlier page's `more`."""

    async def close(self) -> None:
        """End all connections."""


@runtime_checkable
class Judged(Protocol):
    """Stores that have the same bytes from several sides."""

    async def get_judged(self, key: str, first: int, length: int | None, judge: Callable[[bytes], _T]) -> _T:
        """Return what `judge` makes of bytes; where it raises CorruptError, the other sides are asked."""


@runtime_checkable
class Watchful(Protocol):
    """Stores whose answers tell which state of an object they are from."""

    async def get_same(self, item: Item, first: int, length: int) -> bytes:
        """Return bytes of an object that is what it was. Raises ChangedError."""


@runtime_checkable
class Connected(Protocol):
    """Stores that are reached over connections."""

    @property
    def connections(self) -> int:
        """How many are open."""


@runtime_checkable
class Sized(Protocol):
    """Stores whose objects have a length that can be set (page blobs, files, Scality's CDMI)."""

    async def resize(self, key: str, length: int, *, create: bool = False) -> None:
        """Give the object a length in bytes; what is new reads as zeros."""

    async def clear(self, key: str, offset: int, length: int) -> None:
        """Let bytes read as zeros and give their room back where that is possible."""


class Room(msgspec.Struct, frozen=True):
    """How much a store holds, in bytes."""

    total_bytes: int
    free_bytes: int


@runtime_checkable
class Measured(Protocol):
    """Stores that may know how much they hold."""

    async def room(self) -> Room | None:
        """Return what the store tells of its room; None if this one tells nothing."""


@runtime_checkable
class Snapshots(Protocol):
    """Stores that take snapshots of an object themselves, in constant time."""

    async def snapshot(self, key: str) -> str:
        """Take one; return its name, with which `get_snapshot` reads."""

    async def get_snapshot(self, key: str, name: str, first: int, length: int) -> bytes:
        """Read bytes of a snapshot."""

    async def delete_snapshot(self, key: str, name: str) -> None:
        """Remove one; absent counts as success."""


@runtime_checkable
class Leases(Protocol):
    """Stores that let one writer at a time change an object."""

    async def acquire(self, key: str, *, steal: bool = False) -> str:
        """Take the lease; return its name. All changes through this store then carry it."""

    async def release(self, key: str) -> None:
        """Give the lease back; not having it counts as success."""


async def get_same(store: Store, item: Item, first: int, length: int) -> bytes:
    """Return bytes of an object; where the store can tell, ChangedError if it is not what it was."""
    if isinstance(store, Watchful):
        return await store.get_same(item, first, length)
    return await store.get(item.key, first, length)


async def judged(
    store: Store, key: str, judge: Callable[[bytes], _T], first: int = 0, length: int | None = None
) -> _T:
    """Return what `judge` makes of bytes of an object. Raises CorruptError if no side has sound ones."""
    if isinstance(store, Judged):
        return await store.get_judged(key, first, length, judge)
    return judge(await store.get(key, first, length))


@functools.lru_cache(1024)
def is_key(text: str) -> bool:
    """Tell whether this may be a key. A store may list others, which are somebody else's."""
    return _KEY.fullmatch(text) is not None


def checked(key: str) -> str:
    """Return the key if it is one. Raises InvalidInputError."""
    if not is_key(key):
        raise InvalidInputError(f"{key!r} is no key: parts of letters, digits, '.', '_', '-' joined by '/'.")
    return key


async def everything(store: Store, prefix: str) -> list[Item]:
    """Return all objects under a prefix, sorted by key."""
    page = await store.page(prefix)
    items = list(page.items)
    while page.more:
        page = await store.page(prefix, page.more)
        items += page.items
    return sorted(items, key=lambda item: item.key)
