"""A web server with one image, which can break off, redirect, and remember what it was asked."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
    url: str = ""
    ranges: list[str] = field(default_factory=list)
    received: dict[str, bytes] = field(default_factory=dict)


@contextmanager
def serving_images(content: bytes) -> Iterator[Site]:
    site = Site(content)

    class Handler(http.server.BaseHTTPRequestHandler):
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
            site.asked += 1
            if site.asked == 2 and site.changes_to:
                site.content, site.tag = site.changes_to, '"v2"'
            wanted = self.headers.get("Range", "")
            start = 0
            if wanted.endswith("-") and (site.ignores_conditions or self.headers.get("If-Range") == site.tag):
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                site.ranges.append(wanted)
            body = site.content[start:]
            self.send_response(206 if start else 200)
            if start:
                total = len(site.content)
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            self.send_header("ETag", site.tag)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if site.break_off_at is not None:
                body = body[: site.break_off_at]
                site.break_off_at = site.break_off_at if site.break_off_always else None
                self.close_connection = True
            self.wfile.write(body)

        def do_PUT(self) -> None:
            length = int(self.headers["Content-Length"])
            site.received[self.path] = self.rfile.read(length)
            self.send_response(201)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
