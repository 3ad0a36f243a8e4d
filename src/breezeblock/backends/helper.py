"""A helper process: does the work of a back end's verbs, so that the service can be rid of it.

Started as `python -m breezeblock.backends.helper FD` with a socket to the service. It ends with the
service: by the parent-death signal, or by the end of the stream. What it started dies with its threads.
It imports no more than the back end needs.
"""

import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any

import msgspec

from breezeblock.attempt import Attempt
from breezeblock.backends import wire
from breezeblock.backends.copying import with_copies

THREADS = 64
PROGRESS_INTERVAL_S = 0.2
_PR_SET_PDEATHSIG = 1


class Server:
    """One back end behind one socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = Lock()
        self._starting = Lock()
        self._started = False
        self._cancelled: dict[int, bool] = {}
        """The calls at work: whether each was asked to stop."""

    def run(self) -> None:
        """Serve until the service is gone or says goodbye."""
        arriving = wire.frames(self._connection)
        hello = wire.to_helper.decode(next(arriving, b""))
        assert isinstance(hello, wire.Hello)  # noqa: S101 - it is what the other side sends first
        config = msgspec.msgpack.decode(hello.config, type=_named(hello.config_type))
        backend = with_copies(_named(hello.opener)(hello.name, config, Path(hello.state_dir)))
        with ThreadPoolExecutor(THREADS, "verb") as threads:
            for frame in arriving:
                message = wire.to_helper.decode(frame)
                if isinstance(message, wire.Call):
                    self._cancelled[message.number] = False
                    threads.submit(self._serve, backend, message)
                elif isinstance(message, wire.Cancel) and message.number in self._cancelled:
                    self._cancelled[message.number] = True
            # Nobody is there to hear of what is under way: the next attempt goes on from where it is.
            os.killpg(0, signal.SIGKILL)

    def _serve(self, backend: Any, call: wire.Call) -> None:
        answer: wire.Result | wire.Failure
        try:
            self._start(backend)
            verb = wire.verbs()[call.verb]
            arguments = [
                self._attempt(argument, call.number) if isinstance(argument, wire.Trying) else argument
                for argument in verb.arguments.decode(call.arguments)
            ]
            value = getattr(backend, call.verb)(*arguments)
            if not isinstance(value, msgspec.Struct | list | str | None):
                value = list(value)
            answer = wire.Result(call.number, msgspec.Raw(msgspec.msgpack.encode(value)))
        except Exception as error:  # noqa: BLE001 - raised on the other side
            answer = wire.failure(call.number, error)
        self._cancelled.pop(call.number, None)
        self._send(answer)

    def _start(self, backend: Any) -> None:
        with self._starting:
            if not self._started:
                backend.start()
                self._started = True

    def _attempt(self, trying: wire.Trying, number: int) -> Attempt:
        return Attempt(
            operation_id=trying.operation_id,
            token=trying.token,
            io_bytes_per_s=trying.io_bytes_per_s,
            progress=self._progress(number),
            cancelled=lambda: self._cancelled.get(number, False),
        )

    def _progress(self, number: int) -> Callable[[int, int], None]:
        last = time.monotonic()

        def tell(done: int, total: int) -> None:
            nonlocal last
            if time.monotonic() - last >= PROGRESS_INTERVAL_S:
                last = time.monotonic()
                self._send(wire.Progress(number, done, total))

        return tell

    def _send(self, message: wire.FromHelper) -> None:
        with self._sending:
            try:
                wire.send(self._connection, message)
            except OSError:
                os.killpg(0, signal.SIGKILL)


def _named(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def main() -> None:
    """Be a helper."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # Ctrl-C at a terminal is for the service, which ends its helpers when it is done with them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Server(socket.socket(fileno=int(sys.argv[1]))).run()


if __name__ == "__main__":
    main()
