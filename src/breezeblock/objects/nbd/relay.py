"""A relay between clients and a server: what the server did not answer it asks the server's successor.

So the server may be killed, upgraded or moved, and clients see a pause as long as that takes, and nothing
else. It is made for the kernel, which by itself sends again what a dead server did not answer only when its
request timeout is over.

Each client has a connection of its own to the server, and its bytes pass through as they are, many requests
in one piece: only their headers are read, to know what is under way. A request stays where it was received
until it is answered. Two threads for a client, one each way, wait in the kernel and nowhere else: that takes
half as many system calls as an event loop, and which way a connection is stuck never matters to the other.
"""

import signal
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import structlog

from breezeblock.errors import BreezeblockError
from breezeblock.objects.nbd import client, wire
from breezeblock.objects.nbd.passing import LeftError, introduce
from breezeblock.objects.nbd.server import MAX_CONNECTIONS
from breezeblock.objects.nbd.sockets import hung_up, listening, roomy, send
from breezeblock.objects.nbd.wire import Command

log = structlog.get_logger()

_RETRY_S = 0.01
_MAX_RETRY_S = 0.05
_BUFFER_BYTES = 1 << 18
_ROOM_BYTES = 1 << 15
"""A buffer with less room than that is not worth a system call."""
_SPARE = 8
_WINDOW_BYTES = 64 << 20
"""With so much unanswered no more is taken from a client."""
_STALE_S = 0.3
"""What a kernel asked is not given up for longer than that."""
_UNABLE_S = 0.1
_LEAVE_S = 20.0
"""At the end, answers are waited for so long."""
_READ, _WRITE, _LEAVE = int(Command.READ), int(Command.WRITE), int(Command.DISC)
_TAKES_LEAVE = wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, _LEAVE, bytes(8), 0, 0)
_REQUEST, _REPLY = wire.REQUEST.size, wire.SIMPLE.size


class _BadTalkError(Exception):
    """What came is not the protocol."""


class _GoneError(Exception):
    """The client has gone."""


class _Buffer:
    """Where requests lie until they are answered."""

    def __init__(self, length: int) -> None:
        self.data = bytearray(length)
        self.view = memoryview(self.data)
        # Each has one thread that changes it.
        self.taken = 0
        self.answered = 0


class _Asked(NamedTuple):
    buffer: _Buffer
    start: int
    end: int
    read_bytes: int


