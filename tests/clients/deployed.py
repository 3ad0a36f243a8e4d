"""A service of its own, started as a person would start it, and how to call it."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE_S = 60.0
BIN = Path(sys.executable).parent


@dataclass
class Deployed:
    """A running `breezeblock quickstart`."""

    data: Path
    port: int
    process: subprocess.Popen[str]

    @property
    def pool(self) -> Path:
        return self.data / "pool"

    @property
    def environ(self) -> dict[str, str]:
        """The environment of a person who did what quickstart printed; nothing of ours leaks into it."""
        kept = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
        return kept | {"OS_CLIENT_CONFIG_FILE": str(self.data / "clouds.yaml"), "NO_PROXY": "127.0.0.1"}

    def call(self, program: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment and return how it ended."""
        ended = subprocess.run(
            [BIN / program, *arguments],
            cwd=self.data,
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
        assert not check or ended.returncode == 0, f"{program} {arguments}: {ended.stdout}{ended.stderr}"
        return ended

    def openstack(self, *arguments: str, cloud: str = "breezeblock", as_json: bool = False) -> Any:
        """Run the real client; return what it printed, decoded if `as_json`."""
        form = ("-f", "json") if as_json else ()
        ended = self.call("openstack", "--os-cloud", cloud, *arguments, *form)
        return json.loads(ended.stdout) if as_json else ended.stdout

    def stop(self) -> int:
        """End it as a service manager does and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=PATIENCE_S)


def start(data: Path, port: int = 0) -> Deployed:
    """Start a service in a directory and return when it answers."""
    port = port or free_port()
    log = (data.parent / f"{data.name}.log").open("a")
    process = subprocess.Popen(
        [BIN / "breezeblock", "quickstart", "--data", data, "--port", str(port)],
        stdout=log,
        stderr=log,
        text=True,
        cwd=data.parent,
    )
    log.close()
    deployed = Deployed(data, port, process)
    until(lambda: _answers(deployed), "the service answers")
    return deployed


def _answers(deployed: Deployed) -> bool:
    assert deployed.process.poll() is None, (deployed.data.parent / f"{deployed.data.name}.log").read_text()
    connection = http.client.HTTPConnection("127.0.0.1", deployed.port, timeout=5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def free_port() -> int:
    """Return a port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(look: Callable[[], T], what: str) -> T:
    """Return the first true answer of `look`."""
    end = time.monotonic() + PATIENCE_S
    while True:
        if found := look():
            return found
        assert time.monotonic() < end, f"not within {PATIENCE_S} s: {what}"
        time.sleep(0.05)
