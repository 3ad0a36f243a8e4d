"""Waiting for operations, on a service whose API and worker are two processes."""

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from deployed import BIN, Deployed, start, until

from breezeblock.cli.exits import Exit

pytestmark = pytest.mark.clients


@contextmanager
def _role(data: Path, role: str) -> Iterator[subprocess.Popen[bytes]]:
    config = str(data / "breezeblock.toml")
    command = [str(BIN / "breezeblock"), "serve", "--config", config, "--role", role]
    with (data.parent / "data.log").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0


@pytest.fixture
def stopped(tmp_path: Path) -> Deployed:
    """A service that was set up, and had seen its pool, before it was stopped."""
    deployed = start(tmp_path / "data")
    deployed.stop()
    return deployed


def test_an_operation_waits_for_a_worker_and_the_command_for_a_restart(stopped: Deployed) -> None:
    with ExitStack() as stack:
        stack.enter_context(_role(stopped.data, "api"))
        until(
            lambda: stopped.call("breezeblock", "volume", "list", check=False).returncode == 0, "it answers"
        )
        late = stopped.call(
            "breezeblock", "volume", "create", "a", "--size", "1", "--timeout", "0.3", check=False
        )
        assert late.returncode == Exit.STILL_RUNNING
        assert "breezeblock operation watch" in late.stderr
        (operation,) = json.loads(stopped.call("breezeblock", "operation", "list", "--json").stdout)
        assert operation["state"] == "queued"
        terminal, theirs = pty.openpty()
        watching = subprocess.Popen(
            [BIN / "breezeblock", "operation", "watch", operation["id"]],
            cwd=stopped.data,
            env=stopped.environ | {"TERM": "xterm", "COLUMNS": "80"},
            stderr=theirs,
        )
        os.close(theirs)
        shown = _read(terminal, until="create_volume")
    with ExitStack() as stack:
        stack.enter_context(_role(stopped.data, "api"))
        stack.enter_context(_role(stopped.data, "worker"))
        shown += _read(terminal)  # first: a terminal that nobody reads makes its writers wait
        assert watching.wait(timeout=60) == Exit.OK
        assert "is done" in shown
        assert "\x1b[" in shown
        assert stopped.call("breezeblock", "doctor").returncode == Exit.OK
        stopped.call("breezeblock", "volume", "delete", "a")
    assert list(stopped.pool.iterdir()) == []


def test_a_queued_operation_can_be_cancelled(stopped: Deployed) -> None:
    with _role(stopped.data, "api"):
        until(
            lambda: stopped.call("breezeblock", "volume", "list", check=False).returncode == 0, "it answers"
        )
        stopped.call("breezeblock", "volume", "create", "a", "--size", "1", "--no-wait")
        (operation,) = json.loads(stopped.call("breezeblock", "operation", "list", "--json").stdout)
        stopped.call("breezeblock", "operation", "cancel", operation["id"])
        with _role(stopped.data, "worker"):
            ended = stopped.call("breezeblock", "operation", "watch", operation["id"], check=False)
            assert ended.returncode == Exit.FAILED
            assert "cancelled" in ended.stderr
            assert "cancelled" in stopped.call("breezeblock", "volume", "show", "a").stdout
            stopped.call("breezeblock", "volume", "delete", "a")
    assert list(stopped.pool.iterdir()) == []


def _read(terminal: int, until: str = "\0") -> str:
    """Return what is written to a terminal until a text comes, or its other side is closed."""
    found = b""
    while until.encode() not in found:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # EIO: the other side is gone
            break
        found += piece
    return found.decode()
