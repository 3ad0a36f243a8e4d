from pathlib import Path
from typing import Any

import pytest

from breezeblock.backends.registry import open_backend, read_config
from breezeblock.errors import ConfigError


def refused(section: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        open_backend("x", read_config(section, "file.toml: backends.x"), Path("/state"))
    return str(caught.value)


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({}, "`kind` is missing"),
        ({"kind": "tape"}, "'tape' is no kind of back end"),
        ({"kind": 7}, "7 is no kind of back end"),
        ({"kind": ["nfs"]}, "is no kind of back end"),
        ({"kind": "local"}, "exactly one of `path` and `pools`"),
        ({"kind": "local", "path": "/a", "pools": {"p": "/b"}}, "exactly one of `path` and `pools`"),
        ({"kind": "local", "path": "relative"}, "path"),
        ({"kind": "local", "path": "/a\x01"}, "path"),
        ({"kind": "local", "pools": {"p/q": "/b"}}, "pools"),
        ({"kind": "local", "pools": {"p": "/b", "q": "/c/../b"}}, "names one directory twice"),
        ({"kind": "local", "path": "/a", "format": "vmdk"}, "format"),
        ({"kind": "local", "path": "/a", "file_mode": "999"}, "file_mode"),
        ({"kind": "local", "path": "/a", "file_mode": "0466"}, "file_mode"),
        ({"kind": "local", "path": "/a", "colour": "red"}, "colour"),
        ({"kind": "nfs"}, "at least one of `shares` and `shares_file`"),
        ({"kind": "nfs", "shares": []}, "at least one of `shares` and `shares_file`"),
        ({"kind": "nfs", "shares": "a:/b"}, "shares"),
        ({"kind": "nfs", "shares": ["a:/b", "a"]}, "backends.x.shares[1]"),
        ({"kind": "nfs", "shares": ["a:/b", "A:/b/"]}, "already named in backends.x.shares[0]"),
        ({"kind": "nfs", "shares": ["a:/b -o bg"]}, "mount option bg"),
        ({"kind": "nfs", "shares": ["a:/b"], "mount_options": "ro"}, "mount option ro"),
        ({"kind": "nfs", "shares": ["a:/b"], "mount_options": "-o vers=3"}, "is no mount option"),
        ({"kind": "nfs", "shares": ["a:/b"], "mount_timeout_s": 0}, "mount_timeout_s"),
        ({"kind": "nfs", "shares": ["a:/b"], "mount_attempts": 0}, "mount_attempts"),
        ({"kind": "nfs", "shares_file": "/no/such/file"}, "/no/such/file cannot be read"),
        ({"kind": "nfs", "shares": ["a:/b"], "samba_config": "/etc/samba/smb.conf"}, "samba_config"),
        ({"kind": "smb"}, "at least one of `shares` and `shares_file`"),
        ({"kind": "smb", "shares": ["//a/b"], "colour": "red"}, "colour"),
    ],
)
def test_bad_settings_say_what_is_wrong(section: dict[str, Any], says: str) -> None:
    assert says in refused(section)


def test_file_and_inline_shares_are_one_list(tmp_path: Path) -> None:
    shares = tmp_path / "shares"
    shares.write_text("a:/1 -o vers=3\n[::1]:/2\n")
    backend = open_backend(
        "nas",
        read_config({"kind": "nfs", "shares": ["b:/3"], "shares_file": str(shares)}, "test"),
        tmp_path,
    )
    assert backend.capabilities().storage_protocol == "nfs"
    assert backend.places.pools() == ("b:/3", "a:/1", "[::1]:/2")  # type: ignore[attr-defined]
    shares.write_text("b:/3/\n")
    assert "already named in backends.nas.shares[0]" in refused_nas(shares)


def refused_nas(shares: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        open_backend(
            "nas",
            read_config({"kind": "nfs", "shares": ["b:/3"], "shares_file": str(shares)}, "test"),
            shares.parent,
        )
    return str(caught.value)
