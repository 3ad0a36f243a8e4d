"""Debian's PostgreSQL on a free port of 127.0.0.1, for as long as the tests run."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psycopg

INSTALL = "PostgreSQL is needed: `make test` installs it, or `apt-get install postgresql`."
_LIMIT_SECONDS = 60.0


class NoPostgresError(Exception):
    """PostgreSQL is missing, or did not start."""


@dataclass(frozen=True)
class PostgresServer:
    """A running server; `database` lends fresh databases on it."""

    port: int
    names: Iterator[str]

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"

    @contextmanager
    def database(self) -> Iterator[str]:
        """Lend the URL of an empty database, which goes with everybody who is still connected."""
        name = next(self.names)
        with self.admin() as admin:
            admin.execute(f'CREATE DATABASE "{name}"'.encode())
        try:
            yield self.url(name)
        finally:
            with self.admin() as admin:
                admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())

    @contextmanager
    def admin(self) -> Iterator[psycopg.Connection]:
        with psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname="postgres", autocommit=True
        ) as connection:
            yield connection


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Start a server with a new, empty cluster; it ends with this context or with this process."""
    programs = _programs()
    # PostgreSQL refuses to run as root, and tmp_path is closed to the user that it runs as instead.
    home = Path(tempfile.mkdtemp(prefix="breezeblock-postgres-"))
    user = _user()
    try:
        if user:
            os.chown(home, user.pw_uid, user.pw_gid)
        made = subprocess.run(
            [
                *_become(user),
                str(programs / "initdb"),
                "--pgdata", str(home / "data"),
                "--username=postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=home,
        )  # fmt: skip
        if made.returncode:
            raise NoPostgresError(f"initdb failed: {made.stderr}")
        with _serving(programs, home, user) as port:
            yield PostgresServer(port, (f"test_{number}" for number in count(1)))
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _serving(programs: Path, home: Path, user: pwd.struct_passwd | None) -> Iterator[int]:
    log = home / "log"
    port = _free_port()
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "",
        "max_connections": "200",
        # The cluster does not outlive the tests, so nothing is gained by waiting for the disk.
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
        "shared_buffers": "64MB",
    }
    arguments = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*_become(user), str(programs / "postgres"), "-D", str(home / "data"), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=home,
        )
    try:
        _wait_until_ready(server, port, log)
        yield port
    finally:
        server.send_signal(signal.SIGINT)  # "fast": ends sessions, then itself
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(_LIMIT_SECONDS)
        server.kill()
        server.wait()


def _wait_until_ready(server: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    end = time.monotonic() + _LIMIT_SECONDS
    while time.monotonic() < end and server.poll() is None:
        with (
            contextlib.suppress(psycopg.OperationalError),
            psycopg.connect(host="127.0.0.1", port=port, user="postgres", dbname="postgres"),
        ):
            return
        time.sleep(0.02)
    raise NoPostgresError(f"PostgreSQL did not start: {log.read_text(errors='replace')}")


def _programs() -> Path:
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    folders += [Path(found).resolve().parent for found in [shutil.which("initdb")] if found]
    if not folders:
        raise NoPostgresError(INSTALL)
    return max(folders, key=lambda path: int(path.parent.name) if path.parent.name.isdigit() else 0)


def _user() -> pwd.struct_passwd | None:
    """Return whom to become: nobody else, unless this is root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        raise NoPostgresError(INSTALL) from None


def _become(user: pwd.struct_passwd | None) -> list[str]:
    # Dies with the tests, also when they are killed.
    become = ["setpriv", "--pdeathsig", "INT"]
    if user:
        become += ["--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups"]
    return become


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
