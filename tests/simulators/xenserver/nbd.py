"""The NBD server of a host: disks to read, over TLS only, named by `VDI.get_nbd_info`.

As XenServer's own: fixed newstyle, STARTTLS, EXPORT_NAME, simple replies; other options are unsupported.
"""

import socket
import socketserver
import ssl
import struct
import threading
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from xenserver.calls import _session
from xenserver.failures import Failure
from xenserver.pool import Pool

OPTION_MAGIC, REPLY_MAGIC = b"IHAVEOPT", 0x0003E889045565A9
EXPORT_NAME, ABORT, STARTTLS = 1, 2, 5
ACK, UNSUPPORTED, TLS_REQUIRED = 1, 0x80000001, 0x80000005
READ, WRITE, DISCONNECT = 0, 1, 2
HAS_FLAGS_READ_ONLY = 3
EPERM, EINVAL = 1, 22


class Handler(socketserver.BaseRequestHandler):
    """One client."""

    server: "NbdServer"
    stream: socket.socket

    def handle(self) -> None:
        """Negotiate, then serve reads until the client goes."""
        self.stream = self.request
        try:
            self.stream.sendall(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3))
            (flags,) = struct.unpack(">I", self.take(4))
            uuid = self.negotiate()
            if not uuid:
                return
            engine, size = self.server.disk(uuid)
            self.stream.sendall(
                struct.pack(">QH", size, HAS_FLAGS_READ_ONLY) + (b"" if flags & 2 else bytes(124))
            )
            self.serve(engine, uuid, size)
        except (OSError, EOFError, Failure):
            return

    def negotiate(self) -> str:
        """Answer options; return the disk that was asked for, or nothing."""
        secure = False
        while True:
            magic, option, length = struct.unpack(">8sII", self.take(16))
            data = self.take(length)
            if magic != OPTION_MAGIC or option == ABORT:
                return ""
            if option == STARTTLS and not secure:
                self.answer(option, ACK)
                self.stream = self.server.tls.wrap_socket(self.stream, server_side=True)
                secure = True
            elif option == EXPORT_NAME:
                return self.server.allowed(data.decode()) if secure else ""
            else:
                self.answer(option, UNSUPPORTED if secure else TLS_REQUIRED)

    def serve(self, engine: Any, uuid: str, size: int) -> None:
        """Answer reads."""
        pool = self.server.pool
        while True:
            _magic, _flags, command, handle, offset, length = struct.unpack(">IHHQQI", self.take(28))
            if command == DISCONNECT:
                return
            error, data = 0, b""
            if command == READ and offset + length <= size:
                pool.provoke("nbd", after=False)
                with pool.storage_lock:
                    data = engine.read(uuid, offset, length)
            else:
                error = EINVAL if command == READ else EPERM
                if command == WRITE:
                    self.take(length)
            self.stream.sendall(struct.pack(">IIQ", 0x67446698, error, handle) + data)

    def answer(self, option: int, kind: int) -> None:
        """Answer an option without data."""
        self.stream.sendall(struct.pack(">QIII", REPLY_MAGIC, option, kind, 0))

    def take(self, length: int) -> bytes:
        """Read exactly."""
        held = b""
        while len(held) < length:
            data = self.stream.recv(length - len(held))
            if not data:
                raise EOFError
            held += data
        return held


class NbdServer(socketserver.ThreadingTCPServer):
    """One host's."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, pool: Pool, host: str, certificate: Path) -> None:
        self.pool, self.host = pool, host
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(certificate)
        super().__init__((pool.db.row("host", host)["address"], 0), Handler)

    def allowed(self, name: str) -> str:
        """Return the disk that an export's name means, if its session is good."""
        parts = urlsplit(name)
        _session(self.pool, parse_qs(parts.query).get("session_id", []), "nbd")
        return parts.path.removeprefix("/")

    def disk(self, uuid: str) -> tuple[Any, int]:
        """Return a disk's engine and size."""
        row = self.pool.db.row("VDI", self.pool.db.find("VDI", uuid))
        return self.pool.engine(row["SR"]), row["virtual_size"]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that went away."""

    def start(self) -> tuple[str, int]:
        """Serve on a thread of its own; return where."""
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True).start()
        return self.server_address[0], self.server_address[1]  # type: ignore[return-value]
