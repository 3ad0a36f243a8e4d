"""What a configuration may hold, and how a wrong one is refused: file, key, value, what is allowed."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from breezeblock.app.compose import open_backends
from breezeblock.config import Config, load, split_policy
from breezeblock.errors import ConfigError


def write(directory: Path, text: str) -> Path:
    path = directory / "breezeblock.toml"
    path.write_text(text)
    return path


def test_nothing_said_is_the_defaults() -> None:
    config = load(None, {})
    assert (config.api.port, config.auth.mode, config.engine.concurrency) == (8776, "builtin", 8)
    assert config.backends == {}


def test_the_environment_stands_before_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, '[api]\nport = 1\n[service]\nname = "a"\n')
    config = load(
        path,
        {
            "BREEZEBLOCK__API__PORT": "9000",
            "BREEZEBLOCK__SERVICE__NAME": "b",
            "BREEZEBLOCK__BACKENDS__NAS__KIND": "nfs",
            "HOME": "/nowhere",
        },
    )
    assert (config.api.port, config.service.name) == (9000, "b")
    assert config.backends == {"nas": {"kind": "nfs"}}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[api]\nprot = 1", ["breezeblock.toml", "api", "prot", "Known keys", "port"]),
        ("[apis]\n", ["breezeblock.toml", "apis", "Known keys", "api"]),
        ("[api]\nport = 70000", ["api.port", "65535", "70000"]),
        ("[api]\nport = '1'", ["api.port", "int", "'1'"]),
        ("[auth]\nmode = 'open'", ["auth.mode", "'open'"]),
        ("[service]\nname = 'a b'", ["service.name", "'a b'"]),
        ("[service]\nstate_dir = 'relative'", ["service.state_dir", "'relative'"]),
        ("[engine]\nconcurrency = 0", ["engine.concurrency", ">= 1", "0"]),
        ("[quota]\nvolumes = -2", ["quota.volumes", "-2"]),
        ("[auth]\nmode = 'none'\n[api]\nhost = '0.0.0.0'", ["auth.mode", "loopback"]),
        ("[backends.'a b']\nkind = 'local'", ["backends"]),
        ("port = = 1", ["not TOML"]),
        ("\x00", ["not TOML"]),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as refusal:
        load(write(tmp_path, text), {})
    said = str(refusal.value)
    for part in parts:
        assert part in said, said


@pytest.mark.parametrize(
    ("section", "parts"),
    [
        ("kind = 'tape'", ["backends.one", "tape", "local", "nfs"]),
        ("path = '/x'", ["backends.one", "kind"]),
        ("kind = 'local'\npath = '/x'\nspeed = 1", ["backends.one", "speed"]),
        ("kind = 'local'\npath = 'relative'", ["backends.one", "path", "'relative'"]),
        ("kind = 'local'\npath = '/x'\nreserved_percentage = 101", ["reserved_percentage", "100"]),
        ("kind = 'local'\npath = '/x'\nmax_over_subscription_ratio = 0.5", ["max_over_subscription_ratio"]),
        ("kind = 'nfs'\nshares = ['nonsense']", ["nonsense"]),
        ("kind = 'nfs'", ["shares"]),
    ],
)
def test_a_wrong_back_end_is_refused_by_name(tmp_path: Path, section: str, parts: list[str]) -> None:
    config = load(write(tmp_path, f"[backends.one]\n{section}"), {})
    with pytest.raises(ConfigError) as refusal:
        open_backends(config)
    said = str(refusal.value)
    for part in parts:
        assert part in said, said


def test_a_secret_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        load(write(tmp_path, "[database]\nurl = ['postgresql://me:hunter2@x/y']"), {})
    assert "hunter2" not in str(refusal.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "absent", {})
    with pytest.raises(ConfigError, match="longer than"):
        load(write(tmp_path, "#" * (1 << 20) + "\n"), {})


@pytest.mark.parametrize("variable", ["BREEZEBLOCK__API", "BREEZEBLOCK__", "BREEZEBLOCK__API____PORT"])
def test_a_variable_that_names_no_key(variable: str) -> None:
    with pytest.raises(ConfigError, match=variable):
        load(None, {variable: "1"})


def test_a_variable_below_a_value(tmp_path: Path) -> None:
    path = write(tmp_path, "[api]\nport = 1")
    with pytest.raises(ConfigError, match="port"):
        load(path, {"BREEZEBLOCK__API__PORT__DEEPER": "1"})


def test_policy_is_parted_from_the_kinds_own_keys() -> None:
    policy, own = split_policy({"kind": "local", "path": "/x", "reserved_percentage": 7}, "here")
    assert (policy.reserved_percentage, policy.max_over_subscription_ratio) == (7, 20.0)
    assert own == {"kind": "local", "path": "/x"}


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = load(None, {"BREEZEBLOCK__SERVICE__NAME": text.replace("\0", "")})
        assert isinstance(found, Config)
    except ConfigError as refusal:
        assert "service.name" in str(refusal)  # noqa: PT017 - either is right
