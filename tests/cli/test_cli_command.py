"""The command as a process: exit codes, and failures told in words."""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from breezeblock.cli.exits import Exit

PATH_ONLY = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}


def run(*arguments: str, cwd: Path, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from breezeblock.cli import main; main()", *arguments],
        cwd=cwd,
        env=PATH_ONLY | environ,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "breezeblock.toml").write_text(
        f'[database]\nurl = "sqlite:///{tmp_path}/b.db"\n'
        f'[backends.local]\nkind = "local"\npath = "{tmp_path}/pool"\n'
    )
    return tmp_path


def test_help_and_version_need_no_service(tmp_path: Path) -> None:
    assert "volume" in run("--help", cwd=tmp_path).stdout
    assert run("--version", cwd=tmp_path).stdout.strip()


def test_a_list_needs_none_of_the_services_libraries(tmp_path: Path) -> None:
    code = "import sys; from breezeblock.cli import root, client, output; print(*sys.modules)"
    run_ = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"sqlalchemy", "dbos", "starlette", "uvicorn", "cryptography", "alembic", "pydantic"}
    assert not heavy & set(run_.stdout.split())


def test_a_wrong_option_is_a_usage_error(tmp_path: Path) -> None:
    assert run("volume", "create", "a", cwd=tmp_path).returncode == Exit.USAGE
    assert run("volume", "frobnicate", cwd=tmp_path).returncode == Exit.USAGE


def test_no_clouds_yaml_names_the_places(tmp_path: Path) -> None:
    ended = run("volume", "list", cwd=tmp_path)
    assert ended.returncode == Exit.USAGE
    assert "clouds.yaml" in ended.stderr
    assert not ended.stdout


def test_nobody_at_the_address_is_unreachable_and_named(tmp_path: Path) -> None:
    ended = run(
        "volume",
        "list",
        cwd=tmp_path,
        OS_AUTH_TYPE="none",
        OS_ENDPOINT="http://127.0.0.1:1/v3",
        OS_AUTH_URL="x",
    )
    assert ended.returncode == Exit.UNREACHABLE
    assert "127.0.0.1:1" in ended.stderr


class Stranger(http.server.BaseHTTPRequestHandler):
    """A web server that knows nothing of us."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>Welcome</html>")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def stranger() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_another_program_at_the_address_is_told_apart(tmp_path: Path, stranger: str) -> None:
    environ = {"OS_AUTH_TYPE": "none", "OS_ENDPOINT": f"http://{stranger}/v3"}
    ended = run("volume", "list", cwd=tmp_path, **environ)
    assert ended.returncode == Exit.FAILED
    assert "does not answer as an OpenStack service" in ended.stderr
    basic = {"OS_AUTH_TYPE": "http_basic", "OS_USERNAME": "u", "OS_PASSWORD": "s3cret", **environ}
    assert (
        "s3cret" not in run("volume", "list", cwd=tmp_path, **basic | {"OS_AUTH_TYPE": "http_basic"}).stderr
    )


def test_users_are_kept_on_the_database_alone(data: Path) -> None:
    assert run("db", "upgrade", cwd=data).returncode == 0
    added = run("user", "add", "alice", "--project", "research", cwd=data)
    assert added.returncode == 0, added.stderr
    assert len(added.stdout.strip()) >= 16
    again = run("user", "add", "alice", "--project", "research", cwd=data)
    assert again.returncode == Exit.REFUSED
    assert "alice" in again.stderr
    assert run("user", "password", "alice", "--password-stdin", cwd=data, stdin="new one\n").stdout == ""
    assert run("user", "password", "bob", cwd=data).returncode == Exit.NOT_FOUND
    (listed,) = json.loads(run("user", "list", "--json", cwd=data).stdout)
    assert (listed["name"], listed["roles"]) == ("alice", {"research": ["member"]})
    assert "alice" in run("user", "list", cwd=data).stdout
    assert run("user", "delete", "alice", cwd=data).returncode == 0
    assert json.loads(run("user", "list", "--json", cwd=data).stdout) == []


def test_a_database_of_no_schema_is_refused_with_the_way_out(data: Path) -> None:
    ended = run("user", "list", cwd=data)
    assert ended.returncode == Exit.USAGE
    assert "breezeblock db upgrade" in ended.stderr


def test_config_check_names_file_key_and_value(data: Path) -> None:
    assert run("config", "check", cwd=data).returncode == 0
    with (data / "breezeblock.toml").open("a") as file:
        file.write("[api]\nprot = 1\n")
    ended = run("config", "check", cwd=data)
    assert ended.returncode == Exit.USAGE
    assert "breezeblock.toml" in ended.stderr
    assert "prot" in ended.stderr
    assert "port" in ended.stderr


@pytest.mark.parametrize(
    ("section", "told"),
    [('kind = "tape"', "tape"), ("", "kind"), ('kind = "nfs"\nshares = ["no share"]', "no share")],
)
def test_config_check_looks_at_back_ends_too(data: Path, section: str, told: str) -> None:
    with (data / "breezeblock.toml").open("a") as file:
        file.write(f"[backends.second]\n{section}\n")
    ended = run("config", "check", cwd=data)
    assert ended.returncode == Exit.USAGE, ended.stderr
    assert told in ended.stderr


def test_config_show_is_what_is_in_force_without_secrets(data: Path) -> None:
    ended = run(
        "config",
        "show",
        cwd=data,
        BREEZEBLOCK__API__PORT="9999",
        BREEZEBLOCK__DATABASE__URL="postgresql+psycopg://me:s3cret@db/name",
    )
    assert json.loads(ended.stdout)["api"]["port"] == 9999
    assert "s3cret" not in ended.stdout
