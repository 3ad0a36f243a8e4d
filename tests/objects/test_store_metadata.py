"""Credentials lent by metadata services, which behave here as they are published to."""

import asyncio
import datetime as dt
import http.server
import logging
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from serving_lab import MIB, attached, eventually, lab_at

from breezeblock.errors import ConfigError, UnavailableError
from breezeblock.objects import serving
from breezeblock.objects.log import volumes
from breezeblock.objects.stores import credentials, metadata
from breezeblock.objects.stores.opening import StoreConfig, make_pool, open_store
from breezeblock.objects.stores.s3 import S3Store

ROLES = "/latest/meta-data/iam/security-credentials/"
SECRET, WORD = "a-secret-key", "an-opaque-token"


class Service:
    """Both services, and a bucket whose owner they lend the keys of; a key is good until it expires."""

    def __init__(self) -> None:
        self.life_s = 3600.0
        self.lent: list[tuple[str, float]] = []
        self.asked: list[str] = []
        self.refused = 0
        self.objects: dict[str, bytes] = {}
        self.token = WORD
        """What a container has to show."""
        self.answer = ""
        """In place of credentials."""
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_said: object) -> None:
                pass

            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.reply(*service.put(self.path, self.headers, body))

            def do_GET(self) -> None:
                self.reply(*service.get(self.path, self.headers))

            def do_HEAD(self) -> None:
                self.reply(*service.get(self.path, self.headers))

            def do_DELETE(self) -> None:
                service.objects.pop(self.path, None)
                self.reply(204, b"")

            def reply(self, status: int, body: bytes) -> None:
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", f"{service.url}/elsewhere")
                if status == 206:
                    first = int(self.headers["Range"].removeprefix("bytes=").partition("-")[0])
                    self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/*")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def lend(self) -> bytes:
        if self.answer:
            return self.answer.encode()
        until = time.time() + self.life_s
        self.lent.append((f"KEY{len(self.lent)}", until))
        moment = dt.datetime.fromtimestamp(until, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return (
            f'{{"Code": "Success", "AccessKeyId": "{self.lent[-1][0]}", "SecretAccessKey": "{SECRET}", '
            f'"Token": "{WORD}", "Expiration": "{moment}"}}'
        ).encode()

    def get(self, path: str, headers: Any) -> tuple[int, bytes]:
        if path.startswith("/bucket"):
            return self.of_bucket(path, headers)
        self.asked.append(path)
        if path == "/moved":
            return 302, b""
        if path == "/container":
            return (200, self.lend()) if headers.get("Authorization", "") == self.token else (401, b"")
        if headers.get("X-aws-ec2-metadata-token") != "session":
            return 401, b""
        if path == ROLES:
            return 200, b"storage-role\n"
        return (200, self.lend()) if path == f"{ROLES}storage-role" else (404, b"")

    def put(self, path: str, headers: Any, body: bytes) -> tuple[int, bytes]:
        if path == "/latest/api/token":
            self.asked.append(path)
            return (200, b"session") if headers.get("X-aws-ec2-metadata-token-ttl-seconds") else (400, b"")
        if not self.good(headers):
            return 403, b""
        if headers.get("If-None-Match") and path in self.objects:
            return 412, b""
        self.objects[path] = body
        return 200, b""

    def of_bucket(self, path: str, headers: Any) -> tuple[int, bytes]:
        if not self.good(headers):
            return 403, b""
        if "list-type" in path:
            _, _, prefix = path.partition("prefix=")
            keys = sorted(
                one for one in self.objects if one.startswith("/bucket/" + prefix.replace("%2F", "/"))
            )
            found = "".join(
                f"<Contents><Key>{one.removeprefix('/bucket/')}</Key><Size>{len(self.objects[one])}</Size>"
                "<ETag>x</ETag></Contents>"
                for one in keys
            )
            return 200, f"<ListBucketResult>{found}</ListBucketResult>".encode()
        if path not in self.objects:
            return 404, b""
        asked = headers.get("Range", "").removeprefix("bytes=")
        if not asked:
            return 200, self.objects[path]
        first, _, last = asked.partition("-")
        part = self.objects[path][int(first) : int(last) + 1 if last else None]
        return (206, part) if part else (416, b"")

    def good(self, headers: Any) -> bool:
        now, said = time.time(), headers.get("Authorization", "")
        good = any(f"Credential={key}/" in said and now < until for key, until in self.lent)
        self.refused += not good
        return good and headers.get("x-amz-security-token") == WORD


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Service]:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "EC2_METADATA_DISABLED"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setattr(metadata, "_known", None)
    one = Service()
    yield one
    one.stop()


@pytest.fixture
def container(service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Service:
    (tmp_path / "token").write_text(f"{WORD}\n")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{service.url}/container")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
    return service


def test_an_instance_shows_a_token_and_names_its_role(service: Service) -> None:
    lent = metadata.of_instance(service.url)
    assert service.asked == ["/latest/api/token", ROLES, f"{ROLES}storage-role"]
    assert lent[:3] == ("KEY0", SECRET, WORD)
    assert lent.expires == pytest.approx(service.lent[0][1], abs=1e-3)
    assert SECRET not in repr(lent)
    assert WORD not in repr(lent)


def test_an_instance_is_asked_last_and_not_if_that_is_forbidden(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "of_instance", lambda: metadata.of_container(f"{service.url}/container"))
    service.token = ""
    assert credentials.found().access_key == "KEY0"
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "TRUE")
    with pytest.raises(ConfigError, match="no credentials"):
        credentials.found()
    assert len(service.asked) == 1


def test_a_container_shows_its_token_and_an_answer_is_kept(container: Service, tmp_path: Path) -> None:
    first = credentials.found()
    assert first == credentials.found()
    assert container.asked == ["/container"]
    (tmp_path / "token").write_text("two\nlines")
    metadata._known = None
    with pytest.raises(ConfigError, match="characters") as caught:
        credentials.found()
    assert "lines" not in str(caught.value)


def test_what_is_good_is_used_on_while_the_service_is_away(container: Service) -> None:
    container.life_s = 100  # less than EARLY_S: it is asked each time
    first = credentials.found()
    container.answer = "<html>none</html>"
    assert credentials.found() == first
    assert len(container.asked) == 2
    metadata._known = None
    with pytest.raises(UnavailableError, match="no credentials"):
        credentials.found()
    with pytest.raises(UnavailableError, match="no credentials"):
        credentials.found()
    assert len(container.asked) == 3, "and not asked again at once"


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/x",
        "http://169.254.170.2.example.org/",
        "ftp://127.0.0.1/",
        "http://192.0.2.1/x",
        "http://word@127.0.0.1/x",
        "http://127.0.0.1:word/",
    ],
)
def test_no_other_host_is_asked(service: Service, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
    with pytest.raises(ConfigError, match=r"another host|cannot be read") as caught:
        credentials.found()
    assert "word" not in str(caught.value)
    assert service.asked == []


def test_no_redirect_is_followed(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{service.url}/moved")
    with caplog.at_level(logging.DEBUG), pytest.raises(UnavailableError, match="answered 302"):
        credentials.found()
    assert service.asked == ["/moved"]


def test_credentials_are_replaced_before_they_expire(container: Service) -> None:
    async def main() -> None:
        store = S3Store(f"{container.url}/bucket")
        await store.put("one", b"1")
        assert await store.get("one") == b"1"
        await store.close()

    container.life_s = metadata.EARLY_S - 10
    asyncio.run(main())
    assert len(container.lent) == 2  # one that was found, and one that the first request brought
    assert container.refused == 0


def test_a_volume_is_served_on_with_fresh_credentials(container: Service, tmp_path: Path) -> None:
    """The process that serves it finds its credentials as all do; they last for a second each."""
    container.life_s = 1.0
    config = StoreConfig(kind="s3", urls=[f"{container.url}/bucket"])

    async def prepare() -> str:
        made = await make_pool(config)
        store = await open_store(config)
        await volumes.create(store, "d" * 32, 4 * MIB)
        await store.close()
        return made.uuid

    lab = lab_at(tmp_path)
    uuid = asyncio.run(prepare())
    config = StoreConfig(kind="s3", urls=config.urls, pool=uuid)
    with attached(lab, store=config, volume="d" * 32, durability="store"):
        uri = f"nbd+unix:///{'d' * 32}?socket={lab.task().socket}"
        for number in range(1, 3):
            held = len(container.lent)
            words = ["qemu-io", "-f", "raw", "-c", f"write -P {number} {number}M 64k", "-c", "flush", uri]
            subprocess.run(words, check=True, capture_output=True, timeout=60)
            words = ["qemu-io", "-f", "raw", "-c", f"read -P {number} {number}M 64k", uri]
            assert b"failed" not in subprocess.run(words, check=True, capture_output=True, timeout=60).stdout
            until = container.lent[held - 1][1]
            eventually(partial(lambda until: time.time() > until, until))
        view = serving.running(lab.task().socket)
        assert view
        assert (view.failed, len(container.lent) > 2) == ("", True)
