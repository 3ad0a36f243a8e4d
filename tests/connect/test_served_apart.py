"""Volumes of object stores do not wait for each other, nor for a process that is stopped."""

import fcntl
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import pytest

from breezeblock.app import attaching
from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Volume
from breezeblock.backends.rest import open_rest
from breezeblock.config import Config, ServiceSection
from breezeblock.connect.records import Records
from breezeblock.connect.served import Record
from breezeblock.errors import ConfigError, ConflictError, UnavailableError
from breezeblock.objects import serving
from breezeblock.objects.serving.messages import control_path, lock_path


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="b", dir="/dev/shm") as directory:  # sockets have short names
        (Path(directory) / "store").mkdir()
        yield Path(directory)


def test_a_store_that_is_away_keeps_nobody_from_attaching(place: Path) -> None:
    answers, asked = threading.Event(), threading.Event()

    class Away(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.set()
            answers.wait()
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    away = ThreadingHTTPServer(("127.0.0.1", 0), Away)
    threading.Thread(target=away.serve_forever, daemon=True).start()
    url, uuid, volume = f"http://127.0.0.1:{away.server_port}/here", str(uuid4()), uuid4().hex
    section = {
        "kind": "rest",
        "run_dir": str(place / "run"),
        "journal_dir": str(place / "journals"),
        "pools": {
            "gold": {"store": "directory", "urls": [str(place / "store")]},
            "away": {"store": "cdmi", "urls": [url], "uuid": uuid},
        },
    }
    config = Config(service=ServiceSection(state_dir=str(place / "state")), backends={"rest": section})
    backend = open_rest("rest", attaching.rest_config(config, "rest"), place / "state")
    here = Volume(id=str(uuid4()), virtual_bytes=1 << 20, pool="gold")
    backend.create(here, Attempt(operation_id=str(uuid4()), token=uuid4().hex))
    data = backend.connection_info(here, {}).data

    connector = attaching.connector(config, place / "records")
    lost = {"backend": "rest", "pool": "away", "export": volume, "pool_uuid": uuid}
    with Records(place / "records" / "served", Record).alone():
        Records(place / "records" / "served", Record).put(volume, Record(lost))
    (place / "journals" / volume).mkdir(parents=True, mode=0o700)
    (place / "journals").chmod(0o700)
    (place / "journals" / volume / "00000001.log").touch()
    failures: list[Exception] = []
    restoring = threading.Thread(target=lambda: failures.extend(connector.restore()))
    restoring.start()
    try:
        assert asked.wait(60)
        connector.attach(data)
        assert not any(path.stat().st_mode & 0o077 for path in (place / "run").iterdir()), "ours alone"
        connector.detach(data)
        assert restoring.is_alive(), "it is still trying"
    finally:
        answers.set()  # with an answer that will never be another
        restoring.join(60)
        away.shutdown()
    (failure,) = failures
    assert isinstance(failure, ConflictError)


def test_a_process_that_is_stopped_is_told_of_in_time(place: Path) -> None:
    nbd = place / "volume"
    held = os.open(lock_path(nbd), os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(held, fcntl.LOCK_EX)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(control_path(nbd)))
        listener.listen(1)
        for _ in range(4):  # the first ones find room in its queue, the others none
            with pytest.raises(UnavailableError):
                serving.call(nbd, serving.Status(), timeout_s=0.2)
    os.close(held)


def test_a_link_of_somebody_else_is_no_place_for_sockets(place: Path) -> None:
    (place / "ours").mkdir(mode=0o700)
    (place / "run").symlink_to(place / "ours")
    section = {
        "kind": "rest",
        "run_dir": str(place / "run"),
        "journal_dir": str(place / "journals"),
        "pools": {"gold": {"store": "directory", "urls": [str(place / "store")]}},
    }
    config = Config(service=ServiceSection(state_dir=str(place / "state")), backends={"rest": section})
    data = {"backend": "rest", "pool": "gold", "export": "5e" * 16}
    assert attaching.task(config, data).socket == place / "run" / ("5e" * 16), "one's own is"
    os.chown(place / "run", 65534, 65534, follow_symlinks=False)
    with pytest.raises(ConfigError, match="somebody else's"):
        attaching.task(config, data)
