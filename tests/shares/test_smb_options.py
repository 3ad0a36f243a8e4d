from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from breezeblock.backends.registry import open_backend, read_config
from breezeblock.backends.smb import SmbConfig, smb_parts
from breezeblock.errors import ConfigError
from breezeblock.shares import login, mounts, sharelist, smb
from breezeblock.shares.sharelist import Share

WHO = "username=u,password=TOPSECRET"


def refused(options: str = "", share: str = "//nas/volumes", **settings: object) -> str:
    line = f"{share} -o {options}" if options else share
    section = {"kind": "smb", "shares": [line], **settings}
    with pytest.raises(ConfigError) as caught:
        open_backend("x", read_config(section, "file.toml: backends.x"), Path("/state"))
    assert "TOPSECRET" not in str(caught.value)
    assert "TOPSECRET" not in repr(caught.value.__cause__)
    return str(caught.value)


def accepted(options: str, share: str = "//nas/volumes", **settings: object) -> mounts.Mounted:
    config = read_config({"kind": "smb", "shares": [f"{share} -o {options}"], **settings}, "test")
    backend = open_backend("x", config, Path("/state"))
    (pool,) = backend.places.shares.values()  # type: ignore[attr-defined]
    assert isinstance(pool.way, mounts.Mounted)
    return pool.way


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("nas:/volumes", "is no SMB share"),
        ("\\\\nas\\volumes", "write //SERVER/SHARE"),
        ("//nas", "names no share"),
        ("//nas/", "names no share"),
        ("///volumes", "does not name a server"),
        ("//na\\040s/volumes", "does not name a server"),
        ("//-nas/volumes", "does not name a server"),
        ("//2001:db8::zz/volumes", "does not name a server"),
        ("//nas/IPC$", "is no share of files"),
        ("//nas/volumes/../etc", "no server can have"),
        ("//nas/vol:umes", "no server can have"),
        ("//nas/vol*", "no server can have"),
        ("//nas/volumes.", "no server can have"),
    ],
)
def test_addresses_that_are_none(address: str, says: str) -> None:
    assert says in refused(WHO, address)


def test_addresses() -> None:
    for address in ("//nas/volumes", "//nas.example.org/vol$/a/b", "//2001:db8::1/v", "//nas/Büro/東京"):
        assert accepted(WHO, address).share.address == address
    assert "already named" in refused(shares=["//nas/v -o " + WHO, "//NAS/V/ -o " + WHO])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (f"{WHO},vers=1.0", "SMB 1 and 2.0 neither"),
        (f"{WHO},vers=2.0", "SMB 1 and 2.0 neither"),
        (f"{WHO},vers=default", "allowed are 2.1"),
        (f"{WHO},soft", "a time-out would become an I/O error"),
        (f"{WHO},guest", "anybody could read"),
        (f"{WHO},cache=loose", "another host's changes are not seen"),
        (f"{WHO},nostrictsync", "fsync would not reach"),
        (f"{WHO},sec=ntlm", "send weak or no proof"),
        (f"{WHO},sec=none", "send weak or no proof"),
        (f"{WHO},actimeo=60", "a whole number from 0 to 1"),
        (f"{WHO},prefixpath=x", "write the directory into the address"),
        (f"{WHO},seal=yes", "it takes no value"),
        (f"{WHO},port=0", "a whole number from 1 to 65535"),
        (f"{WHO},forcemandatorylock", "keep QEMU itself from writing"),
        (f"{WHO},colour=red", "not among those known to be safe"),
        (f"{WHO},vers=2.1,seal", "seal began with SMB 3.0"),
        (f"{WHO},vers=2.1,multichannel", "multichannel began with SMB 3.0"),
        (f"{WHO},vers=2.1,persistenthandles", "persistenthandles began with SMB 3.0"),
        (f"{WHO},max_channels=4", "max_channels needs multichannel"),
        (f"{WHO},multichannel,max_channels=1", "a whole number from 2 to 16"),
        (f"{WHO},persistenthandles,resilienthandles", "exclude each other"),
        (f"{WHO},cruid=0", "needs sec=krb5"),
        (f"{WHO},sec=krb5", "takes a ticket, not a password"),
        ("vers=3.1.1", "guests are refused"),
        ("username=u", "the user has no password"),
        ("password=TOPSECRET", "without a username"),
        ("username=u,password=TOPSECRET,secret=x", "at most one of"),
        ("username=u,password=TOPSECRET,pass=TOPSECRET", "said twice"),
        ("username=u,password=", "needs a value"),
        ("username=a%TOPSECRET", "neither % nor /"),
        ("username=A\\u,domain=B,password=TOPSECRET", "another"),
        ("credentials=relative", "absolute path"),
        ("credentials=/x,username=u", "belong into the credentials file"),
        ("username=u,password=TOP SECRET", "after the address"),
        ("username=u,password=TOPSECRET,,", "is no mount option"),
        ("username=u,password=ÄTOPSECRET", "is no mount option"),
    ],
)
def test_options_that_make_no_sense_say_why_and_show_no_password(options: str, says: str) -> None:
    assert says in refused(options)


