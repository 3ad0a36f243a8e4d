"""The server's half of the negotiation, without any I/O.

`negotiate` is a generator: it yields what it wants (an `int`: so many bytes; `TLS`: encrypt from here on),
is sent what it wanted, and appends what is to be sent to `out`. It returns what was agreed on, or None
when the client took its leave. It raises HangUpError where the specification knows nothing better.
"""

from collections.abc import Generator, Mapping
from typing import Final, NamedTuple

from breezeblock.objects.nbd import wire
from breezeblock.objects.nbd.device import Device
from breezeblock.objects.nbd.wire import Option, Rep, Transmission

TLS: Final = "tls"
_MAX_OPTIONS = 64
"""Before a client must have decided; libnbd's shell tries dozens, a hostile client has no end."""
_MAX_OPTION_BYTES = 1 << 16
_PIECE_BYTES = 1 << 12
_CONTEXT_ID = 1


class HangUpError(Exception):
    """The client cannot be talked to; close the connection."""


class Agreed(NamedTuple):
    """What a client wants of which device."""

    device: Device
    structured: bool
    """Whether replies are structured."""
    allocation: bool
    """Whether the client may ask for block status."""


Talk = Generator[int | str, bytes, Agreed | None]


def negotiate(exports: Mapping[str, Device], out: bytearray, *, tls: bool) -> Talk:
    """Greet a client and answer its options; with `tls`, only encrypted."""
    return (yield from _Negotiation(exports, out, tls=tls).run())


def flags(device: Device, *, structured: bool) -> Transmission:
    """Return what can be done with a device."""
    can = Transmission.HAS_FLAGS | Transmission.CAN_MULTI_CONN
    can |= Transmission.SEND_FLUSH | Transmission.SEND_FUA | Transmission.SEND_CACHE
    if structured:
        can |= Transmission.SEND_DF
    if device.read_only:
        return can | Transmission.READ_ONLY
    return can | Transmission.SEND_TRIM | Transmission.SEND_WRITE_ZEROES | Transmission.SEND_FAST_ZERO


