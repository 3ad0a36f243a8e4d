"""Shares of a real Samba server, mounted by the kernel: signed, sealed, refused, lost and found."""

import hashlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from samba_server import CONFIG, OTHER, OTHER_PASSWORD, PASSWORD, ROOT, SERVER, USER, sh

from breezeblock import images, vault
from breezeblock.app import share_check
from breezeblock.backends.contract import Pool, Volume
from breezeblock.backends.files import FileBackend
from breezeblock.backends.registry import open_backend, read_config
from breezeblock.errors import UnavailableError
from breezeblock.shares import mounts
from breezeblock.testing.lab import attempt

ADDRESS = "//127.0.0.1/volumes"


def opened(state: Path, share: str, **settings: Any) -> FileBackend:
    section = {"kind": "smb", "shares": [share], "mount_attempts": 1, **settings}
    backend = open_backend("filer", read_config(section, "test"), state)
    assert isinstance(backend, FileBackend)
    return backend


def look(state: Path, share: str, **settings: Any) -> Pool:
    (pool,) = opened(state, share, **settings).stats()
    return pool


def options_of(address: str) -> str:
    lines = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return next(words[3] for words in lines if words[0] == address and words[2] == "cifs")


@pytest.fixture
def known(tmp_path: Path) -> Iterator[Path]:
    vault.at(tmp_path).set("server", PASSWORD)
    vault.at(tmp_path).set("wrong", "wrong-password")
    yield tmp_path
    for entry in mounts.table():
        if entry.mount_point.startswith(str(tmp_path)):
            subprocess.run(["umount", "-l", entry.mount_point], check=True)


def named(kept_as: str = "server") -> str:
    return f"{ADDRESS} -o username={USER},secret={kept_as}"


def test_signed_by_default_with_the_latest_version(known: Path) -> None:
    backend = opened(known, named())
    backend.start()
    (pool,) = backend.stats()
    assert pool.up, pool.reason
    assert pool.total_bytes == os.statvfs(ROOT).f_blocks * os.statvfs(ROOT).f_frsize
    shown = options_of(ADDRESS).split(",")
    assert {"vers=3.1.1", "hard", "nobrl", "nosuid", "nodev", "noexec", "cache=strict"} <= set(shown)
    (session,) = SERVER.status()["sessions"].values()
    assert session["session_dialect"] == "SMB3_11"
    assert session["signing"]["degree"] != "none"
    assert session["username"] == USER


@pytest.mark.parametrize("version", ["2.1", "3.0", "3.02", "3.1.1"])
def test_every_version_and_sealing_where_it_can_be(version: str, known: Path) -> None:
    seal = ",seal" if version != "2.1" else ""
    pool = look(known, f"{named()},vers={version}{seal}")
    assert pool.up, pool.reason
    assert f"vers={version}" in options_of(ADDRESS)
    sessions = SERVER.status()["sessions"].values()
    dialect = {"2.1": "SMB2_10", "3.0": "SMB3_00", "3.02": "SMB3_02", "3.1.1": "SMB3_11"}[version]
    assert dialect in {one["session_dialect"] for one in sessions}
    (here,) = (one for one in SERVER.status()["tcons"].values() if one["service"] == "volumes")
    assert (here["encryption"]["degree"] == "full") == bool(seal), here
    assert here["signing"]["degree"] == "full", here
    print(f"SMB {version}: {here['encryption']} {here['signing']}")


def test_no_password_in_any_argument_or_environment(known: Path) -> None:
    """Every process that starts while mounting is looked at, and there are some."""
    seen: dict[int, bytes] = {}
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for directory in Path("/proc").glob("[0-9]*"):
                try:
                    said = (directory / "cmdline").read_bytes() + (directory / "environ").read_bytes()
                except OSError:
                    continue
                seen[int(directory.name)] = seen.get(int(directory.name), b"") + said

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        assert look(known, named()).up
    finally:
        done.set()
        thread.join()
    everything = b"".join(seen.values())
    assert b"mount.cifs" in everything
    assert PASSWORD.encode() not in everything
    assert b"credentials=/proc/self/fd/" in everything
    assert PASSWORD not in Path("/proc/self/mounts").read_text()
    assert not [
        path for path in known.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()
    ]


def test_a_wrong_password_says_so_and_the_right_one_helps_without_a_restart(known: Path) -> None:
    backend = opened(known, named("wrong"))
    backend.start()
    (pool,) = backend.stats()
    assert not pool.up
    assert "the server refused the user, the password or the user's rights" in pool.reason
    vault.at(known).set("wrong", PASSWORD)
    (pool,) = backend.stats()
    assert pool.up, pool.reason


