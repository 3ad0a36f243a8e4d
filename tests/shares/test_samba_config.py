import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from breezeblock.errors import ConfigError
from breezeblock.shares import samba

CONFIG = """\
# a comment
; another
[global]
   workgroup = WG
   include = {directory}/%m.conf
[Volumes]
   PA TH = "/srv/volumes"
   comment = a \\
  path = /not/this
   read only = no
[Long  Name]
directory=/srv/long
include = {directory}/more.conf
[off]
path = /srv/off
available = no
[per user]
path = /srv/%U
[homes]
path = /home/x
[copied]
copy = volumes
guest ok = no
"""
MORE = "valid users = a b\n[more]\npath = /srv/more\n"
EXPECTED = {
    "volumes": Path("/srv/volumes"),
    "long name": Path("/srv/long"),
    "more": Path("/srv/more"),
    "copied": Path("/srv/volumes"),
}


def written(directory: Path) -> Path:
    path = directory / "smb.conf"
    path.write_text(CONFIG.format(directory=directory))
    (directory / "more.conf").write_text(MORE)
    return path


def test_shares_and_their_directories(tmp_path: Path) -> None:
    assert samba.shares(written(tmp_path)) == EXPECTED


def test_samba_itself_reads_it_so(tmp_path: Path) -> None:
    """testparm is Samba's own reader; it ends sections and joins lines as smbd does."""
    program = shutil.which("testparm")
    assert program is not None, "install samba-common-bin (tools/setup.sh test)"
    said = subprocess.run(
        [program, "-s", "--suppress-prompt", str(written(tmp_path))],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found: dict[str, Path] = {}
    section = ""
    for line in said.splitlines():
        if line.startswith("["):
            section = line[1:-1].casefold()
        name, equals, value = line.strip().partition(" = ")
        if equals and name == "path":
            found[section] = Path(value.strip('"'))  # it prints what stands there; smbd takes quotes off
    for name, directory in EXPECTED.items():
        assert found[name] == directory
    assert found["off"] == Path("/srv/off")


def test_includes_are_limited(tmp_path: Path) -> None:
    path = tmp_path / "smb.conf"
    path.write_text(f"include = {path}\n")
    with pytest.raises(ConfigError, match="over 8 deep"):
        samba.shares(path)
    many = tmp_path / "many.conf"
    (tmp_path / "empty.conf").write_text("")
    many.write_text(f"include = {tmp_path}/empty.conf\n" * 100)
    with pytest.raises(ConfigError, match="over 64 files"):
        samba.shares(many)
    many.write_text("x" * (samba.MAX_FILE_BYTES + 1))
    with pytest.raises(ConfigError, match="is over"):
        samba.shares(many)
    with pytest.raises(ConfigError, match="cannot be read"):
        samba.shares(tmp_path / "none")
    path.write_text("[volumes\npath = /x\n")
    with pytest.raises(ConfigError, match="not closed"):
        samba.shares(path)


@given(st.text(alphabet='[]=\\\n #;ab/"%', max_size=80))
@settings(max_examples=100)
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("samba") / "smb.conf"
    path.write_text(text)
    try:
        found = samba.shares(path)
    except ConfigError:
        return
    assert all(directory.is_absolute() for directory in found.values())


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("//nas/VOLUMES", "/srv/volumes"),
        ("//nas/Volumes/a/b", "/srv/volumes/a/b"),
        ("//nas/long name", "/srv/long"),
        ("//nas/off", None),
        ("//nas/other", None),
    ],
)
def test_the_directory_of_an_address(address: str, expected: str | None, tmp_path: Path) -> None:
    config = written(tmp_path)
    found = samba.local_directory(address, config, lambda host: host == "nas")
    assert found == (Path(expected) if expected else None)
    assert samba.local_directory(address, config, lambda _host: False) is None


def test_which_host_is_this_one() -> None:
    assert samba.host_is_here("127.0.0.1")
    assert samba.host_is_here("localhost")
    assert not samba.host_is_here("192.0.2.1")
    assert not samba.host_is_here("no-such-host.invalid")
