"""What the server serves: anything with a length in bytes that answers a handful of verbs.

Every verb may answer **now** or **later**: it returns its result if it can be had from memory, else an
awaitable of it. Most requests of a cached volume are answered now, and an event loop's task for each
would cost more than the request itself. So a verb must never block the event loop; what blocks goes to
a thread and is an awaitable.

Rules for implementations:

* Offsets and lengths are in bytes, were checked against `length`, and are multiples of `minimum_bytes`.
* **Overlapping writes, trims and zeroings take effect in the order in which the verbs were called**, even
  if the first is still unfinished. A client whose connection broke sends again what it got no answer to; an
  old copy that arrives on the disk late would undo newer data.
* **What was answered survives the death of this process**, flushed or not: a write that is done is in the
  page cache, or in a file's, and not only in our memory. Clients do not send again what was answered, and do
  not hear that a server that came back is another one.
* `flush` (and `fua=True`) covers what was answered before it was called, on whatever connection.
* A failure is an OSError, whose errno reaches the client if NBD knows it (ENOSPC, EPERM, EINVAL, ENOMEM,
  EOVERFLOW, ENOTSUP, ESHUTDOWN; all else is EIO), or one of `breezeblock.errors`, whose message does too.
"""

from collections.abc import Awaitable, Sequence
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

from breezeblock.objects.nbd.wire import State

_T = TypeVar("_T")
Soon: TypeAlias = _T | Awaitable[_T]
"""A result, or an awaitable of it. Results are never awaitable themselves."""

Data: TypeAlias = bytes | bytearray | memoryview


class Extent(NamedTuple):
    """So many bytes of one state."""

    length: int
    state: State


DATA = State(0)
"""Allocated, of unknown content."""
ZEROS = State.ZERO
"""Allocated, reads as zeros."""
HOLE = State.HOLE | State.ZERO
"""Not allocated, reads as zeros."""


class Device(Protocol):
    """A block device. Several connections use one at the same time."""

    @property
    def length(self) -> int:
        """Bytes. It may grow at any time; clients learn it when they connect, or ask again."""

    @property
    def minimum_bytes(self) -> int:
        """The smallest piece that can be read or written: a power of two from 1 to 65,536."""

    @property
    def preferred_bytes(self) -> int:
        """The smallest piece that costs no more than it must: a power of two, at least 512."""

    @property
    def read_only(self) -> bool:
        """Whether everything that changes data is refused before it comes here."""

    def read(self, offset: int, length: int) -> Soon[Data | list[Data]]:
        """Return `length` bytes, as one buffer or as a list of several.

        What is returned may be a view of live memory: the server sends it at once, and a write that
        changes it meanwhile was sent without waiting for this answer.
        """

    def write(self, offset: int, data: memoryview, *, fua: bool = False) -> Soon[None]:
        """Write `data`, which stays valid until this is done and not longer: copy what is kept.

        With `fua` it must survive a crash of this host before it is done.
        """

    def flush(self) -> Soon[None]:
        """Make everything that was answered so far survive a crash of this host."""

    def trim(self, offset: int, length: int, *, fua: bool = False) -> Soon[None]:
        """Give the bytes up; what they read as afterwards is the device's choice. May do nothing."""

    def zero(
        self, offset: int, length: int, *, fua: bool = False, may_trim: bool = True, fast: bool = False
    ) -> Soon[None]:
        """Let the bytes read as zeros, without giving their room up unless `may_trim`.

        With `fast`, raise OSError(ENOTSUP) at once if this would cost as much as writing them.
        """

    def cache(self, offset: int, length: int) -> Soon[None]:
        """Expect that these bytes will be read soon. A hint; may do nothing."""

    def extents(self, offset: int, length: int, limit: int) -> Soon[Sequence[Extent]]:
        """Tell what is where, from `offset` on: at least one extent and at most `limit`.

        Their sum may stay below `length` (the client asks again) or pass it (the rest is cut off).
        """

    async def close(self) -> None:
        """Be the barrier at the end: afterwards everything acknowledged is where it is kept for good.

        The server calls it once, when no request is left and no more will come.
        """
