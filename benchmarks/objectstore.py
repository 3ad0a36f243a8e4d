"""An object store in memory that speaks enough of S3, with a latency that is set: for benchmarks.

What is not there under `blocks/` reads as a block of noise, so that a peer that keeps a volume as blocks need
not be filled first.
"""

import argparse
import asyncio
import hashlib
import random
import sys
from typing import cast
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

import httptools
import uvloop

NOISE = random.Random(1).randbytes(1 << 20)


class Store:
    """What all connections share."""

    def __init__(self, latency_s: float, block_bytes: int) -> None:
        self.latency_s, self.block_bytes = latency_s, block_bytes
        self.objects: dict[str, tuple[bytes, str, list[tuple[str, str]]]] = {}
        self.requests = 0

    def get(self, key: str) -> tuple[bytes, str, list[tuple[str, str]]] | None:
        found = self.objects.get(key)
        if found is None and "/blocks" in key and not key.endswith("mounted") and self.block_bytes:
            body = NOISE[: self.block_bytes]
            found = body, hashlib.md5(body, usedforsecurity=False).hexdigest(), []
        return found


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.begin()

    def begin(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.headers: dict[str, str] = {}
        self.body: list[bytes] = []
        self.url = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode()

    def on_headers_complete(self) -> None:
        if "100-continue" in self.headers.get("expect", "").lower():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        method, body = self.parser.get_method().decode(), b"".join(self.body)
        self.store.requests += 1
        answer = self.answer(method, body)
        self.begin()
        if self.store.latency_s:
            asyncio.get_running_loop().call_later(self.store.latency_s, self.transport.writelines, answer)
        else:
            self.transport.writelines(answer)

    def answer(self, method: str, body: bytes) -> list[bytes]:  # noqa: PLR0911
        parts = urlsplit(self.url.decode())
        key = parts.path.lstrip("/")
        if method == "GET" and "prefix" in parts.query:
            return self.listing(key.rstrip("/"), parse_qs(parts.query))
        if method == "PUT":
            if self.headers.get("if-none-match") == "*" and key in self.store.objects:
                return self.reply(412, b"")
            tag = hashlib.md5(body, usedforsecurity=False).hexdigest()
            kept = [(name, value) for name, value in self.headers.items() if name.startswith("x-amz-meta")]
            if value := self.headers.get("content-encoding"):
                kept.append(("Content-Encoding", value))
            self.store.objects[key] = body, tag, kept
            return self.reply(200, b"", tag)
        if method == "DELETE":
            self.store.objects.pop(key, None)
            return self.reply(204, b"")
        found = self.store.get(key)
        if found is None:
            return self.reply(404, b"")
        data, tag, kept = found
        if method == "HEAD":
            return self.reply(200, b"", tag, kept, len(data))
        wanted = self.headers.get("range")
        if not wanted:
            return self.reply(200, data, tag, kept)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        end = min(len(data), int(last) + 1 if last else len(data))
        if int(first) >= len(data):
            return self.reply(416, b"")
        span = [("Content-Range", f"bytes {first}-{end - 1}/{len(data)}")]
        return self.reply(206, data[int(first) : end], tag, kept + span)

    def listing(self, bucket: str, query: dict[str, list[str]]) -> list[bytes]:
        prefix = f"{bucket}/{query['prefix'][0] if query.get('prefix') else ''}"
        found = "".join(
            f"<Contents><Key>{escape(key[len(bucket) + 1 :])}</Key><Size>{len(held[0])}</Size></Contents>"
            for key, held in sorted(self.store.objects.items())
            if key.startswith(prefix)
        )
        body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>"
        return self.reply(200, body.encode())

    def reply(
        self,
        status: int,
        body: bytes,
        tag: str = "",
        more: list[tuple[str, str]] | None = None,
        length: int | None = None,
    ) -> list[bytes]:
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body) if length is None else length}"]
        lines += [f'ETag: "{tag}"', "Accept-Ranges: bytes"] if tag else []
        lines += [f"{name}: {value}" for name, value in more or []]
        return ["\r\n".join(lines).encode() + b"\r\n\r\n", body]


async def serve(latency_s: float, block_bytes: int) -> None:
    store = Store(latency_s, block_bytes)
    # What nbdkit's curl plugin reads: one large object.
    store.objects["bucket/flat"] = NOISE * 256, "flat", []
    server = await asyncio.get_running_loop().create_server(lambda: Connection(store), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.objectstore", description=__doc__)
    parser.add_argument("--latency-ms", type=float, default=0)
    parser.add_argument("--block-bytes", type=int, default=0)
    chosen = parser.parse_args()
    try:
        uvloop.run(serve(chosen.latency_ms / 1000, chosen.block_bytes))
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
