"""Fetching and sending images against a real web server: limits, resumption, and what is refused."""

import hashlib
import os
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from image_server import Site, serving_images

from breezeblock.attempt import Attempt
from breezeblock.errors import (
    BreezeblockError,
    CancelledOperationError,
    InvalidInputError,
    NoSpaceError,
    UnavailableError,
)
from breezeblock.images import addresses, remote

CONTENT = os.urandom(3 << 20)
ATTEMPT = Attempt(operation_id="o", token="t")


@pytest.fixture
def site() -> Iterator[Site]:
    with serving_images(CONTENT) as found:
        yield found


@pytest.fixture
def policy(tmp_path: Path) -> addresses.Policy:
    (tmp_path / "allowed").mkdir()
    return addresses.Policy(
        schemes=("http", "https", "file"),
        directories=(str(tmp_path / "allowed"),),
        private_addresses=True,
        timeout_s=5,
        scratch=str(tmp_path),
    )


def test_it_is_fetched_with_progress(site: Site, policy: addresses.Policy, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    attempt = Attempt(operation_id="o", token="t", progress=lambda done, total: told.append((done, total)))
    remote.fetch(f"{site.url}/image", tmp_path / "x", policy, attempt)
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    remote.verify(tmp_path / "x", f"sha256:{hashlib.sha256(CONTENT).hexdigest()}", ATTEMPT)
    with pytest.raises(InvalidInputError, match="sha512"):
        remote.verify(tmp_path / "x", f"sha512:{'0' * 128}", ATTEMPT)


def test_it_goes_on_where_it_broke_off(site: Site, policy: addresses.Policy, tmp_path: Path) -> None:
    site.break_off_at = 2 << 20
    remote.fetch(f"{site.url}/image", tmp_path / "x", policy, ATTEMPT)
    assert site.ranges == [f"bytes={(2 << 20) - 1}-"]
    assert (tmp_path / "x").read_bytes() == CONTENT
    # By an attempt that has it all already: the last byte is asked for again.
    remote.fetch(f"{site.url}/image", tmp_path / "x", policy, ATTEMPT)
    assert site.ranges[1:] == [f"bytes={len(CONTENT) - 1}-"]
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_it_gives_up_where_nothing_comes(
    site: Site, policy: addresses.Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PAUSE_S", 0.01)
    site.break_off_always = True
    site.break_off_at = 0
    with pytest.raises(UnavailableError, match="broke off"):
        remote.fetch(f"{site.url}/image", tmp_path / "x", policy, ATTEMPT)
    assert site.asked == remote.MAX_TRIES


def test_it_stops_in_the_middle(site: Site, policy: addresses.Policy, tmp_path: Path) -> None:
    went: list[int] = []
    attempt = Attempt(
        operation_id="o",
        token="t",
        progress=lambda done, _total: went.append(done),
        cancelled=lambda: bool(went),
    )
    with pytest.raises(CancelledOperationError):
        remote.fetch(f"{site.url}/image", tmp_path / "x", policy, attempt)
    assert 0 < (tmp_path / "x").stat().st_size < len(CONTENT)


def test_an_image_that_changed_while_it_was_fetched_is_fetched_whole(
    site: Site, policy: addresses.Policy, tmp_path: Path
) -> None:
    """Also from a server that gives the range asked for whatever the tag."""
    site.break_off_at = 2 << 20
    site.ignores_conditions = True
    site.changes_to = os.urandom(len(CONTENT))
    remote.fetch(f"{site.url}/image", tmp_path / "x", policy, ATTEMPT)
    assert (tmp_path / "x").read_bytes() == site.changes_to


def test_the_source_tells_whether_it_changed(site: Site, policy: addresses.Policy, tmp_path: Path) -> None:
    assert remote.validator(f"{site.url}/image", policy) == '"v1"'
    with pytest.raises(InvalidInputError):
        remote.validator(f"{site.url}/absent", policy)
    path = tmp_path / "allowed" / "image"
    path.write_bytes(b"one")
    before = remote.validator(f"file://{path}", policy)
    assert remote.validator(f"file://{path}", policy) == before
    path.write_bytes(b"two")
    assert remote.validator(f"file://{path}", policy) != before


def test_another_image_under_the_address_is_fetched_whole(
    site: Site, policy: addresses.Policy, tmp_path: Path
) -> None:
    (tmp_path / "x").write_bytes(b"old")
    (tmp_path / "x.tag").write_text('"v0"')
    remote.fetch(f"{site.url}/image", tmp_path / "x", policy, ATTEMPT)
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_it_stops_when_cancelled(site: Site, policy: addresses.Policy, tmp_path: Path) -> None:
    attempt = Attempt(operation_id="o", token="t", cancelled=lambda: True)
    with pytest.raises(CancelledOperationError):
        remote.fetch(f"{site.url}/image", tmp_path / "x", policy, attempt)


def test_an_image_over_the_limit_is_refused(site: Site, policy: addresses.Policy, tmp_path: Path) -> None:
    small = msgspec.structs.replace(policy, max_bytes=1 << 20)
    with pytest.raises(NoSpaceError):
        remote.fetch(f"{site.url}/image", tmp_path / "x", small, ATTEMPT)
    (tmp_path / "allowed" / "image").write_bytes(CONTENT)
    with pytest.raises(NoSpaceError):
        remote.fetch(f"file://{tmp_path}/allowed/image", tmp_path / "x", small, ATTEMPT)


def test_addresses_of_this_network_are_refused_unless_allowed(
    site: Site, policy: addresses.Policy, tmp_path: Path
) -> None:
    public = msgspec.structs.replace(policy, private_addresses=False)
    port = urllib.parse.urlsplit(site.url).port
    for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0.0.0.0"):  # noqa: S104 - asked, not bound
        with pytest.raises(BreezeblockError):
            remote.fetch(f"http://{host}:{port}/image", tmp_path / "x", public, ATTEMPT)
    assert not (tmp_path / "x").exists()
    assert not site.ranges


def test_redirections_are_followed_a_little_and_never_to_files(
    site: Site, policy: addresses.Policy, tmp_path: Path
) -> None:
    remote.fetch(f"{site.url}/to//image", tmp_path / "x", policy, ATTEMPT)
    assert (tmp_path / "x").read_bytes() == CONTENT
    (tmp_path / "x").unlink()
    (tmp_path / "allowed" / "secret").write_bytes(b"secret")
    for target in (f"file://{tmp_path}/allowed/secret", "ftp://127.0.0.1/x", "/to/" * 5 + "/image"):
        with pytest.raises(BreezeblockError):
            remote.fetch(f"{site.url}/to/{target}", tmp_path / "x", policy, ATTEMPT)
        assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/image",
        "data:text/plain,x",
        "http://user:secret@host/image",
        "http:///image",
        "http://host:999999/image",
        "file://otherhost/etc/passwd",
        "http://ho st/",
        "http://host/\n",
        f"http://host/{'x' * 3000}",
        "/etc/passwd",
        "",
    ],
)
def test_odd_addresses_are_refused(url: str, policy: addresses.Policy) -> None:
    with pytest.raises(InvalidInputError) as refused:
        addresses.check(url, policy)
    assert "secret" not in str(refused.value)


