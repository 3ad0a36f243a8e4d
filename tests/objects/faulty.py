"""A way to a server on which things go wrong."""

import asyncio
import re
from collections.abc import Callable
from typing import Literal

Fault = Literal["", "hole", "slow", "errors", "resets", "lies"]
FAULTS: list[Fault] = ["hole", "slow", "errors", "resets", "lies"]
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


class Way:
    """A proxy to `port`. Its fault can be changed at any time and takes effect with the next bytes."""

    def __init__(self, port: int) -> None:
        self.fault: Fault = ""
        self.seen: dict[str, int] = {}
        """How many pieces met each fault."""
        self._port = port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        assert self._server
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        inner, out = await asyncio.open_connection("127.0.0.1", self._port)
        back = asyncio.ensure_future(self._copy(inner, writer, writer, self._answer))
        try:
            await self._copy(reader, out, writer, self._question)
            await back
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            back.cancel()
            for one in (writer, out):
                one.transport.abort()
            self._tasks.discard(task)

    async def _copy(
        self,
        reader: asyncio.StreamReader,
        out: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
        change: Callable[[bytes], bytes],
    ) -> None:
        while data := await reader.read(1 << 20):
            fault = self.fault
            self.seen[fault] = self.seen.get(fault, 0) + 1
            if fault == "hole":
                continue
            if fault == "slow":
                await asyncio.sleep(0.06)
            if fault == "errors" and change == self._question:
                await self._swallow(reader, data)
                client.write(b"HTTP/1.1 500 Trouble\r\nContent-Length: 0\r\n\r\n")
                continue
            if fault == "resets" and change == self._answer:
                out.write(data[: len(data) // 2])
                client.transport.abort()
                return
            out.write(change(data))
            await out.drain()

    async def _swallow(self, reader: asyncio.StreamReader, data: bytes) -> None:
        head, _, body = data.partition(b"\r\n\r\n")
        found = _LENGTH.search(head)
        left = (int(found[1]) if found else 0) - len(body)
        while left > 0 and (some := await reader.read(left)):
            left -= len(some)

    def _question(self, data: bytes) -> bytes:
        return data

    def _answer(self, data: bytes) -> bytes:
        return data[:-1] + bytes([data[-1] ^ 1]) if self.fault == "lies" and len(data) > 2000 else data
