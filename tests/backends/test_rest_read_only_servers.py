"""Servers of images that cannot, or would not, be ones; settings of pools of them."""

import functools
import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from read_only_lab import MIB, section, volume

from breezeblock.backends.registry import read_config
from breezeblock.backends.rest import open_rest
from breezeblock.backends.rest_config import RestConfig
from breezeblock.errors import (
    BreezeblockError,
    ConfigError,
    UnsupportedError,
)


@contextmanager
def deaf(directory: Path, *, silent: bool = False) -> Iterator[str]:
    """Run a server that ignores ranges; a `silent` one does not say when an object was changed either."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_said: object) -> None:
            pass

        def send_header(self, keyword: str, value: str) -> None:
            if not (silent and keyword == "Last-Modified"):
                super().send_header(keyword, value)

    with listening(functools.partial(Handler, directory=str(directory))) as url:
        yield url


@contextmanager
def listening(handler: Callable[..., http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(("silent", "finding"), [(False, "ignores ranges"), (True, "neither a strong ETag")])
def test_a_server_that_cannot_serve_images_is_refused_with_the_finding(
    tmp_path: Path, *, silent: bool, finding: str
) -> None:
    (tmp_path / "a.raw").write_bytes(bytes(MIB))
    with deaf(tmp_path, silent=silent) as url:
        config = msgspec.convert(section(store="web", urls=[url], images=["a.raw"]), RestConfig)
        backend = open_rest("rest", config, tmp_path / "state")
        (pool,) = backend.stats()
        assert not pool.up
        assert finding in pool.reason
        with pytest.raises(UnsupportedError, match=finding):
            backend.examine(volume(), "a.raw")


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        ({"store": "web"}, "name them in `images`"),
        ({"store": "web", "images": ["a"], "layout": "log"}, 'layout = "read-only"'),
        ({"store": "web", "images": ["../a"]}, "no name of an object"),
        ({"store": "directory", "urls": ["/srv"]}, "back end local"),
        ({"store": "cdmi", "images": ["a"], "layout": "flat"}, "`images` is for"),
        ({"store": "s3", "urls": ["https://a/b", "https://c/b"]}, "has one URL"),
        (
            {"store": "web", "images": ["a"], "urls": ["http://192.0.2.1"], "user": "u", "secret": "s"},
            "https",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(pool: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_config(section(**{"urls": ["https://store.example.org/x"], **pool}), "[backends.x]")


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"Content-Length": "9" * 5000, "ETag": '"a"'}, "too long"),
        ({"Content-Length": "9" * 18, "ETag": '"a"'}, "ended before"),
        ({"Content-Length": "512", "ETag": f'"{"a" * 9000}"'}, "neither a strong ETag"),
        ({"Content-Length": "512", "ETag": 'W/"a"'}, "neither a strong ETag"),
    ],
)
def test_what_a_hostile_server_tells_is_bounded(tmp_path: Path, headers: dict[str, str], said: str) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_said: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.send_response(200)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def do_GET(self) -> None:
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with listening(Handler) as url:
        config = msgspec.convert(section(store="web", urls=[url], images=["a.raw"]), RestConfig)
        backend = open_rest("rest", config, tmp_path / "state")
        with pytest.raises(BreezeblockError, match=said):
            backend.examine(volume(), "a.raw")
