"""`breezeblock nbd serve` as a process: TLS, locks, signals, and being killed."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import certificates
import pytest
from nbd_lab import serving, tool

from breezeblock.app import nbd
from breezeblock.objects.nbd import MemoryDevice, wire

MIB = 1 << 20
COMMAND = str(Path(sys.executable).parent / "breezeblock")


@contextmanager
def running(*arguments: str, until: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [COMMAND, "nbd", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        while until is not None and not until.exists():
            if process.poll() is not None:
                assert process.stdout is not None
                pytest.fail(process.stdout.read())
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(64 * MIB)
    return path


def test_the_socket_is_ours_alone_and_goes_with_the_server(image: Path, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    path.touch()  # as a killed server might have left it
    before = path.stat().st_ino
    with running("serve", str(image), "--socket", str(path)) as process:
        while path.stat().st_ino == before:
            time.sleep(0.01)
        assert path.stat().st_mode & 0o777 == 0o600
        uri = f"nbd+unix:///?socket={path}"
        tool("qemu-io", "-f", "raw", "-c", "write -P 7 0 1M", uri)
        again = subprocess.run(
            [COMMAND, "nbd", "serve", str(image), "--socket", str(tmp_path / "other")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert again.returncode != 0
        assert "is in use" in again.stderr
        assert "lock" in tool("qemu-io", "-f", "raw", "-c", "read 0 1", str(image), code=1)
        os.truncate(image, 80 * MIB)
        process.send_signal(signal.SIGHUP)
        while int(tool("nbdinfo", "--size", uri)) != 80 * MIB:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert not path.exists()
    assert image.read_bytes()[:MIB] == b"\7" * MIB


def test_tcp_takes_only_clients_with_a_certificate(image: Path, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    certificates.make(ours)
    certificates.make(theirs)
    refused = subprocess.run(
        [COMMAND, "nbd", "serve", str(image), "--tcp", "127.0.0.1:0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    assert "needs TLS" in refused.stderr
    port, path = free_port(), tmp_path / "socket"
    listen = ("--tcp", f"127.0.0.1:{port}", "--socket", str(path), "--tls", str(ours))
    with running("serve", str(image), *listen, until=path):
        uri = f"nbds://localhost:{port}/?tls-certificates={ours}"
        while "refused" in tool("nbdinfo", uri, code=None):
            time.sleep(0.05)
        assert "with TLS" in tool("nbdinfo", uri)
        source = tmp_path / "source"
        source.write_bytes(os.urandom(8 * MIB))
        tool("nbdcopy", str(source), uri)
        tool("nbdcopy", uri, str(tmp_path / "copy"))
        assert (tmp_path / "copy").read_bytes()[: 8 * MIB] == source.read_bytes()
        assert "TLS" in tool("nbdinfo", f"nbd://localhost:{port}", code=1)
        tool("nbdinfo", f"nbds://localhost:{port}/?tls-certificates={theirs}", code=1)
        alone = tmp_path / "no-certificate"
        alone.mkdir()
        shutil.copy(ours / "ca-cert.pem", alone)
        tool("nbdinfo", f"nbds://localhost:{port}/?tls-certificates={alone}", code=1)


def test_nothing_in_the_clear_slips_behind_the_encryption(tmp_path: Path) -> None:
    """An attacker on the line could otherwise put a request between STARTTLS and the handshake."""
    certificates.make(tmp_path / "pki")
    context = nbd.tls_context(tmp_path / "pki")
    start_tls = (3).to_bytes(4) + wire.OPTION.pack(wire.OPTION_MAGIC, wire.Option.STARTTLS, 0)
    structured = wire.OPTION.pack(wire.OPTION_MAGIC, wire.Option.STRUCTURED_REPLY, 0)
    with (
        serving({"": MemoryDevice(MIB)}, tmp_path, tls=context) as one,
        socket.create_connection(("127.0.0.1", one.port)) as connected,
    ):
        connected.settimeout(10)
        connected.sendall(start_tls + structured)
        said = b""
        with suppress(ConnectionResetError):
            while some := connected.recv(1 << 16):
                said += some
        assert len(said) <= wire.GREETING.size + wire.OPTION_REPLY.size


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