def test_files_are_read_and_written_below_allowed_directories_only(
    policy: addresses.Policy, tmp_path: Path
) -> None:
    allowed, outside = tmp_path / "allowed", tmp_path / "outside"
    outside.write_bytes(b"outside")
    (allowed / "image").write_bytes(CONTENT)
    remote.fetch(f"file://{allowed}/image", tmp_path / "x", policy, ATTEMPT)
    assert (tmp_path / "x").read_bytes() == CONTENT
    (allowed / "link").symlink_to(outside)
    os.mkfifo(allowed / "fifo")
    for name in ("../outside", "%2e%2e/outside", "link", "fifo", ".", "absent"):
        with pytest.raises(InvalidInputError):
            remote.fetch(f"file://{allowed}/{name}", tmp_path / "y", policy, ATTEMPT)
    remote.send(tmp_path / "x", f"file://{allowed}/new", policy, ATTEMPT)
    remote.send(tmp_path / "x", f"file://{allowed}/new", policy, ATTEMPT)  # as after a kill
    assert (allowed / "new").read_bytes() == CONTENT
    with pytest.raises(InvalidInputError, match="exists"):
        remote.send(outside, f"file://{allowed}/new", policy, ATTEMPT)
    with pytest.raises(InvalidInputError):
        remote.send(outside, f"file://{allowed}/link", policy, ATTEMPT)
    assert (allowed / "new").read_bytes() == CONTENT
    assert outside.read_bytes() == b"outside"


def test_it_is_sent(site: Site, policy: addresses.Policy, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(CONTENT)
    remote.send(tmp_path / "x", f"{site.url}/upload", policy, ATTEMPT)
    assert site.received == {"/upload": CONTENT}