def test_mount_options_of_the_back_end_are_checked_and_count() -> None:
    assert "it says who we are" in refused(WHO, mount_options="username=x")
    assert "seal began with SMB 3.0" in refused(f"{WHO},vers=2.1", mount_options="seal")
    assert "vers=3.0" in accepted(WHO, mount_options="vers=3.0").options
    assert "vers=2.1" in accepted(f"{WHO},vers=2.1", mount_options="vers=3.0").options


@pytest.mark.parametrize(
    "options",
    [
        f"{WHO},vers=2.1",
        f"{WHO},vers=3.02,seal,multichannel,max_channels=4",
        f"{WHO},persistenthandles,rdma,vers=3.1.1",
        f"{WHO},resilienthandles,vers=2.1",
        "sec=krb5p,cruid=0",
        "username=svc@EXAMPLE.ORG,sec=krb5",
        "username=EXAMPLE\\svc,secret=filer,uid=libvirt-qemu,gid=kvm,port=1445,ip=192.0.2.7",
    ],
)
def test_options_that_make_sense(options: str) -> None:
    mounted = accepted(options)
    for one in login.split(options)[1].split(","):
        assert one in mounted.options.split(",")
    assert {"hard", "nobrl", "nosuid"} <= set(mounted.options.split(","))
    assert "guest" not in mounted.options.split(",")
    for word in ("TOPSECRET", "secret=", "username"):
        assert word not in mounted.options


def test_a_guest_only_where_that_is_allowed() -> None:
    assert "guests are refused" in refused("vers=3.0")
    options = accepted("vers=3.0", allow_guest=True).options.split(",")
    assert "guest" in options
    assert "sign" not in options
    assert "no key to sign or encrypt" in refused("seal", allow_guest=True)
    assert "guest" not in accepted(WHO, allow_guest=True).options.split(",")


def test_the_parts_of_a_back_end_know_their_own_share_only() -> None:
    lines = [f"//a/one -o {WHO},seal", "//b/two -o username=D\\v,secret=s", "//c/three -o credentials=/run/x"]
    config = read_config({"kind": "smb", "shares": lines}, "test")
    assert isinstance(config, SmbConfig)
    assert "TOPSECRET" not in repr(config)
    parts = smb_parts("x", config)
    assert parts is not None
    assert parts.pools == ("//a/one", "//b/two", "//c/three")
    for pool, line in zip(parts.pools, lines, strict=True):
        narrowed = parts.narrow((pool,))
        assert isinstance(narrowed, SmbConfig)
        (share,) = sharelist.inline(narrowed.shares, "x", smb.ADDRESSES)
        (wanted,) = sharelist.inline([line], "x", smb.ADDRESSES)
        assert smb.read(share) == smb.read(wanted)


WORDS = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=",#\\%/"), min_size=1, max_size=12
)


