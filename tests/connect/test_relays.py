"""Relays as a connector starts, misses and ends them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from breezeblock.connect import relays
from breezeblock.errors import NotFoundError, UnavailableError
from breezeblock.objects.nbd import client

COMMAND = str(Path(sys.executable).parent / "breezeblock")


@pytest.fixture
def export(tmp_path: Path) -> Iterator[client.Place]:
    image, path = tmp_path / "image", tmp_path / "socket"
    image.write_bytes(bytes(1 << 20))
    process = subprocess.Popen([COMMAND, "nbd", "serve", str(image), "--name", "disk", "--socket", str(path)])
    eventually(path.exists)
    yield client.Place(str(path), "disk")
    process.kill()
    process.wait()


def eventually(true: Callable[[], bool], wait_s: float = 30) -> None:
    until = time.monotonic() + wait_s
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def listener(path: Path) -> int:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        return int.from_bytes(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4), sys.byteorder)


def length(path: Path) -> int:
    connected, found = client.connect(client.Place(str(path), "disk"))
    connected.close()
    return found.length


def test_a_relay_is_there_until_it_is_ended_and_missed_when_it_is_killed(
    export: client.Place, tmp_path: Path
) -> None:
    front, log = relays.path_of(tmp_path / "socket"), tmp_path / "log"
    with relays.ensured(export, front, log):
        pass
    assert length(front) == 1 << 20
    assert log.stat().st_mode & 0o777 == 0o600
    first = listener(front)
    with relays.ensured(export, front, log):
        assert listener(front) == first, "one is enough"
    watch = relays.Watch([front, tmp_path / "nowhere"])
    assert not watch.ended()
    os.kill(first, signal.SIGKILL)
    eventually(watch.ended)
    watch.close()
    with relays.ensured(export, front, log):
        pass
    assert listener(front) != first
    assert length(front) == 1 << 20
    relays.end(front)
    assert not front.exists()
    relays.end(front)


def test_a_relay_to_what_cannot_be_made_is_not_left(export: client.Place, tmp_path: Path) -> None:
    front, log = tmp_path / "front", tmp_path / "log"

    def fails() -> None:
        with relays.ensured(export, front, log):
            eventually(front.exists)
            raise NotFoundError("There is no such volume.")

    with pytest.raises(NotFoundError):
        fails()
    assert not front.exists()
    with (
        pytest.raises(UnavailableError, match="does not start"),
        relays.ensured(export, tmp_path / "no" / "front", log),
    ):
        pass
    assert "Cannot listen" in log.read_text()


def test_a_relay_that_takes_no_connections_holds_nobody_up(tmp_path: Path) -> None:
    front, log = tmp_path / "front", tmp_path / "log"
    where = client.Place(str(tmp_path / "server"), "disk")
    with ExitStack() as stack:
        stopped = stack.enter_context(socket.socket(socket.AF_UNIX))
        stopped.bind(str(front))
        stopped.listen(0)
        waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
        waiting.connect(str(front))
        with pytest.raises(UnavailableError, match="stopped"), relays.ensured(where, front, log):
            pass
        with pytest.raises(UnavailableError, match="stopped"):
            relays.end(front)
        assert not relays.Watch([front]).ended()
        assert front.exists()
