"""A gate before the NFS server: what comes through can be held, or everybody thrown out."""

import socket
import threading
from contextlib import suppress

SERVER = ("127.0.0.1", 2049)


class Gate:
    """Forwards TCP to the server."""

    def __init__(self) -> None:
        self._flowing = threading.Event()
        self._flowing.set()
        self._open: list[socket.socket] = []
        self._listener = self._listen(0)
        self.port: int = self._listener.getsockname()[1]

    def hold(self) -> None:
        """Let nothing through and say nothing: a server that stopped answering."""
        self._flowing.clear()

    def close(self) -> None:
        """Refuse and cut off everybody: a server that died."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._cut()

    def open(self) -> None:
        """Be as at first."""
        self._flowing.set()
        if self._listener.fileno() < 0:
            self._listener = self._listen(self.port)

    def _cut(self) -> None:
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open.clear()

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port), backlog=64)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _address = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(SERVER, 5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            self._open += [client, server]
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 18):
                self._flowing.wait()
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