@given(WORDS, WORDS, st.sampled_from(["", "seal", "vers=3.0,seal"]))
def test_line_and_read_are_inverse_and_nothing_shows_the_password(
    user: str, password: str, rest: str
) -> None:
    one = smb.SmbShare(Share("//nas/v x", rest), login.Login(user, "DOM", password))
    (share,) = sharelist.inline([smb.line(one)], "x", smb.ADDRESSES)
    assert smb.read(share) == one
    assert password not in repr(one.login).replace(user, "").replace("DOM", "") or len(password) < 12


def test_a_credentials_file(tmp_path: Path) -> None:
    path = tmp_path / "cred"
    path.write_text("# who we are\nusername = ignored\n")
    path.chmod(0o600)
    who = login.Login(file=path)
    path.write_text("username=DOM\\u\npassword=a,b c=d\n\n")
    assert login.resolved(who, lambda _name: "") == login.Login("u", "DOM", "a,b c=d")
    assert (
        login.credentials(login.resolved(who, lambda _n: "")) == b"username=u\npassword=a,b c=d\ndomain=DOM\n"
    )
    for text, says in (
        ("username=u\nTOPSECRET\n", "line 2 is none of"),
        ("username=u\nusername=u\n", "line 2 is none of"),
        ("password=TOPSECRET\n", "without a username"),
        ("\n", "names no user"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=says) as caught:
            login.resolved(who, lambda _name: "")
        assert "TOPSECRET" not in str(caught.value)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="others may read it"):
        login.resolved(who, lambda _name: "")
    with pytest.raises(ConfigError, match="cannot be read"):
        login.resolved(login.Login(file=tmp_path / "none"), lambda _name: "")


def test_a_share_list_with_passwords_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "shares"
    path.write_text(f"//nas/v -o {WHO}\n")
    path.chmod(0o644)
    config = read_config({"kind": "smb", "shares_file": str(path)}, "test")
    with pytest.raises(ConfigError, match="holds a password and others may read it") as caught:
        open_backend("x", config, tmp_path)
    assert "chmod 600" in caught.value.remedy
    path.chmod(0o600)
    open_backend("x", config, tmp_path)


def test_what_the_connection_tells(tmp_path: Path) -> None:
    from breezeblock import vault

    vault.at(tmp_path).set("filer", "TOPSECRET")
    line = "//nas/v/sub -o username=D\\u,secret=filer,vers=3.0,seal"
    config = {"kind": "smb", "shares": [line], "mount_base": "/var/lib/nova/mnt"}

    def told(**settings: object) -> dict[str, str]:
        backend = open_backend("x", read_config({**config, **settings}, "test"), tmp_path)
        connection = backend.places.connection("//nas/v/sub", "volume-1.vhdx", "vhdx")  # type: ignore[attr-defined]
        assert connection.driver_volume_type == "smbfs"
        data: dict[str, str] = connection.data
        return data

    assert told() == {
        "export": "//nas/v/sub",
        "name": "volume-1.vhdx",
        "format": "vhdx",
        "mount_point_base": "/var/lib/nova/mnt",
        "options": "-o username=u,domain=D,vers=3.0,seal,nobrl",
    }
    assert told(secrets_to_consumers=True)["options"].count("password=TOPSECRET") == 1
    # It would be taken for more options there.
    vault.at(tmp_path).set("filer", "TOPSECRET,guest")
    with pytest.raises(ConfigError, match="holds a comma") as caught:
        told(secrets_to_consumers=True)
    assert "TOPSECRET" not in str(caught.value)
    assert "TOPSECRET" not in told()["options"]


@pytest.mark.parametrize(
    ("complaint", "says"),
    [
        ("mount error(13): Permission denied Refer to the mount.cifs(8) manual", "refused the user"),
        ("mount error(2): No such file or directory Refer to the", "no such share or directory"),
        ("mount error(111): could not connect to 127.0.0.1Unable to find suitable address.", "no SMB server"),
        ("mount error(95): Operation not supported Refer to the mount.cifs(8)", "does not offer"),
        ("mount error(127): Key has expired Refer to the mount.cifs(8)", "password has expired"),
        ("something else", "something else"),
    ],
)
def test_complaints_of_mount_cifs_in_words(complaint: str, says: str) -> None:
    assert says in smb.explain(complaint)