class _Negotiation:
    def __init__(self, exports: Mapping[str, Device], out: bytearray, *, tls: bool) -> None:
        self._exports = exports
        self._out = out
        self._tls_missing = tls
        self._no_zeroes = False
        self._structured = False
        self._allocation_of: Device | None = None
        """The export for which the client chose `base:allocation`."""

    def run(self) -> Talk:
        server = int(wire.Global.FIXED_NEWSTYLE | wire.Global.NO_ZEROES)
        self._out += wire.GREETING.pack(wire.GREETING_MAGIC, wire.OPTION_MAGIC, server)
        client = int.from_bytes((yield 4))
        if client & ~server:
            raise HangUpError(f"unknown client flags {client:#x}")
        self._no_zeroes = bool(client & wire.Global.NO_ZEROES)
        for _ in range(_MAX_OPTIONS):
            magic, option, length = wire.OPTION.unpack((yield wire.OPTION.size))
            if magic != wire.OPTION_MAGIC:
                raise HangUpError("an option without its magic number")
            if length > _MAX_OPTION_BYTES:
                raise HangUpError(f"an option of {length} bytes")
            data = b""
            while len(data) < length:
                data += yield min(length - len(data), _PIECE_BYTES)
            if option == Option.ABORT:
                self._reply(option, Rep.ACK)
                return None
            if option == Option.STARTTLS and self._tls_missing and not data:
                self._reply(option, Rep.ACK)
                yield TLS
                # What was agreed in the clear may have been somebody else's wish.
                self._tls_missing, self._structured, self._allocation_of = False, False, None
            elif self._tls_missing and option == Option.EXPORT_NAME:
                raise HangUpError("an export asked for without TLS")
            elif self._tls_missing:
                self._reply(option, Rep.ERR_TLS_REQD, b"This server speaks TLS only.")
            elif agreed := self._answer(option, data):
                return agreed
        raise HangUpError(f"more than {_MAX_OPTIONS} options")

    def _answer(self, option: int, data: bytes) -> Agreed | None:
        match option:
            case Option.EXPORT_NAME:
                return self._export_name(data)
            case Option.LIST:
                self._list(option, data)
            case Option.INFO | Option.GO:
                return self._info(option, data)
            case Option.STRUCTURED_REPLY:
                if data:
                    self._reply(option, Rep.ERR_INVALID, b"Structured replies take no data.")
                else:
                    self._structured = True
                    self._reply(option, Rep.ACK)
            case Option.LIST_META_CONTEXT | Option.SET_META_CONTEXT:
                self._meta_context(option, data)
            case Option.STARTTLS:
                error = Rep.ERR_INVALID if data else Rep.ERR_POLICY
                self._reply(option, error, b"TLS is on already, or not to be had here.")
            case _:
                self._reply(option, Rep.ERR_UNSUP)
        return None

    def _export_name(self, data: bytes) -> Agreed:
        device = self._find(data)
        if device is None or device.minimum_bytes > 1:
            # This option has no way to say no, nor to tell of blocks.
            raise HangUpError("an export that does not exist, or whose blocks the client does not know")
        self._out += wire.EXPORT.pack(device.length, flags(device, structured=self._structured))
        if not self._no_zeroes:
            self._out += bytes(124)
        return self._agreed(device)

    def _agreed(self, device: Device) -> Agreed:
        return Agreed(device, self._structured, self._allocation_of is device)

    def _find(self, name: bytes) -> Device | None:
        """Return the device of that name; no name means the only one."""
        try:
            text = name.decode()
        except UnicodeDecodeError:
            return None
        found = self._exports.get(text)
        if found is None and not text and len(self._exports) == 1:
            (found,) = self._exports.values()
        return found

    def _list(self, option: int, data: bytes) -> None:
        if data:
            self._reply(option, Rep.ERR_INVALID, b"A list takes no data.")
            return
        for name in self._exports:
            raw = name.encode()
            self._reply(option, Rep.SERVER, len(raw).to_bytes(4) + raw)
        self._reply(option, Rep.ACK)

    def _info(self, option: int, data: bytes) -> Agreed | None:
        name, rest = _string(data)
        if name is None or len(rest) < 2 or len(rest) != 2 + 2 * int.from_bytes(rest[:2]):
            self._reply(option, Rep.ERR_INVALID, b"Lengths inside do not agree.")
            return None
        device = self._find(name)
        if device is None:
            self._reply(option, Rep.ERR_UNKNOWN, b"There is no such export.")
            return None
        wanted = {int.from_bytes(rest[at : at + 2]) for at in range(2, len(rest), 2)}
        if device.minimum_bytes > 1 and option == Option.GO and wire.Info.BLOCK_SIZE not in wanted:
            self._reply(option, Rep.ERR_BLOCK_SIZE_REQD, b"Ask for the block sizes and heed them.")
            return None
        export = wire.INFO_EXPORT.pack(
            wire.Info.EXPORT, device.length, flags(device, structured=self._structured)
        )
        blocks = wire.INFO_BLOCK_SIZE.pack(
            wire.Info.BLOCK_SIZE, device.minimum_bytes, device.preferred_bytes, wire.MAX_PAYLOAD_BYTES
        )
        self._reply(option, Rep.INFO, export)
        self._reply(option, Rep.INFO, blocks)
        self._reply(option, Rep.ACK)
        return self._agreed(device) if option == Option.GO else None

    def _meta_context(self, option: int, data: bytes) -> None:
        setting = option == Option.SET_META_CONTEXT
        if setting:
            self._allocation_of = None
        name, rest = _string(data)
        queries = _strings(rest)
        if name is None or queries is None or (setting and not self._structured):
            self._reply(option, Rep.ERR_INVALID, b"Lengths do not agree, or replies are not structured.")
            return
        device = self._find(name)
        if device is None:
            self._reply(option, Rep.ERR_UNKNOWN, b"There is no such export.")
            return
        if wire.ALLOCATION in queries or (not setting and (not queries or b"base:" in queries)):
            number = _CONTEXT_ID if setting else 0
            self._reply(option, Rep.META_CONTEXT, wire.META_CONTEXT.pack(number) + wire.ALLOCATION)
            if setting:
                self._allocation_of = device
        self._reply(option, Rep.ACK)

    def _reply(self, option: int, kind: Rep, data: bytes = b"") -> None:
        self._out += wire.OPTION_REPLY.pack(wire.OPTION_REPLY_MAGIC, option, kind, len(data)) + data


def _string(data: bytes) -> tuple[bytes | None, bytes]:
    """Split off a string with its length before it; None if it is not all there."""
    length = int.from_bytes(data[:4])
    if len(data) < 4 + length or len(data) < 4 or length > wire.MAX_NAME_BYTES:
        return None, b""
    return data[4 : 4 + length], data[4 + length :]


def _strings(data: bytes) -> list[bytes] | None:
    """Return the strings of a counted list; None if the counts do not agree."""
    if len(data) < 4:
        return None
    count, rest = int.from_bytes(data[:4]), data[4:]
    found: list[bytes] = []
    while rest and len(found) < count:
        one, rest = _string(rest)
        if one is None:
            return None
        found.append(one)
    return found if len(found) == count and not rest else None
