"""A service of its own in a temporary directory: one process, SQLite, a local pool, no token checks."""

import json
import os
import socket
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import sqlalchemy as sa

from breezeblock.catalog import tables
from breezeblock.catalog.clock import now
from breezeblock.catalog.database import Database

PROJECT = "aaaa"


@dataclass(frozen=True)
class Deployment:
    """Where it lives. `start` and `stop` are shell commands, as the yardsticks want them."""

    directory: Path
    port: int
    clone: str = "linked"
    smb: str = ""
    """A format: the pool is then an SMB share of this very machine, with volumes of that format."""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/v3/{PROJECT}"

    @property
    def pool(self) -> Path:
        return self.directory / "pool"

    @property
    def start(self) -> str:
        return (
            f"setsid {sys.executable} -m breezeblock serve --config {self.directory}/breezeblock.toml"
            f" >> {self.directory}/log 2>&1 < /dev/null & echo $! > {self.directory}/pid"
        )

    @property
    def kill(self) -> str:
        return f"kill -9 $(cat {self.directory}/pid)"

    @property
    def pids(self) -> str:
        return f"cat {self.directory}/pid"

    def prepare(self) -> None:
        """Write the configuration."""
        self.pool.mkdir(parents=True)
        (self.directory / "smb.conf").write_text(f"[volumes]\npath = {self.pool}\n")
        own = f'kind = "local"\npath = "{self.pool}"'
        if self.smb:
            own = (
                'kind = "smb"\nshares = ["//localhost/volumes -o username=root,secret=none"]\n'
                f'samba_config = "{self.directory}/smb.conf"\nformat = "{self.smb}"'
            )
        (self.directory / "breezeblock.toml").write_text(
            f"""
[service]
state_dir = "{self.directory}"
[api]
port = {self.port}
[database]
url = "sqlite:///{self.directory}/catalog.db"
[auth]
mode = "none"
[quota]
volumes = -1
[logging]
level = "warning"
[backends.local]
{own}
clone = "{self.clone}"
"""
        )

    def run(self) -> None:
        """Start it, and return when it answers."""
        subprocess.run(self.start, shell=True, check=True)
        for _ in range(600):
            try:
                with urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=5):
                    return
            except URLError:
                time.sleep(0.05)
        raise SystemExit(f"the service does not start: see {self.directory}/log")

    def end(self) -> None:
        """Stop it as a service manager would."""
        subprocess.run(f"kill $(cat {self.directory}/pid); sleep 1", shell=True, check=False)

    def resident_mib(self) -> float:
        """Return the process's resident set."""
        pid = (self.directory / "pid").read_text().strip()
        status = Path(f"/proc/{pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def seed(self, total: int) -> None:
        """Bring the number of volume rows to `total`, past the API: lists are measured, not creation."""
        database = Database(f"sqlite:///{self.directory}/catalog.db")
        with database.write() as connection:
            have = connection.execute(sa.select(sa.func.count()).select_from(tables.volumes)).scalar_one()
            type_id = connection.execute(sa.select(tables.volume_types.c.id)).scalars().first()
            rows = [
                {
                    "id": str(uuid.uuid4()),
                    "project_id": PROJECT,
                    "user_id": "admin",
                    "name": f"seed-{number}",
                    "virtual_bytes": 1 << 30,
                    "status": "available",
                    "backend": "local",
                    "pool": "local",
                    "volume_type_id": type_id,
                    "availability_zone": "nova",
                    "metadata": json.dumps({"seed": str(number)}),
                    "created_at": now(),
                }
                for number in range(have, total)
            ]
            if rows:
                connection.execute(sa.insert(tables.volumes), rows)
        database.dispose()

    def unseed(self) -> None:
        """Remove what `seed` made."""
        database = Database(f"sqlite:///{self.directory}/catalog.db")
        with database.write() as connection:
            connection.execute(sa.delete(tables.volumes).where(tables.volumes.c.name.like("seed-%")))
        database.dispose()


def load() -> str:
    """Return the load averages, without which no figure means anything."""
    return " ".join(f"{one:.2f}" for one in os.getloadavg())


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