def test_an_unknown_user_does_not_get_in_as_a_guest(known: Path) -> None:
    # The server is told to take unknown users for guests, as many appliances do by default.
    SERVER.share("open", guest_ok="yes")
    try:
        pool = look(known, "//127.0.0.1/open -o username=nosuchuser,secret=wrong")
        assert not pool.up
        guest = look(known, "//127.0.0.1/open", allow_guest=True)
        print(f"\nas nosuchuser: {pool.reason}\nas a guest who is allowed: {guest.up} {guest.reason}")
    finally:
        SERVER.remove("open")


def test_a_credentials_file(known: Path) -> None:
    path = known / "credentials"
    path.write_text(f"username={OTHER}\npassword={OTHER_PASSWORD}\n")
    path.chmod(0o600)
    pool = look(known, f"{ADDRESS} -o credentials={path}")
    # Other directories are root's: this user may look, but not write.
    print(f"\n{pool.reason}")
    assert f"username={OTHER}" in options_of(ADDRESS)


@pytest.mark.parametrize(
    ("share", "says"),
    [
        ("//127.0.0.1/nosuch", "the server has no such share or directory"),
        ("//127.0.0.1/volumes/nosuch", "the server has no such share or directory"),
        ("//127.0.0.1/volumes -o port=4", "no SMB server answers on that port"),
    ],
)
def test_what_cannot_be_mounted_says_why(share: str, says: str, known: Path) -> None:
    address, _, options = share.partition(" -o ")
    pool = look(known, f"{address} -o username={USER},secret=server{',' if options else ''}{options}")
    assert not pool.up
    assert says in pool.reason
    assert PASSWORD not in pool.reason


def test_a_consumer_reaches_the_file_by_what_it_is_told(known: Path) -> None:
    """As os-brick and Nova's libvirt driver do: their own mount point, our options, nothing else."""
    directory = SERVER.share("told", force_user=OTHER)
    directory.chmod(0o777)
    address = "//127.0.0.1/told"
    vault.at(known).set("other", OTHER_PASSWORD)
    backend = opened(known, f"{address} -o username={OTHER},secret=other,seal", secrets_to_consumers=True)
    volume = Volume(id=str(uuid4()), virtual_bytes=1 << 20, pool=address)
    placed = backend.create(volume, attempt())
    told = backend.connection_info(volume, {"host": "compute"})
    assert told.driver_volume_type == "smbfs"
    point = known / "consumer" / hashlib.md5(told.data["export"].encode(), usedforsecurity=False).hexdigest()
    point.mkdir(parents=True)
    sh("mount", "-t", "cifs", *told.data["options"].split(), told.data["export"], str(point))
    image = point / told.data["name"]
    images.write(image, 4096, [b"guest" * 1024], told.data["format"])
    assert b"".join(images.read(directory / image.name, 4096, 5120, placed.format)) == b"guest" * 1024
    sh("umount", str(point))
    backend.delete(volume, attempt())
    SERVER.remove("told")


def test_multichannel_and_fail_over_reach_the_kernel(known: Path) -> None:
    pool = look(known, f"{named()},seal,multichannel,max_channels=2")
    assert pool.up, pool.reason
    assert {"multichannel", "max_channels=2"} <= set(options_of(ADDRESS).split(","))
    vault.at(known / "more").set("server", PASSWORD)
    continuous = look(known / "more", f"{ADDRESS} -o username={USER},secret=server,persistenthandles")
    print(f"\npersistenthandles of a share without continuous availability: {continuous.reason or 'up'}")


def test_kerberos_where_there_is_none_says_so(known: Path) -> None:
    """No realm is at hand here: what can be seen is that no password is asked for, and what is said."""
    for options in ("sec=krb5", f"username={USER},sec=krb5i"):
        pool = look(known, f"{ADDRESS} -o {options}")
        print(f"\n{options}: {pool.reason}")
        assert not pool.up
        assert "does not offer the log-in" in pool.reason or "no usable Kerberos ticket" in pool.reason


def test_share_check_as_two_clients_of_the_server(known: Path) -> None:
    (checked,) = share_check.check(ADDRESS, {}, known, f"username={USER},secret=server")
    print(f"\n{checked.place}:")
    for verdict in checked.verdicts:
        print(f"  {verdict.name:<22}{verdict.outcome:<9}{verdict.seen[:400]}")
    outcomes = {verdict.name: verdict.outcome for verdict in checked.verdicts}
    assert not checked.broken
    assert outcomes["locks at the server"] == "lacking", "nobrl keeps them here, and that is told"
    needed = {
        "server answers",
        "mounted hard",
        "atomic replacement",
        "close-to-open",
        "names at once",
        "fsync",
    }
    assert needed <= {name for name, outcome in outcomes.items() if outcome == "good"}
    assert [one.name for one in checked.verdicts if "one mount only" in one.seen] == ["locks"]
    assert "breezeblock-check-" not in Path("/proc/self/mounts").read_text()
    assert not list((ROOT / "volumes").glob(".breezeblock-check-*"))
    section = {"kind": "smb", "shares": [named("wrong")], "reserved_percentage": 5}
    (checked,) = share_check.check("filer", {"filer": section}, known)
    assert checked.broken
    assert "the server refused the user" in checked.verdicts[-1].seen


