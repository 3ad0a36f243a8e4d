"""Pools of which an endpoint is a black hole, and servers that had a bad moment."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rest_storage import RestStorage

from breezeblock import vault
from breezeblock.backends.rest import open_rest
from breezeblock.backends.rest_config import RestPool
from cdmi_process import PASSWORD, USER, cdmi_server


@contextmanager
def black_hole() -> Iterator[tuple[str, list[bytes]]]:
    """Take connections and requests, and never say anything; give the URL, and what came."""
    came: list[bytes] = []
    held: list[socket.socket] = []

    def take(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connected, _ = listener.accept()
                held.append(connected)
                threading.Thread(target=hear, args=(connected,), daemon=True).start()

    def hear(connected: socket.socket) -> None:
        with suppress(OSError):
            while said := connected.recv(1 << 16):
                came.append(said)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=take, args=(listener,), daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", came
        for one in held:
            one.close()
        listener.shutdown(socket.SHUT_RDWR)


def test_a_pool_is_made_and_measured_by_the_endpoints_that_answer(tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir()
    vault.at(tmp_path).set("cdmi", PASSWORD)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with cdmi_server(tmp_path / "objects") as url, black_hole() as (hole, came):
        for down in (nobody, hole):
            urls = [f"{down}/here", f"{url}/here"]
            pool = RestPool(store="cdmi", urls=urls, user=USER, secret="cdmi")
            (seen,) = open_rest("rest", RestStorage(tmp_path, pool).config, tmp_path).stats()
            assert seen.up, seen.reason
            assert seen.total_bytes is not None
            assert [one.subject for one in seen.findings] == [f"pool gold, endpoint {down}/here"]
        assert came, "it was tried"
        assert not any(b"metadata" in said for said in came), "who does not answer is not asked for the room"
