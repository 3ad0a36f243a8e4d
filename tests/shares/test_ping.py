"""Asking servers whether they are there: one that answers, refuses, is silent, is no NFS server."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from breezeblock.errors import UnavailableError
from breezeblock.shares import ping, sharelist
from breezeblock.shares.sharelist import Share

SHARE = Share("127.0.0.1:/volumes")


@contextmanager
def server(answer: Callable[[bytes], bytes]) -> Iterator[int]:
    """A server that answers one call, and sees to it that the call is right."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            client, _address = listening.accept()
            with client:
                said = answer(client.recv(1024))
                client.sendall(said)
                if said:
                    client.recv(1)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(10)


def accepted(call: bytes) -> bytes:
    """RFC 5531: REPLY, MSG_ACCEPTED, verifier AUTH_NONE, SUCCESS."""
    mark, xid, kind, rpc, program, _version, procedure = struct.unpack(">7I", call[:28])
    assert (mark, kind, rpc, program, procedure) == (1 << 31 | 40, 0, 2, 100003, 0)
    return struct.pack(">7I", 1 << 31 | 24, xid, 1, 0, 0, 0, 0)


def test_an_answer_is_an_answer() -> None:
    with server(accepted) as port:
        ping.nfs(SHARE, f"vers=3,port={port}")


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(UnavailableError, match=f"on port {port}: connection refused"):
        ping.nfs(SHARE, f"port={port}")


def test_silence_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(UnavailableError, match=r"nothing was heard within 0\.2 s"):
            ping.nfs(SHARE, f"port={port}", timeout_s=0.2)


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n", b""])
def test_something_else_there(said: bytes) -> None:
    with (
        server(lambda _call: said) as port,
        pytest.raises(UnavailableError, match="no NFS server"),
    ):
        ping.nfs(SHARE, f"port={port}", timeout_s=0.5)


@pytest.mark.parametrize("line", ["nas:/a", "[::1]:/with\\040space -o vers=4.2,nconnect=4"])
def test_a_share_is_written_as_it_is_read(line: str) -> None:
    (share,) = sharelist.inline([line], "test", sharelist.NFS)
    assert sharelist.line(share) == line
