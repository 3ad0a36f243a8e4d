"""A real `breezeblock serve` in a process of its own, to be killed and started again."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

PROJECT = "aaaa"
PATIENCE_S = 60.0
LOCAL = """[backends.local]
kind = "local"
path = "{}"
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@dataclass
class Served:
    """Where the service's files are, and the process while there is one."""

    directory: Path
    database_url: str
    port: int = field(default_factory=free_port)
    backends: str = ""
    """Sections of the configuration; empty: one directory, `pool`."""
    program: tuple[str, ...] = ("-m", "breezeblock")
    """What Python is to run."""
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def pool(self) -> Path:
        return self.directory / "pool"

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}/v3/{PROJECT}"

    def start(self, role: str = "all", executor: str = "one", *, wait: bool = True) -> None:
        """Start a process; returns once it answers (a worker, or without `wait`: at once)."""
        self.pool.mkdir(parents=True, exist_ok=True)
        config = self.directory / f"{executor}.toml"
        config.write_text(
            f"""
[service]
state_dir = "{self.directory}"
[api]
port = {self.port}
[database]
url = "{self.database_url}"
[auth]
mode = "none"
[engine]
executor_id = "{executor}"
stop_timeout_s = 2
[logging]
level = "warning"
format = "json"
{self.backends or LOCAL.format(self.pool)}
"""
        )
        log = (self.directory / "log").open("ab")
        command = [sys.executable, *self.program, "serve", "--config", str(config), "--role", role]
        self.processes[executor] = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
        if wait and role != "worker":
            self.until_answers(executor)

    def until_answers(self, executor: str = "one") -> None:
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            assert self.processes[executor].poll() is None, self.log()
            try:
                if requests.get(f"http://127.0.0.1:{self.port}/healthz", timeout=5).ok:
                    return
            except requests.ConnectionError:
                time.sleep(0.02)
        raise AssertionError(f"the service does not answer:\n{self.log()}")

    def signal(self, number: int, executor: str = "one") -> None:
        os.kill(self.processes[executor].pid, number)

    def kill(self, executor: str = "one") -> None:
        """End the process as `kill -9` and the power button do."""
        process = self.processes.pop(executor)
        process.kill()
        process.wait()

    def stop(self, executor: str = "one") -> int:
        """End the process as systemd does."""
        process = self.processes.pop(executor)
        process.send_signal(signal.SIGTERM)
        return process.wait(30)

    def stop_all(self) -> None:
        for executor in list(self.processes):
            self.kill(executor)

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")[-4000:]

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Ask; 0 stands for a process that died meanwhile."""
        headers = {"X-Auth-Token": f"admin:{PROJECT}", "OpenStack-API-Version": "volume 3.66"}
        try:
            reply = requests.request(method, self.base + path, json=body, headers=headers, timeout=30)
        except requests.RequestException:
            return 0, None
        try:
            return reply.status_code, reply.json()
        except ValueError:
            return reply.status_code, None

    def all(self, kind: str) -> list[dict[str, Any]]:
        status, body = self.call("GET", f"/{kind}/detail?limit=1000")
        assert status == 200, body
        found: list[dict[str, Any]] = body[kind]
        return found

    def operations(self, *states: str) -> list[dict[str, Any]]:
        status, body = self.call("GET", "/operations?limit=1000")
        assert status == 200, body
        return [one for one in body["operations"] if one["state"] in states]

    def until_idle(self) -> None:
        """Wait until no operation is queued or running."""
        end = time.monotonic() + PATIENCE_S
        while self.operations("queued", "running"):
            assert time.monotonic() < end, (self.operations("queued", "running"), self.log())
            time.sleep(0.05)

    def until(self, path: str, status: str) -> None:
        end = time.monotonic() + PATIENCE_S
        kind = path.strip("/").split("/")[0].removesuffix("s")
        found = ""
        while time.monotonic() < end:
            code, body = self.call("GET", path)
            found = "gone" if code == 404 else body[kind]["status"] if code == 200 else f"HTTP {code}"
            if found == status:
                return
            assert not found.startswith("error"), (found, self.log())
            time.sleep(0.01)
        raise AssertionError(f"{path} is {found}, expected {status}\n{self.log()}")

    def volume(self, **wanted: Any) -> str:
        status, body = self.call("POST", "/volumes", {"volume": {"size": 1} | wanted})
        assert status == 202, body
        volume_id: str = body["volume"]["id"]
        self.until(f"/volumes/{volume_id}", "available")
        return volume_id

    def snapshot(self, volume_id: str) -> str:
        status, body = self.call("POST", "/snapshots", {"snapshot": {"volume_id": volume_id}})
        assert status == 202, body
        snapshot_id: str = body["snapshot"]["id"]
        self.until(f"/snapshots/{snapshot_id}", "available")
        return snapshot_id
