"""How a back end's verbs travel between the service and a helper process.

Frames on a stream socket: four bytes of length, then MessagePack. The contract's arguments and results
are plain values, so the messages are read off its signatures: a verb that is added to the contract
travels without another line here. What is not a value stays: `Attempt.progress` and
`Attempt.cancelled` become messages, and `open_data`, which hands out an open file, does not travel.
"""

import inspect
import socket
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from breezeblock import errors
from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Backend
from breezeblock.errors import BreezeblockError, UnavailableError

MAX_FRAME_BYTES = 1 << 30
"""An inventory of a million files is about a fifth of it."""
_CHUNK_BYTES = 1 << 18

STAYING = frozenset({"capabilities", "open_data"})
"""Verbs that are never sent: the first is constant, the second returns no value."""


class Hello(msgspec.Struct, frozen=True, tag=True):
    """The first message to a helper: which back end to be."""

    name: str
    opener: str
    """`module:function` that takes (name, config, state directory)."""
    config_type: str
    """`module:class` of the settings."""
    config: msgspec.Raw
    state_dir: str


class Call(msgspec.Struct, frozen=True, tag=True):
    """Make a call."""

    number: int
    verb: str
    arguments: msgspec.Raw


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """From now on `Attempt.cancelled` of that call says True."""

    number: int


class Progress(msgspec.Struct, frozen=True, tag=True):
    """`Attempt.progress` was called."""

    number: int
    done: int
    total: int


class Result(msgspec.Struct, frozen=True, tag=True):
    """The verb returned."""

    number: int
    value: msgspec.Raw


class Failure(msgspec.Struct, frozen=True, tag=True):
    """The verb raised."""

    number: int
    kind: str
    """The class, one of `breezeblock.errors`; empty for an error that is none of ours."""
    message: str
    remedy: str = ""


class Trying(msgspec.Struct, frozen=True):
    """The part of an `Attempt` that is a value."""

    operation_id: str
    token: str
    io_bytes_per_s: int = 0


ToHelper = Hello | Call | Cancel
FromHelper = Progress | Result | Failure


@dataclass(frozen=True, slots=True)
class Verb:
    """How one verb's arguments and result are written."""

    signature: inspect.Signature
    arguments: msgspec.msgpack.Decoder[Any]
    result: msgspec.msgpack.Decoder[Any]


@cache
def verbs() -> Mapping[str, Verb]:
    """Read every verb that can be sent off the contract."""
    return {
        name: _verb(function)
        for name, function in vars(Backend).items()
        if inspect.isfunction(function) and not name.startswith("_") and name not in STAYING
    }


def _verb(function: Any) -> Verb:
    hints = get_type_hints(function)
    signature = inspect.signature(function)
    parameters = list(signature.parameters)[1:]  # without self
    kinds = tuple(Trying if hints[name] is Attempt else hints[name] for name in parameters)
    result = hints["return"]
    if get_origin(result) is Iterator:
        result = list[get_args(result)[0]]  # type: ignore[misc]  # a list of what it yields
    return Verb(
        signature.replace(parameters=list(signature.parameters.values())[1:]),
        msgspec.msgpack.Decoder(types.GenericAlias(tuple, kinds)),
        msgspec.msgpack.Decoder(result),
    )


def failure(number: int, error: Exception) -> Failure:
    """Describe an error for the other side."""
    if isinstance(error, BreezeblockError):
        return Failure(number, type(error).__name__, error.message, error.remedy)
    return Failure(number, "", f"{type(error).__name__}: {error}")


def raised(failed: Failure) -> Exception:
    """Return the error that a `Failure` describes."""
    kind = getattr(errors, failed.kind, None) if failed.kind else None
    if isinstance(kind, type) and issubclass(kind, BreezeblockError):
        return kind(failed.message, remedy=failed.remedy)
    return RuntimeError(f"in a helper process: {failed.message}")


def send(to: socket.socket, message: ToHelper | FromHelper) -> None:
    """Send one message. Raises OSError; callers hold a lock, so that frames do not mix."""
    data = _encoder.encode(message)
    if len(data) > MAX_FRAME_BYTES:
        raise UnavailableError(f"A message of {len(data)} bytes passes the limit of {MAX_FRAME_BYTES}.")
    to.sendall(len(data).to_bytes(4, "big") + data)


def frames(of: socket.socket) -> Iterator[bytes]:
    """Yield what arrives until the other side is gone."""
    buffer = bytearray()
    wanted = -1
    while True:
        if wanted < 0 and len(buffer) >= 4:
            wanted = int.from_bytes(buffer[:4], "big")
            if wanted > MAX_FRAME_BYTES:
                return
        if 0 <= wanted <= len(buffer) - 4:
            yield bytes(buffer[4 : 4 + wanted])
            del buffer[: 4 + wanted]
            wanted = -1
            continue
        try:
            chunk = of.recv(_CHUNK_BYTES)
        except OSError:
            return
        if not chunk:
            return
        buffer += chunk


_encoder = msgspec.msgpack.Encoder()
to_helper: msgspec.msgpack.Decoder[ToHelper] = msgspec.msgpack.Decoder(ToHelper)
from_helper: msgspec.msgpack.Decoder[FromHelper] = msgspec.msgpack.Decoder(FromHelper)
