"""Where the command finds the service and the password."""

from pathlib import Path

import pytest

from breezeblock.cli import clouds
from breezeblock.errors import ConfigError

TWO = """
clouds:
  breezeblock:
    auth_type: password
    auth: {auth_url: "http://127.0.0.1:8776/identity", username: demo, password: "s3cret", project_name: demo}
    identity_api_version: 3
  other:
    auth_type: none
    auth: {endpoint: "http://127.0.0.1:9000/v3"}
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "clouds.yaml").write_text(TWO)
    return tmp_path


def test_the_cloud_of_quickstart_is_the_default(here: Path) -> None:
    found = clouds.find(None, {}, here)
    assert (found.username, found.password, found.auth_type) == ("demo", "s3cret", "password")


def test_a_named_cloud_comes_before_the_environment(here: Path) -> None:
    environ = {"OS_AUTH_URL": "http://elsewhere/identity", "OS_CLOUD": "breezeblock"}
    assert clouds.find("other", environ, here).endpoint == "http://127.0.0.1:9000/v3"
    assert clouds.find(None, environ, here).auth_url == "http://127.0.0.1:8776/identity"


def test_the_environment_alone_is_enough(tmp_path: Path) -> None:
    environ = {
        "OS_AUTH_URL": "http://h/identity",
        "OS_USERNAME": "u",
        "OS_PASSWORD": "p",
        "OS_PROJECT_NAME": "q",
        "OS_AUTH_TYPE": "v3password",
        "OS_INSECURE": "1",
    }
    found = clouds.find(None, environ, tmp_path)
    assert (found.username, found.password, found.project_name, found.verify) == ("u", "p", "q", False)


def test_the_file_that_the_environment_names_is_the_only_one_read(here: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        clouds.find(None, {"OS_CLIENT_CONFIG_FILE": str(tmp_path / "nowhere.yaml")}, here)


def test_data_below_the_working_directory_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "clouds.yaml").write_text(TWO)
    assert clouds.find(None, {"HOME": str(tmp_path)}, tmp_path).username == "demo"


def test_an_unknown_cloud_is_answered_with_those_there_are(here: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        clouds.find("nobody", {}, here)
    assert "breezeblock, other" in caught.value.remedy


@pytest.mark.parametrize("text", ["clouds: [", "just text", "clouds: 5", "\x00", "- a\n- b"])
def test_a_broken_file_is_named_and_never_quoted(tmp_path: Path, text: str) -> None:
    (tmp_path / "clouds.yaml").write_text(f"# s3cret\n{text}")
    with pytest.raises(ConfigError) as caught:
        clouds.find(None, {}, tmp_path)
    assert "clouds.yaml" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_missing_password_is_taken_from_the_environment_or_named(tmp_path: Path) -> None:
    (tmp_path / "clouds.yaml").write_text(TWO.replace('password: "s3cret", ', ""))
    assert clouds.find(None, {"OS_PASSWORD": "typed"}, tmp_path).password == "typed"
    with pytest.raises(ConfigError, match="password not set"):
        clouds.find(None, {}, tmp_path)
