import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from hypothesis import given, settings
from hypothesis import strategies as st

from breezeblock import vault
from breezeblock.errors import ConfigError, NotFoundError
from breezeblock.vault import Vault


def everything(directory: Path) -> bytes:
    return b"\0".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


def test_what_is_kept_comes_back_and_is_nowhere_in_plain(tmp_path: Path) -> None:
    kept = vault.at(tmp_path)
    kept.set("server", "p,ass wörd")
    kept.set("server", "s3cret-of-mine")
    kept.set("other", "東京")
    assert (kept.get("server"), kept.get("other")) == ("s3cret-of-mine", "東京")
    assert kept.names() == ["other", "server"]
    for text in ("s3cret-of-mine", "東京"):
        assert text.encode() not in everything(tmp_path)
    modes = {path.stat().st_mode & 0o077 for path in tmp_path.rglob("*")}
    assert modes == {0}
    kept.remove("other")
    with pytest.raises(NotFoundError, match="no secret 'other'"):
        kept.get("other")
    with pytest.raises(NotFoundError):
        kept.remove("other")


@given(st.text(min_size=1, max_size=200))
@settings(max_examples=25)
def test_any_line_can_be_kept(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    kept = vault.at(tmp_path_factory.mktemp("vault"))
    try:
        kept.set("x", text)
    except ConfigError:
        assert any(mark in text for mark in "\0\r\n")
    except UnicodeEncodeError:
        assert any("\ud800" <= letter <= "\udfff" for letter in text)
    else:
        assert kept.get("x") == text


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", ".hidden", "a" * 129, "a\n", "-x"])
def test_names_cannot_lead_anywhere_else(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no name of a secret"):
        vault.at(tmp_path).set(name, "x")
    with pytest.raises(ConfigError, match="no name of a secret"):
        vault.at(tmp_path).get(name)


def test_rotation_changes_key_and_ciphertext_and_nothing_else(tmp_path: Path) -> None:
    kept = vault.at(tmp_path)
    for number in range(3):
        kept.set(f"s{number}", f"secret {number}")
    before = (everything(tmp_path / "secrets"), (tmp_path / "secrets.keys").read_bytes())
    assert kept.rotate() == 3
    after = (everything(tmp_path / "secrets"), (tmp_path / "secrets.keys").read_bytes())
    assert not set(before[1].split()) & set(after[1].split())
    assert len(after[1].split()) == 1
    assert [kept.get(f"s{number}") for number in range(3)] == [f"secret {number}" for number in range(3)]
    (tmp_path / "secrets.keys").write_bytes(before[1])
    with pytest.raises(ConfigError, match="does not hold"):
        kept.get("s0")


@pytest.mark.crash
def test_rotation_killed_before_any_write_loses_nothing(tmp_path: Path) -> None:
    """It may be killed at every replacement of a file: one for each secret, and two of the keys."""
    script = """
import os, sys
from pathlib import Path
from breezeblock import vault
left = int(sys.argv[2])
replace = vault._replace
def deadly(path, content):
    global left
    if left == 0:
        os._exit(9)
    left -= 1
    replace(path, content)
vault._replace = deadly
vault.at(Path(sys.argv[1])).rotate()
"""
    for write in range(6):
        state = tmp_path / str(write)
        kept = vault.at(state)
        for number in range(3):
            kept.set(f"s{number}", f"secret {number}")
        done = subprocess.run([sys.executable, "-c", script, str(state), str(write)], check=False)
        assert done.returncode == (9 if write < 5 else 0)
        assert [kept.get(f"s{number}") for number in range(3)] == [f"secret {number}" for number in range(3)]
        assert kept.rotate() == 3
        assert kept.get("s1") == "secret 1"
        assert len((state / "secrets.keys").read_bytes().split()) == 1


PAUSING = """
import sys
from pathlib import Path
from breezeblock import vault
replace = vault._replace
def paused(path, content):
    print("about to write", flush=True)
    sys.stdin.readline()
    replace(path, content)
vault._replace = paused
vault.at(Path(sys.argv[1])).set("late", "secret of late")
"""
ROTATING = "import sys, pathlib, breezeblock.vault as v; v.at(pathlib.Path(sys.argv[1])).rotate()"


def test_a_rotation_waits_for_who_is_setting_a_secret(tmp_path: Path) -> None:
    """It would forget the key with which the other one has encrypted the secret already."""
    kept = vault.at(tmp_path)
    kept.set("early", "secret of early")
    command = [sys.executable, "-c", PAUSING, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as setting:
        assert setting.stdout is not None
        assert setting.stdout.readline() == b"about to write\n"
        with subprocess.Popen([sys.executable, "-c", ROTATING, tmp_path]) as rotating:
            with suppress(subprocess.TimeoutExpired):
                rotating.wait(1)  # longer than it takes without waiting; it ends early by mistake only
            assert kept.get("early") == "secret of early"
            setting.communicate(b"\n")
        assert (setting.returncode, rotating.returncode) == (0, 0)
    assert {name: kept.get(name) for name in kept.names()} == {
        "early": "secret of early",
        "late": "secret of late",
    }


def test_a_secret_can_be_read_while_keys_are_rotated(tmp_path: Path) -> None:
    kept = vault.at(tmp_path)
    for number in range(5):
        kept.set(f"s{number}", f"secret {number}")
    done: list[int] = []
    thread = threading.Thread(target=lambda: done.extend(kept.rotate() for _ in range(10)))
    thread.start()
    while thread.is_alive():
        assert [kept.get(f"s{number}") for number in range(5)] == [f"secret {n}" for n in range(5)]
    thread.join()
    assert done == [5] * 10


def test_the_key_may_be_a_systemd_credential(tmp_path: Path) -> None:
    directory = tmp_path / "credentials"
    directory.mkdir()
    old, new = Fernet.generate_key(), Fernet.generate_key()
    (directory / vault.CREDENTIAL).write_bytes(old)
    environment = {"CREDENTIALS_DIRECTORY": str(directory)}
    kept = Vault(tmp_path / "secrets", tmp_path / "secrets.keys", environment)
    kept.set("server", "x")
    assert not (tmp_path / "secrets.keys").exists()
    (directory / vault.CREDENTIAL).write_bytes(new + b"\n" + old)
    assert kept.rotate() == 1
    (directory / vault.CREDENTIAL).write_bytes(new)
    assert kept.get("server") == "x"


def test_the_keys_may_be_kept_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "usb").mkdir()
    (tmp_path / "state" / "secrets.keys").symlink_to(tmp_path / "usb" / "keys")
    kept = vault.at(tmp_path / "state")
    kept.set("server", "x")
    kept.rotate()
    assert (tmp_path / "state" / "secrets.keys").is_symlink()
    (tmp_path / "usb" / "keys").unlink()
    with pytest.raises(ConfigError, match="There is no key"):
        kept.get("server")


def test_keys_that_others_can_read_or_that_are_none_are_refused(tmp_path: Path) -> None:
    kept = vault.at(tmp_path)
    kept.set("server", "x")
    keys = tmp_path / "secrets.keys"
    keys.chmod(0o640)
    with pytest.raises(ConfigError, match="Others may read the keys") as caught:
        kept.get("server")
    assert "chmod 600" in caught.value.remedy
    keys.chmod(0o600)
    keys.write_text("no key\n")
    with pytest.raises(ConfigError, match="something that is no key"):
        kept.get("server")


def test_the_command(tmp_path: Path) -> None:
    config = tmp_path / "breezeblock.toml"
    config.write_text(f'[service]\nstate_dir = "{tmp_path}/state"\n')
    command = [sys.executable, "-m", "breezeblock", "secret"]

    def run(*argv: str, said: str = "") -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*command, *argv, "--config", str(config)],
            input=said,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ,
        )

    done = run("set", "server", said="hunter2-of-mine\n")
    assert done.returncode == 0, done.stderr
    assert "hunter2" not in done.stdout + done.stderr
    assert vault.at(tmp_path / "state").get("server") == "hunter2-of-mine"
    assert run("list", "--json").stdout.split() == ["[", '"server"', "]"]
    assert run("rotate").returncode == 0
    assert vault.at(tmp_path / "state").get("server") == "hunter2-of-mine"
    assert run("delete", "server").returncode == 0
    assert run("delete", "server").returncode == 3
    assert run("set", "two", said="lines\nof it\n").returncode != 0
