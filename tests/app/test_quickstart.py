"""The first start: complete, repeatable, and safe to be killed anywhere."""

import contextlib
import os
import socket
import stat
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from breezeblock import vault
from breezeblock.app import attaching, compose, gateway, quickstart
from breezeblock.backends.rest import open_rest
from breezeblock.catalog import types
from breezeblock.engine.lease import Lease
from breezeblock.errors import ConfigError, UnavailableError
from breezeblock.identity import users
from breezeblock.identity.tokens import Tokens

PORT = 18776


def _auth(data: Path, cloud: str) -> dict[str, str]:
    clouds = msgspec.yaml.decode((data / "clouds.yaml").read_bytes())["clouds"]
    auth: dict[str, str] = clouds[cloud]["auth"]
    return auth


def _can_sign_in(ready: quickstart.Ready, cloud: str) -> frozenset[str]:
    auth = _auth(ready.data, cloud)
    database = compose.open_database(ready.config)
    try:
        _secret, token = Tokens(database).log_in(
            auth["password"], user_name=auth["username"], project_name=auth["project_name"]
        )
    finally:
        database.dispose()
    return token.roles


def _snapshot(data: Path) -> dict[str, bytes]:
    kept = {"breezeblock.toml", "clouds.yaml"}
    return {path.name: path.read_bytes() for path in data.iterdir() if path.name in kept}


def test_everything_is_made_and_both_users_can_sign_in(tmp_path: Path) -> None:
    ready = quickstart.prepare(tmp_path / "data", PORT)
    assert stat.S_IMODE(ready.data.stat().st_mode) == 0o700
    assert stat.S_IMODE(ready.clouds.stat().st_mode) == 0o600
    assert "admin" in _can_sign_in(ready, "breezeblock-admin")
    assert _can_sign_in(ready, "breezeblock") == {"member", "reader"}
    assert (ready.data / "pool").is_dir()
    assert ready.config.api.port == PORT
    assert _auth(ready.data, "breezeblock")["auth_url"] == f"http://127.0.0.1:{PORT}/identity"
    assert ready.config.backends["local"]["path"] == str(ready.data / "pool")
    assert _object_store(ready) == ["rest"]


def _object_store(ready: quickstart.Ready) -> list[str]:
    """Return the types for the object store, whose password is there, and in no file in clear."""
    state = Path(ready.config.service.state_dir)
    password = vault.at(state).get(ready.config.cdmi.secret)
    assert not any(password.encode() in path.read_bytes() for path in ready.data.rglob("*") if path.is_file())
    database = compose.open_database(ready.config)
    try:
        with database.read() as connection:
            return [name for name in types.names(connection) if name != "__DEFAULT__"]
    finally:
        database.dispose()


def test_two_services_get_two_object_stores(tmp_path: Path) -> None:
    one, two = (quickstart.prepare(tmp_path / name, PORT) for name in ("one", "two"))
    assert one.config.cdmi.directory != two.config.cdmi.directory
    for ready in (one, two):
        (url,) = ready.config.backends["rest"]["pools"]["rest"]["urls"]
        assert url == f"https://127.0.0.1:{ready.config.cdmi.port}/rest"
        assert ready.config.backends["rest"]["only_by_type"] is True


