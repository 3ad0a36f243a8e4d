"""The CDMI server against clients that take their time, come in crowds, or are not let in."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from breezeblock.objects.cdmi import CdmiServer
from breezeblock.objects.cdmi.server import Limits
from breezeblock.objects.http.client import Client
from breezeblock.objects.stores.cdmi import CdmiStore
from breezeblock.objects.stores.port import MAX_OBJECT_BYTES, everything

Pipe = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def served(
    root: Path, use: Callable[[CdmiServer, int], Awaitable[None]], limits: Limits | None = None
) -> None:
    async def main() -> None:
        server = CdmiServer(root, user="u", password="p", limits=limits)
        port = await server.start("127.0.0.1", 0)
        await use(server, port)
        await server.stop()

    asyncio.run(main())


async def asked(pipe: Pipe, text: bytes) -> bytes:
    pipe[1].write(text)
    return await pipe[0].readuntil(b"\r\n\r\n")


def test_silence_and_slow_requests_end_connections(tmp_path: Path) -> None:
    async def use(server: CdmiServer, port: int) -> None:
        silent = await asyncio.open_connection("127.0.0.1", port)
        slow = await asyncio.open_connection("127.0.0.1", port)
        slow[1].write(b"PUT /x HTTP/1.1\r\nAuthorization: Basic dTpw\r\nContent-Length: 100\r\n\r\n")
        assert await silent[0].read() == b""
        for _ in range(100):
            if slow[0].at_eof() or slow[1].is_closing():
                break
            slow[1].write(b"x")
            await asyncio.sleep(0.01)
            if not server.connections:
                break
        assert not server.connections
        assert not server.store.children_now("")

    served(tmp_path, use, Limits(idle_s=0.1, request_s=0.1))


def test_an_answer_that_nobody_takes_ends_the_connection(tmp_path: Path) -> None:
    async def use(server: CdmiServer, port: int) -> None:
        server.store.put_now("big", bytes(30 << 20))
        pipe = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        pipe[1].write(b"GET /big HTTP/1.1\r\nAuthorization: Basic dTpw\r\n\r\n" * 50)
        while not server.connections:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
        while server.connections:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)

    served(tmp_path, use, Limits(request_s=0.2))


def test_bodies_of_those_who_are_not_let_in_are_not_kept_and_they_are_told(tmp_path: Path) -> None:
    async def use(server: CdmiServer, port: int) -> None:
        pipe = await asyncio.open_connection("127.0.0.1", port)
        pipe[1].write(b"PUT /x HTTP/1.1\r\nContent-Length: 20000000\r\n\r\n")
        for _ in range(20):
            pipe[1].write(bytes(1_000_000))
            await pipe[1].drain()
            assert not server.held_bytes
        assert b" 401 " in await pipe[0].readuntil(b"\r\n\r\n")
        # The connection goes on, and with a password it is let in.
        assert b" 201 " in await asked(
            pipe, b"PUT /x HTTP/1.1\r\nAuthorization: Basic dTpw\r\nContent-Length: 1\r\n\r\nx"
        )
        waiting = b"PUT /y HTTP/1.1\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
        assert b" 401 " in await asked(pipe, waiting)
        long = await Client(f"http://127.0.0.1:{port}").request(
            "PUT", "/z", {"Authorization": "Basic dTpw"}, bytes(MAX_OBJECT_BYTES + 1)
        )
        assert long.status == 413
        assert server.store.children_now("") == ["x"]
        assert not server.held_bytes

    served(tmp_path, use)


def test_too_many_bytes_on_their_way_and_too_many_connections_are_asked_to_come_later(tmp_path: Path) -> None:
    async def use(server: CdmiServer, port: int) -> None:
        body = b"PUT /x HTTP/1.1\r\nAuthorization: Basic dTpw\r\nContent-Length: 5000\r\n\r\n" + bytes(4000)
        first, second, third = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        first[1].write(body)
        while not server.held_bytes:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
        assert b" 503 " in await asked(second, body + bytes(1000))
        assert b" 201 " in await asked(first, bytes(1000))
        assert not server.held_bytes
        assert b" 204 " in await asked(second, body + bytes(1000))
        refused = await asked(third, b"GET /x HTTP/1.1\r\nAuthorization: Basic dTpw\r\n\r\n")
        assert b" 503 " in refused
        assert b"Retry-After" in refused
        assert await third[0].read() == b""
        fourth = await asyncio.open_connection("127.0.0.1", port)
        fifth = await asyncio.open_connection("127.0.0.1", port)
        sixth = await asyncio.open_connection("127.0.0.1", port)
        assert await sixth[0].read() == b""
        assert b" 200 " in await asked(first, b"GET /x HTTP/1.1\r\nAuthorization: Basic dTpw\r\n\r\n")
        for pipe in (first, second, fourth, fifth):
            pipe[1].close()

    served(tmp_path, use, Limits(connections=2, held_bytes=6000))


def test_a_listing_looks_at_one_container_only(tmp_path: Path) -> None:
    async def use(server: CdmiServer, port: int) -> None:
        for key in ("a/b/c/deep", "a/top", "a/b/other", "z"):
            server.store.put_now(key, b"x")
        headers = {"Authorization": "Basic dTpw"}
        client = Client(f"http://127.0.0.1:{port}")
        assert b'"children":["b/","top"]' in (await client.request("GET", "/a/", headers)).body
        assert b'"children":["z"]' in (await client.request("GET", "/?children:1-9", headers)).body
        assert b'"children":[]' in (await client.request("GET", "/absent/", headers)).body
        store = CdmiStore(f"http://127.0.0.1:{port}", user="u", password="p")
        assert [one.key for one in await everything(store, "a/")] == ["a/b/c/deep", "a/b/other", "a/top"]
        await store.close()

    served(tmp_path, use)


def test_a_request_that_fails_in_a_new_way_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(server: CdmiServer, port: int) -> None:
        monkeypatch.setattr(server.store, "head_now", lambda _key: 1 // 0)
        pipe = await asyncio.open_connection("127.0.0.1", port)
        text = b"GET /x HTTP/1.1\r\nAuthorization: Basic dTpw\r\n\r\n"
        assert b" 500 " in await asked(pipe, text)
        monkeypatch.undo()
        assert b" 404 " in await asked(pipe, text)
        pipe[1].close()

    served(tmp_path, use)
