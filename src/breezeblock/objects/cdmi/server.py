"""The CDMI server: who may come in, and how much may be going on at one time."""

import asyncio
import base64
import hmac
import ssl
from pathlib import Path

import msgspec
import structlog

from breezeblock.errors import BreezeblockError, NoSpaceError
from breezeblock.objects.cdmi import requests
from breezeblock.objects.cdmi.connection import BUSY, Connection
from breezeblock.objects.stores.directory import DirectoryStore
from breezeblock.objects.stores.port import MAX_OBJECT_BYTES

log = structlog.get_logger()


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What clients may use up."""

    connections: int = 512
    """Who comes when there are more is sent away; with twice as many, without a word."""
    idle_s: float = 120.0
    """A connection on which nothing is asked is closed after so many seconds."""
    request_s: float = 120.0
    """A request must have come, and its answer gone, within so many seconds each."""
    held_bytes: int = 512 << 20
    """Of bodies that are on their way in."""


class CdmiServer:
    """Serves a directory; `user` and `password` are asked for (Basic) if set."""

    def __init__(
        self, root: Path, *, user: str = "", password: str = "", limits: Limits | None = None
    ) -> None:
        self.store = DirectoryStore(root)
        self.limits = limits or Limits()
        pair = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._expected = f"Basic {pair}" if user else ""
        self._server: asyncio.Server | None = None
        self.connections: set[Connection] = set()
        self.held_bytes = 0
        """Of bodies that are on their way in."""

    async def start(self, host: str, port: int, context: ssl.SSLContext | None = None) -> int:
        """Listen; return the port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), host, port, ssl=context)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening and end all connections."""
        if self._server:
            self._server.close()
        for connection in list(self.connections):
            connection.close()

    def refusal(self, headers: dict[str, str]) -> requests.Answer | None:
        """Return the answer to a request that is not let in, before its body is looked at."""
        said = headers.get("authorization", "")
        if self._expected and not hmac.compare_digest(said.encode(), self._expected.encode()):
            return requests.Answer(401, {"WWW-Authenticate": 'Basic realm="cdmi"'})
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18 or int(length) > MAX_OBJECT_BYTES:
            return requests.Answer(413)
        return None

    def hold(self, count: int) -> requests.Answer | None:
        """Count bytes of a body, negative when it is gone; return the answer if they are too many now."""
        self.held_bytes += count
        return BUSY if self.held_bytes > self.limits.held_bytes else None

    async def answer(self, request: requests.Request) -> requests.Answer:
        """Answer one request that was let in."""
        try:
            return await asyncio.to_thread(requests.answer, self.store, request)
        except NoSpaceError:
            return requests.Answer(507)
        except BreezeblockError as error:
            return requests.Answer(503 if not error.permanent else 400, {}, str(error).encode())
        except Exception:  # one request must not leave its connection without an answer
            log.exception("cdmi.failed", method=request.method, path=request.path)
            return requests.Answer(500)