def test_who_listens_in_the_object_stores_place_is_told_no_password(tmp_path: Path) -> None:
    ready = quickstart.prepare(tmp_path, PORT)
    assert stat.S_IMODE((tmp_path / quickstart.CERTIFICATE).stat().st_mode) == 0o600
    backend = open_rest(
        "rest", attaching.rest_config(ready.config, "rest"), Path(ready.config.service.state_dir)
    )
    with gateway.lent(ready.config):
        (pool,) = backend.stats()
        assert pool.up, pool.reason
    heard: list[bytes] = []

    def listen(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connected, _ = listener.accept()
                heard.append(connected.recv(1 << 16))
                connected.close()

    with socket.create_server(("127.0.0.1", ready.config.cdmi.port)) as listener:
        thread = threading.Thread(target=listen, args=(listener,))
        thread.start()
        (pool,) = backend.stats()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert not pool.up
    assert heard
    assert not any(b"Basic" in said for said in heard)


def test_a_second_start_changes_nothing(tmp_path: Path) -> None:
    before = _snapshot(quickstart.prepare(tmp_path, PORT).data)
    again = quickstart.prepare(tmp_path, PORT)
    assert _snapshot(tmp_path) == before
    assert again.notes == []


def test_what_the_operator_changed_stays(tmp_path: Path) -> None:
    quickstart.prepare(tmp_path, PORT)
    file = tmp_path / "breezeblock.toml"
    file.write_text(file.read_text() + "\n[quota]\nvolumes = 3\n")
    with (tmp_path / "clouds.yaml").open("a") as clouds:
        clouds.write("  mine:\n    auth: {auth_url: 'http://127.0.0.1:9/identity'}\n")
    before = _snapshot(tmp_path)
    ready = quickstart.prepare(tmp_path, PORT)
    assert _snapshot(tmp_path) == before
    assert ready.config.quota.volumes == 3


def test_another_port_is_put_where_it_belongs_and_nowhere_else(tmp_path: Path) -> None:
    quickstart.prepare(tmp_path, PORT)
    file = tmp_path / "breezeblock.toml"
    file.write_text(file.read_text() + f"# port = {PORT} was here\n")
    with (tmp_path / "clouds.yaml").open("a") as clouds:
        clouds.write(f"  mine:\n    auth: {{auth_url: 'http://far.example:{PORT}/identity'}}\n")
    ready = quickstart.prepare(tmp_path, PORT + 1)
    assert ready.config.api.port == PORT + 1
    assert tomllib.loads(file.read_text())["api"]["port"] == PORT + 1
    assert f"# port = {PORT} was here" in file.read_text()
    for cloud in quickstart.ACCOUNTS:
        assert _auth(tmp_path, cloud)["auth_url"] == f"http://127.0.0.1:{PORT + 1}/identity"
    assert _auth(tmp_path, "mine")["auth_url"].startswith("http://far.example")
    assert len(ready.notes) == 2
    assert _can_sign_in(ready, "breezeblock")


def test_a_port_that_cannot_be_changed_is_told(tmp_path: Path) -> None:
    quickstart.prepare(tmp_path, PORT)
    file = tmp_path / "breezeblock.toml"
    file.write_text(
        file.read_text()
        .replace("[api]\n", "")
        .replace('host = "127.0.0.1"\n', "")
        .replace(f"port = {PORT}", "")
    )
    with pytest.raises(ConfigError, match=r"api\.port is 8776"):
        quickstart.prepare(tmp_path, PORT)


def test_the_port_under_a_running_service_is_left_alone(tmp_path: Path) -> None:
    ready = quickstart.prepare(tmp_path, PORT)
    before = _snapshot(tmp_path)
    database = compose.open_database(ready.config)
    running = Lease(database, ready.config.executor_id)
    running.acquire(0.0)
    try:
        assert quickstart.prepare(tmp_path, PORT).notes == []
        with pytest.raises(UnavailableError, match="already running"):
            quickstart.prepare(tmp_path, PORT + 1)
    finally:
        running.release()
        database.dispose()
    assert _snapshot(tmp_path) == before
    assert quickstart.prepare(tmp_path, PORT + 1).config.api.port == PORT + 1


def test_a_lost_clouds_yaml_changes_no_password(tmp_path: Path) -> None:
    ready = quickstart.prepare(tmp_path, PORT)
    password = _auth(tmp_path, "breezeblock")["password"]
    ready.clouds.unlink()
    again = quickstart.prepare(tmp_path, PORT)
    assert "password" not in _auth(tmp_path, "breezeblock")
    assert any("breezeblock user password demo" in note for note in again.notes)
    database = compose.open_database(again.config)
    Tokens(database).log_in(password, user_name="demo")
    database.dispose()


@pytest.mark.parametrize("name", ['it\'s a "dir"', "a?b#c%20d", "a b/ü/x"])
def test_any_printable_directory_will_do(tmp_path: Path, name: str) -> None:
    ready = quickstart.prepare(tmp_path / name, PORT)
    assert (tmp_path / name / "breezeblock.db").exists()
    assert _can_sign_in(ready, "breezeblock")


def test_a_directory_with_control_characters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="control characters"):
        quickstart.prepare(tmp_path / "a\nb", PORT)


def test_the_commands_to_try_name_the_clients_file(tmp_path: Path) -> None:
    story = quickstart.story(quickstart.prepare(tmp_path / "with space", PORT))
    commands = [line for line in story if line.startswith("  ")]
    assert len(commands) == 3
    assert all(f"OS_CLIENT_CONFIG_FILE='{tmp_path}/with space/clouds.yaml' " in line for line in commands)


KILLED = """
import os, sys
from pathlib import Path
from breezeblock.app import quickstart

def prepare(step, data):
    count = 0
    def trace(event, arguments):
        nonlocal count
        if event in ("open", "os.rename", "os.mkdir", "sqlite3.connect", "fcntl.flock", "hashlib.scrypt"):
            if event == "open" and str(data) not in str(arguments[0]):
                return
            count += 1
            if count == step:
                os._exit(99)
    sys.addaudithook(trace)
    quickstart.prepare(data, 18776)
    os._exit(0)

for step in range(1, 200):
    child = os.fork()
    if child == 0:
        prepare(step, Path(sys.argv[1]) / str(step))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != 99:
        print(step)
        sys.exit(status)
"""


@pytest.mark.crash
def test_a_start_killed_anywhere_is_completed_by_the_next(tmp_path: Path) -> None:
    """The process ends just before its n-th touch of the disk, for every n until it lives to the end."""
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    killed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert killed.returncode == 0, killed.stderr
    steps = int(killed.stdout)
    assert steps > 8
    for step in range(1, steps + 1):
        data = tmp_path / str(step)
        ready = quickstart.prepare(data, PORT)
        assert _can_sign_in(ready, "breezeblock"), step
        assert _can_sign_in(ready, "breezeblock-admin"), step
        assert not list(data.glob(".*.tmp")), step
        assert _object_store(ready) == ["rest"], step


START = """
import pathlib, sys
from breezeblock.app import quickstart
quickstart.prepare(pathlib.Path(sys.argv[1]), 18776)
"""


def test_two_first_starts_at_once_agree_on_the_passwords(tmp_path: Path) -> None:
    starts = [subprocess.Popen([sys.executable, "-c", START, str(tmp_path)]) for _ in range(3)]
    assert [start.wait(timeout=60) for start in starts] == [0, 0, 0]
    ready = quickstart.prepare(tmp_path, PORT)
    assert _can_sign_in(ready, "breezeblock")
    database = compose.open_database(ready.config)
    assert len(users.list_users(database)) == 2
    with database.read() as connection:
        assert connection.execute(sa.text("PRAGMA integrity_check")).scalar() == "ok"
    database.dispose()
    assert os.access(ready.clouds, os.R_OK)
