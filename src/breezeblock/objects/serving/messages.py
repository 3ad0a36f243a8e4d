"""What is said to a serving process, and by it. Everything is JSON, a line each."""

import signal
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from breezeblock import errors
from breezeblock.errors import BreezeblockError, InvalidInputError
from breezeblock.objects.log.volumes import Memory
from breezeblock.objects.mirrors.status import MirrorsStatus
from breezeblock.objects.stores.opening import StoreConfig
from breezeblock.objects.stores.port import Item

MAX_LINE_BYTES = 1 << 16
"""The longest line that either side reads; a task, which has a pool's addresses, may be longer."""

ENDING = (signal.SIGTERM, signal.SIGINT)
"""Signals that mean: detach."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What to serve, and where."""

    store: StoreConfig
    volume: str
    socket: Path
    """Where NBD is spoken; the volume's name is the export's. The directory exists."""
    journal: Path
    """The volume's own directory on a local disk. Its parent exists."""
    memory: Memory = Memory()
    durability: Literal["local", "store"] = "local"
    """Where a flush puts what was written: into the journal, or into the store."""
    discard: bool = False
    """Give up what the journal holds if another host had the volume since, instead of refusing."""
    resume: bool = False
    """Go on only if nobody had the volume since the journal was written; never fence anybody off. In the
    layout flat: only if this host has the lock still."""
    steal: bool = False
    """In the layout flat: break the lock of another host, which is dead for certain."""
    image: Item | None = None
    """In read-only pools: the object that the volume is, as it was when it was managed."""


class Status(msgspec.Struct, frozen=True, tag_field="do", tag="status"):
    """Tell how things are."""


class Snapshot(msgspec.Struct, frozen=True, tag_field="do", tag="snapshot"):
    """Hold the volume as it is now. Done if there is one with this name."""

    name: str


class Grow(msgspec.Struct, frozen=True, tag_field="do", tag="grow"):
    """Make the volume longer, to so many bytes; done if it is."""

    length: int


class Flush(msgspec.Struct, frozen=True, tag_field="do", tag="flush"):
    """Put everything written into the store."""


class Compact(msgspec.Struct, frozen=True, tag_field="do", tag="compact"):
    """Write the live pages of these segments anew, so that a collection can remove them."""

    segments: list[int]


class Endpoints(msgspec.Struct, frozen=True, tag_field="do", tag="endpoints"):
    """Use more endpoints of the pool, and some no more. What is so already is no error.

    For as long as the worker is not killed: the next one has its task's, until it is told again
    (`breezeblock nbd keep` does it).
    """

    add: list[str] = []
    remove: list[str] = []


class Detach(msgspec.Struct, frozen=True, tag_field="do", tag="detach"):
    """Put everything into the store, leave nothing here, and end. Answered when it is done."""


Request: TypeAlias = Status | Snapshot | Grow | Flush | Compact | Endpoints | Detach


class View(msgspec.Struct, frozen=True, kw_only=True):
    """How a serving process is doing. Bytes, unless it says otherwise."""

    volume: str
    pid: int
    length: int
    connections: int
    """Of NBD clients."""
    trouble: str
    """Why the last upload did not succeed at once, or what keeps the store away; empty when all is well."""
    failed: str
    """What ended the writer; empty while it works."""
    mirrors: MirrorsStatus
    """Its store's endpoints."""
    # In the layout flat, where everything is in the store before it is answered, these stay as they are:
    epoch: int = 0
    """Of its claim to the volume: who has a higher one has taken the volume over."""
    written: int = 0
    """The number of the last write that was taken."""
    stored: int = 0
    """The number of the last write that is in the store."""
    waiting_segments: int = 0
    """Full ones, that the store has not confirmed."""
    waiting_age_s: float = 0.0
    """Of the oldest write that the store has not."""
    uploaded_bytes: int = 0
    journal_bytes: int = 0
    cached_bytes: int = 0


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of a request."""

    error: str = ""
    """The class of `breezeblock.errors`; empty if it was done."""
    message: str = ""
    remedy: str = ""
    view: View | None = None


def control_path(socket: Path) -> Path:
    """Return where the process that serves NBD on `socket` listens for requests."""
    return socket.with_name(socket.name + ".control")


def lock_path(socket: Path) -> Path:
    """Return the file that is locked for as long as there is a keeper."""
    return socket.with_name(socket.name + ".lock")


def failure(error: Exception) -> Answer:
    """Write an error down."""
    if not isinstance(error, BreezeblockError):
        return Answer(error="UnavailableError", message=f"{type(error).__name__}: {error}.")
    known = next(one.__name__ for one in type(error).__mro__ if hasattr(errors, one.__name__))
    return Answer(error=known, message=error.message, remedy=error.remedy)


def checked(answer: Answer) -> Answer:
    """Return the answer; raise the error that it tells of."""
    if not answer.error:
        return answer
    kind = getattr(errors, answer.error, BreezeblockError)
    raise kind(answer.message, remedy=answer.remedy)


def packed(task: Task) -> bytes:
    """Return a task as it travels."""
    return msgspec.json.encode(task, enc_hook=str)


def unpacked(said: bytes) -> Task:
    """Return the task that was sent. Raises InvalidInputError."""
    try:
        return msgspec.json.decode(said, type=Task, dec_hook=lambda kind, text: kind(text))
    except msgspec.DecodeError as error:
        raise InvalidInputError(f"That is no task: {error}.") from None


def line(message: msgspec.Struct) -> bytes:
    """Return a message as it travels."""
    return msgspec.json.encode(message) + b"\n"
