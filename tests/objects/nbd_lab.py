"""A server of ours in a thread of this process, for clients that are programs or blocking code."""

import asyncio
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from breezeblock.objects.nbd import Device, Server


@dataclass(frozen=True)
class Served:
    server: Server
    loop: asyncio.AbstractEventLoop
    socket: Path
    port: int

    def uri(self, export: str = "") -> str:
        return f"nbd+unix:///{export}?socket={self.socket}"


@contextmanager
def serving(
    exports: Mapping[str, Device], directory: Path, *, tls: ssl.SSLContext | None = None, **limits: Any
) -> Iterator[Served]:
    """Serve on a Unix socket and on a free TCP port; stops as the command would."""
    up = threading.Event()
    box: list[Any] = []

    async def main() -> None:
        server = Server(exports, tls=tls, **limits)
        stop = asyncio.Event()
        path = directory / "nbd.sock"
        await server.listen_unix(path)
        port = await server.listen_tcp("127.0.0.1", 0)
        box[:] = [Served(server, asyncio.get_running_loop(), path, port), stop]
        up.set()
        await stop.wait()
        await server.stop()

    def run() -> None:
        try:
            uvloop.run(main())
        except BaseException as error:
            box.append(error)
            up.set()
            raise

    thread = threading.Thread(target=run)
    thread.start()
    assert up.wait(20)
    assert len(box) == 2, box
    served, stop = box
    try:
        yield served
    finally:
        served.loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        assert not thread.is_alive(), "the server does not stop"


def tool(*argv: str, code: int | None = 0) -> str:
    """Run a client program, which must end with `code`, unless that is None.

    Return what it printed; of one that may fail, its complaints too.
    """
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert code is None or done.returncode == code, (
        f"{' '.join(argv)}: {done.returncode}\n{done.stdout}{done.stderr}"
    )
    return done.stdout if code == 0 else done.stdout + done.stderr
