"""A web server with one image, which can break off, redirect, and remember what it was asked."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class Site:
    content: bytes = b""
    break_off_at: int | None = None
    """Answer so many bytes of the first request only."""
    break_off_always: bool = False
    ignores_conditions: bool = False
    """Give any range, whatever the tag that the client has."""
    changes_to: bytes = b""
    """Be this from the second request on."""
    tag: str = '"v1"'
    asked: int = 0
    """How often for more than a look."""
    url: str = ""
    ranges: list[str] = field(default_factory=list)
    received: dict[str, bytes] = field(default_factory=dict)


class _Handler(http.server.BaseHTTPRequestHandler):
    site: Site
    protocol_version = "HTTP/1.1"

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path != "/image":
            self.send_error(404)
            return
        if self.site.asked == 1 and self.site.changes_to:
            self.site.content, self.site.tag = self.site.changes_to, '"v2"'
        wanted = self.headers.get("Range", "")
        if wanted == "bytes=0-0":
            self.answer_with_first_byte()
            return
        self.site.asked += 1
        start = 0
        if wanted.endswith("-") and (
            self.site.ignores_conditions or self.headers.get("If-Range") == self.site.tag
        ):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            self.site.ranges.append(wanted)
        body = self.site.content[start:]
        self.send_response(206 if start else 200)
        if start:
            total = len(self.site.content)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.tell_tag()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.site.break_off_at is not None:
            body = body[: self.site.break_off_at]
            self.site.break_off_at = self.site.break_off_at if self.site.break_off_always else None
            self.close_connection = True
        with suppress(BrokenPipeError, ConnectionResetError):  # a client may have had enough
            self.wfile.write(body)

    def answer_with_first_byte(self) -> None:
        self.send_response(206)
        self.send_header("Content-Range", f"bytes 0-0/{len(self.site.content)}")
        self.send_header("Content-Length", "1")
        self.tell_tag()
        self.end_headers()
        self.wfile.write(self.site.content[:1])

    def tell_tag(self) -> None:
        if self.site.tag:
            self.send_header("ETag", self.site.tag)

    def do_PUT(self) -> None:
        length = int(self.headers["Content-Length"])
        self.site.received[self.path] = self.rfile.read(length)
        self.send_response(201)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def serving_images(content: bytes) -> Iterator[Site]:
    site = Site(content)

    handler = type("Handler", (_Handler,), {"site": site})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