def test_a_secret_that_is_missing_is_named(known: Path) -> None:
    pool = look(known, named("missing"))
    assert not pool.up
    assert "There is no secret 'missing'" in pool.reason


def test_a_lost_mount_is_mounted_again_and_a_stranger_left_alone(known: Path) -> None:
    backend = opened(known, named())
    assert backend.stats()[0].up
    point = mounts.mount_point(known / "mnt", ADDRESS)
    subprocess.run(["umount", str(point)], check=True)
    assert backend.stats()[0].up
    subprocess.run(["umount", str(point)], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "stranger", str(point)], check=True)
    (pool,) = backend.stats()
    assert not pool.up
    assert "has stranger mounted" in pool.reason
    subprocess.run(["umount", str(point)], check=True)


def test_a_directory_of_a_share_and_names_of_other_scripts(known: Path) -> None:
    directory = SERVER.share("Büro 東京") / "Тома"
    directory.mkdir()
    try:
        pool = look(
            known,
            f"//127.0.0.1/Büro\\040東京/Тома -o username={USER},secret=server",
        )
        assert pool.up, pool.reason
        assert mounts.source_at(mounts.mount_point(known / "mnt", pool.name)) == pool.name
    finally:
        SERVER.remove("Büro 東京")


def until(true: Callable[[], object], what: str, patience_s: float = 60.0) -> None:
    end = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < end, f"not within {patience_s} s: {what}"
        time.sleep(0.05)


def test_a_server_killed_and_restarted_under_a_mount(known: Path) -> None:
    backend = opened(known, named(), answer_timeout_s=2)
    assert backend.stats()[0].up
    SERVER.kill()
    (pool,) = backend.stats()
    assert not pool.up
    SERVER.start()
    began = time.monotonic()
    until(lambda: backend.stats()[0].up, "it is up again")
    print(f"\n{pool.reason}\nup {time.monotonic() - began:.1f} s after the server")


def test_a_new_password_of_any_letters_is_taken_when_the_old_session_ends(known: Path) -> None:
    # Linux 6.1 sends a password with an ö in another encoding when it logs in again by itself.
    backend = opened(known, named(), answer_timeout_s=2)
    assert backend.stats()[0].up
    try:
        for password in ("Wörter 東京, mit Komma", "others"):
            SERVER.user(USER, password)
            SERVER.kill()
            SERVER.start()
            until(lambda: "the server refused the user" in backend.stats()[0].reason, "it is refused")
            vault.at(known).set("server", password)
            until(lambda: backend.stats()[0].up, "the new password is taken")
            SERVER.kill()
            SERVER.start()
            until(lambda: backend.stats()[0].up, "and again")
    finally:
        SERVER.user(USER, PASSWORD)


def test_an_expired_password_and_a_locked_account_say_so_and_are_got_over(known: Path) -> None:
    backend = opened(known, named(), answer_timeout_s=2)
    assert backend.stats()[0].up
    try:
        SERVER.password_age(1)
        time.sleep(1.1)
        assert backend.stats()[0].up, "a session that is open goes on"
        SERVER.kill()
        SERVER.start()
        until(lambda: "the password has expired" in backend.stats()[0].reason, "it has expired")
        SERVER.password_age(-1)
        until(lambda: backend.stats()[0].up, "it is valid again")
        sh("smbpasswd", "-c", str(CONFIG), "-d", USER)
        SERVER.kill()
        SERVER.start()
        until(lambda: "the account was locked" in backend.stats()[0].reason, "it is disabled")
        sh("smbpasswd", "-c", str(CONFIG), "-e", USER)
        until(lambda: backend.stats()[0].up, "it is enabled again")
    finally:
        SERVER.password_age(-1)
        sh("smbpasswd", "-c", str(CONFIG), "-e", USER)


def test_a_share_taken_away_under_a_mount_and_put_back(known: Path) -> None:
    directory = SERVER.share("passing")
    address = "//127.0.0.1/passing"
    backend = opened(known, f"{address} -o username={USER},secret=server", answer_timeout_s=2)
    assert backend.stats()[0].up
    volume = Volume(id=str(uuid4()), virtual_bytes=1 << 20, pool=address)
    backend.create(volume, attempt())
    SERVER.remove("passing")
    until(lambda: not backend.stats()[0].up, "it is down")
    reason = backend.stats()[0].reason
    with pytest.raises(UnavailableError):
        backend.delete(volume, attempt())
    assert (directory / f"volume-{volume.id}.vhdx").exists()
    SERVER.share("passing")
    until(lambda: backend.stats()[0].up, "it is up again")
    backend.delete(volume, attempt())
    assert list(directory.iterdir()) == []
    SERVER.remove("passing")
    print(f"\n{reason}")
    assert "the server has no such share or directory" in reason
