"""Reading a disk at any place, over NBD with TLS, as `VDI.get_nbd_info` offers it.

The fixed newstyle handshake with STARTTLS and EXPORT_NAME, and simple replies: what XenServer's own
server speaks (protocol: github.com/NetworkBlockDevice/nbd, doc/proto.md). Reading only; so is the server.
"""

import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from breezeblock.errors import UnavailableError
from breezeblock.xenapi.records import NbdExport, decode
from breezeblock.xenapi.session import Session

_MAGIC, _OPTION_MAGIC, _REPLY_MAGIC = b"NBDMAGIC", b"IHAVEOPT", 0x0003E889045565A9
_REQUEST_MAGIC, _SIMPLE_MAGIC = 0x25609513, 0x67446698
_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2
_EXPORT_NAME, _STARTTLS = 1, 5
_ACK = 1
_READ, _DISCONNECT = 0, 2
MAX_READ_BYTES = 1 << 20
MAX_OPTION_BYTES = 4096
TIMEOUT_S = 60.0


class Export:
    """An open disk."""

    def __init__(self, stream: socket.socket, virtual_bytes: int) -> None:
        self._stream = stream
        self.virtual_bytes = virtual_bytes
        self._handle = 0

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes, at most `MAX_READ_BYTES`. Raises UnavailableError."""
        self._handle += 1
        request = struct.pack(">IHHQQI", _REQUEST_MAGIC, 0, _READ, self._handle, offset, length)
        with _told("read"):
            self._stream.sendall(request)
            magic, error, handle = struct.unpack(">IIQ", _exactly(self._stream, 16))
            if magic != _SIMPLE_MAGIC or handle != self._handle:
                raise UnavailableError("The NBD server answered something else.")
            if error:
                raise UnavailableError(f"The NBD server could not read {length} bytes at {offset}: {error}.")
            return _exactly(self._stream, length)

    def close(self) -> None:
        """Say goodbye."""
        with suppress(OSError):
            self._stream.sendall(struct.pack(">IHHQQI", _REQUEST_MAGIC, 0, _DISCONNECT, 0, 0, 0))
        self._stream.close()


def offers(session: Session, vdi: str) -> list[NbdExport]:
    """Return where a disk can be read; nowhere unless a network of the pool is marked for NBD."""
    return decode(session.call("VDI.get_nbd_info", vdi), list[NbdExport])


@contextmanager
def opened(where: NbdExport) -> Iterator[Export]:
    """Connect, check the server's certificate against the one that the pool named, and open the disk."""
    with _told("connect to"):
        plain = socket.create_connection((where.address, where.port), TIMEOUT_S)
    export = None
    try:
        with _told("negotiate with"):
            flags = _greet(plain)
            stream = _start_tls(plain, where)
            name = where.exportname.encode()
            stream.sendall(_OPTION_MAGIC + struct.pack(">II", _EXPORT_NAME, len(name)) + name)
            virtual_bytes, _transmission = struct.unpack(">QH", _exactly(stream, 10))
            if not flags & _NO_ZEROES:
                _exactly(stream, 124)
        export = Export(stream, virtual_bytes)
        yield export
    finally:
        if export:
            export.close()
        plain.close()


def _greet(plain: socket.socket) -> int:
    magic, option_magic, flags = struct.unpack(">8s8sH", _exactly(plain, 18))
    if (magic, option_magic) != (_MAGIC, _OPTION_MAGIC) or not flags & _FIXED_NEWSTYLE:
        raise UnavailableError("This is no NBD server of the kind that XenServer has.")
    held = flags & (_FIXED_NEWSTYLE | _NO_ZEROES)
    plain.sendall(struct.pack(">I", held))
    return int(held)


def _start_tls(plain: socket.socket, where: NbdExport) -> ssl.SSLSocket:
    plain.sendall(_OPTION_MAGIC + struct.pack(">II", _STARTTLS, 0))
    magic, _option, answer, length = struct.unpack(">QIII", _exactly(plain, 20))
    if magic != _REPLY_MAGIC or length > MAX_OPTION_BYTES:
        raise UnavailableError("The NBD server answered something else.")
    _exactly(plain, length)
    if answer != _ACK:  # the export's name holds the session: it is never said in clear
        raise UnavailableError("The NBD server has no TLS.", remedy="Mark the network `nbd`, not insecure.")
    if not where.cert:
        raise UnavailableError("The pool named no certificate of its NBD server.")
    context = ssl.create_default_context(cadata=where.cert)
    # What the pool names is the server's own certificate, whoever signed it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    return context.wrap_socket(plain, server_hostname=where.subject)


def _exactly(stream: socket.socket, length: int) -> bytes:
    held = bytearray()
    while len(held) < length:
        data = stream.recv(length - len(held))
        if not data:
            raise UnavailableError("The NBD server hung up.")
        held += data
    return bytes(held)


@contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnavailableError(f"Could not {what} the NBD server: {error}.") from error