class Relay:
    """Listens for clients, each of which it brings to the server."""

    def __init__(self, where: client.Place, path: Path) -> None:
        """Listen at the path from now on."""
        self._where = where
        self._path = path
        self._listener = listening(path)
        self._inode = path.stat().st_ino
        self._clients: set[_Client] = set()

    def run(self) -> None:
        """Serve until SIGTERM or Ctrl-C; then answer what was taken, and end. For the main thread."""

        def ended(_number: int, _frame: FrameType | None) -> None:
            raise SystemExit(0)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, ended)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # lengths are asked for with each connection
        with self._listener, suppress(SystemExit):
            while True:
                try:
                    connected, _address = self._listener.accept()
                    self._take(connected)
                except (OSError, RuntimeError) as error:  # no descriptor or thread is to be had
                    log.warning("nbd.not_taken", why=str(error))
                    time.sleep(_UNABLE_S)
        with suppress(FileNotFoundError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
        for one in list(self._clients):
            one.leave()
        until = time.monotonic() + _LEAVE_S
        for one in list(self._clients):
            one.ended.wait(max(0, until - time.monotonic()))

    def _take(self, connected: socket.socket) -> None:
        if len(self._clients) >= MAX_CONNECTIONS:
            log.warning("nbd.too_many_connections", limit=MAX_CONNECTIONS)
            connected.close()
            return
        one = _Client(connected, self._where)
        self._clients.add(one)

        def work() -> None:
            try:
                one.requests()
            except (LeftError, _GoneError):
                pass
            except (_BadTalkError, BreezeblockError, OSError, RuntimeError) as error:
                log.warning("nbd.hung_up", why=str(error))
            finally:
                one.end()
                self._clients.discard(one)

        try:
            threading.Thread(target=work, daemon=True).start()
        except BaseException:
            self._clients.discard(one)
            connected.close()
            raise


class _Client:
    """One client's connection and the one to its server, which changes."""

    def __init__(self, front: socket.socket, where: client.Place) -> None:
        self._front = front
        self._where = where
        self._newest: socket.socket | None = None
        """The connection to the server."""
        self._back: socket.socket | None = None
        """The same, as soon as it was asked all that its predecessor did not answer."""
        self._lock = threading.Lock()
        """Held by who sends to the server, or gives us another connection to it."""
        self._asked: dict[bytes, _Asked] = {}
        """Not answered yet, in their order."""
        self._spare: list[_Buffer] = []
        self._taken_bytes = self._answered_bytes = 0
        self._less = threading.Event()
        self._leaving = False
        """No more requests come."""
        self._gone = False
        """Nobody waits for answers."""
        self._replying: threading.Thread | None = None
        self.ended = threading.Event()

    def leave(self) -> None:
        """Take no more requests."""
        with suppress(OSError):
            self._front.shutdown(socket.SHUT_RD)

    def end(self) -> None:
        """Wait for answers, if anybody else does; then close."""
        self._leaving = True
        if not self._asked or hung_up(self._front):
            self._hang_up()
        if self._replying is not None:
            self._replying.join()
        self._front.close()
        self.ended.set()

    def _hang_up(self) -> None:
        self._gone = True
        with self._lock:
            if self._back is not None and not self._asked:
                with suppress(OSError):
                    self._back.send(_TAKES_LEAVE, socket.MSG_DONTWAIT)
            if self._newest is not None:
                with suppress(OSError):
                    self._newest.shutdown(socket.SHUT_RDWR)

    # --- to the server -------------------------------------------------------------------------

    def requests(self) -> None:
        """Bring them to the server, until the client leaves. Raises what its connection raises."""
        back, export = introduce(self._front, self._where.address)
        self._where = client.Place(self._where.address, export)
        self._back = self._newest = roomy(back)
        roomy(self._front)
        replying = threading.Thread(target=self._replies, args=(back,), daemon=True)
        replying.start()
        self._replying = replying  # not before: one that did not start cannot be waited for
        buffer, start, end, now = _Buffer(_BUFFER_BYTES), 0, 0, time.monotonic()
        while some := self._front.recv_into(buffer.view[end:]):
            end, began = end + some, now
            if (now := time.monotonic()) - began > _STALE_S and hung_up(self._front):
                raise _GoneError
            with self._lock:
                at, wanted = self._register(buffer, start, end)
                if self._back is not None and at > start:
                    self._send(self._back, buffer.view[start:at])
            if wanted < 0:
                return
            if at == end and buffer.taken == buffer.answered:
                start = end = 0
                continue
            start = at
            if len(buffer.data) - start < wanted or len(buffer.data) - end < _ROOM_BYTES:
                new = self._empty_buffer(wanted)
                new.data[: end - start] = buffer.view[start:end]
                self._spare.append(buffer)
                buffer, start, end = new, 0, end - start
            self._wait_for_room()

    def _register(self, buffer: _Buffer, start: int, end: int) -> tuple[int, int]:
        """Note what is complete; return where that ends, and how long the next request is: -1 for none."""
        data, asked, taken = buffer.data, self._asked, 0
        unpack, wanted = wire.REQUEST.unpack_from, _REQUEST
        at = start
        while end - at >= _REQUEST:
            magic, _flags, kind, cookie, _offset, length = unpack(data, at)
            large = length > wire.MAX_PAYLOAD_BYTES and kind < _LEAVE
            if magic != wire.REQUEST_MAGIC or large or cookie in asked:
                raise _BadTalkError("a request that cannot be understood")
            if kind == _LEAVE:
                wanted = -1
                break
            past = at + _REQUEST + length if kind == _WRITE else at + _REQUEST
            if past > end:
                wanted = past - at
                break
            asked[cookie] = _Asked(buffer, at, past, length if kind == _READ else 0)
            taken += 1
            at = past
        buffer.taken += taken
        self._taken_bytes += at - start
        return at, wanted

    def _empty_buffer(self, least: int) -> _Buffer:
        for buffer in self._spare:
            if buffer.taken == buffer.answered and len(buffer.data) >= least:
                self._spare.remove(buffer)
                return buffer
        # The rest lives as long as there are requests in it.
        self._spare = self._spare[-_SPARE:]
        return _Buffer(max(_BUFFER_BYTES, least + _ROOM_BYTES))

    def _wait_for_room(self) -> None:
        while self._taken_bytes - self._answered_bytes > _WINDOW_BYTES and not self._gone:
            self._less.clear()
            if self._taken_bytes - self._answered_bytes > _WINDOW_BYTES:
                self._less.wait(_STALE_S)
                if hung_up(self._front):
                    raise _GoneError

    # --- to the client -------------------------------------------------------------------------

    def _replies(self, back: socket.socket) -> None:
        """Bring them to the client, from one server after the other."""
        try:
            while True:
                try:
                    self._pass_on(back)
                except _BadTalkError as error:
                    log.warning("nbd.bad_reply", why=str(error))
                except OSError:
                    pass  # it was killed with something unread
                if self._gone:
                    return
                back = self._reconnected(back)
        except _GoneError:
            pass
        finally:
            self._gone = True
            self._less.set()
            with suppress(OSError):
                self._front.shutdown(socket.SHUT_RDWR)
            back.close()

    def _reconnected(self, old: socket.socket) -> socket.socket:
        """Find the next server, and ask it all that the old one did not answer. Raises _GoneError."""
        with suppress(OSError):
            old.shutdown(socket.SHUT_RDWR)  # whoever sends to it has to stop
        with self._lock:
            self._back = None
        old.close()
        log.warning("nbd.server_lost", server=str(self._where), waiting=len(self._asked))
        pause_s = _RETRY_S
        while True:
            if self._leaving and (not self._asked or hung_up(self._front)):
                raise _GoneError
            try:
                new = roomy(client.connect(self._where)[0])
            except BreezeblockError:
                time.sleep(pause_s)
                pause_s = min(pause_s * 1.5, _MAX_RETRY_S)
            else:
                break
        with self._lock:
            self._newest = new
            if self._gone:
                new.close()
                raise _GoneError
        # By somebody else: the server may want its answers read before it takes more.
        threading.Thread(target=self._ask_again, args=(new,), daemon=True).start()
        log.info("nbd.server_back", server=str(self._where))
        return new

    def _ask_again(self, back: socket.socket) -> None:
        with self._lock, suppress(_GoneError):  # who reads the requests notices that too
            if back is not self._newest or self._gone or hung_up(self._front):
                return  # lost before it was of any use, or of no use any more
            self._back = back
            for buffer, start, end, _read_bytes in list(self._asked.values()):
                self._send(back, buffer.view[start:end])

    def _send(self, back: socket.socket, data: memoryview) -> None:
        """Send to the server. Raises _GoneError if the client hangs up before there is room for that."""
        with suppress(OSError):  # whoever reads the answers notices, and sends it again
            if not send(back, data, self._front):
                raise _GoneError

    def _pass_on(self, back: socket.socket) -> None:
        buffer = bytearray(_BUFFER_BYTES)
        view, end = memoryview(buffer), 0
        while some := back.recv_into(view[end:]):
            end += some
            at, wanted = self._settle(buffer, end)
            if at:
                try:
                    self._front.sendall(view[:at])
                except OSError as error:
                    raise _GoneError from error
                if self._leaving and not self._asked:
                    self._hang_up()
            if wanted < 0:
                raise _BadTalkError("an answer to nothing")
            rest = end - at
            if wanted > len(buffer):
                larger = bytearray(wanted + _ROOM_BYTES)
                larger[:rest] = view[at:end]
                buffer, view = larger, memoryview(larger)
            elif rest and at:
                view[:rest] = bytes(view[at:end])
            end = rest

    def _settle(self, buffer: bytearray, end: int) -> tuple[int, int]:
        """Forget what is answered; return where that ends, and how long the next answer is: -1 for none."""
        asked, unpack = self._asked, wire.SIMPLE.unpack_from
        at, wanted, settled = 0, _REPLY, 0
        while end - at >= _REPLY:
            magic, error, cookie = unpack(buffer, at)
            request = asked.get(cookie)
            if magic != wire.SIMPLE_MAGIC or request is None:
                wanted = -1
                break
            held, start, stop, read_bytes = request
            past = at + _REPLY if error else at + _REPLY + read_bytes
            if past > end:
                wanted = past - at
                break
            del asked[cookie]
            held.answered += 1
            settled += stop - start
            at = past
        self._answered_bytes += settled
        if not self._less.is_set():
            self._less.set()
        return at, wanted
