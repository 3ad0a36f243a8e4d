"""The control files, as calls and as a mounted tree that shells write to."""

import asyncio
import errno
import grp
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from control_lab import control_files, number
from hypothesis import given, settings
from hypothesis import strategies as st

from breezeblock.app import control_mount
from breezeblock.app.control_files import ControlFiles
from breezeblock.errors import ConfigError
from breezeblock.objects import serving
from breezeblock.objects.log import volumes
from breezeblock.objects.stores.directory import DirectoryStore
from rest_place import configure, short_place

VERBS = ["add_urls", "remove_urls", "create", "extend", "destroy", "attach", "detach"]
FILES = [*VERBS, "urls", "volumes"]
DEVICE = ["srb_urls", "srb_name", "srb_size", "srb_device"]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with short_place() as found:
        found.chmod(0o711)  # others get to the tree
        for directory in ("store", "tree"):
            (found / directory).mkdir()
        configure(found, store="directory", urls=[f"{found}/store"])
        yield found


@pytest.fixture(scope="module")
def files(place: Path) -> ControlFiles:
    return control_files(place)


def test_verbs_and_their_errors(files: ControlFiles, place: Path) -> None:
    def write(path: str, line: str) -> int | None:
        return number(lambda: files.write(path, line.encode()))

    assert write("create", "one 1M\n") is None
    assert write("create", "two 8192") is None
    assert write("create", "one 1M\n") == errno.EEXIST
    assert write("create", "three 1000\n") == errno.EINVAL
    assert write("create", "../three 1M\n") == errno.EINVAL
    assert files.read("volumes") == b"one\ntwo\n"
    assert files.read("urls") == f"{place}/store\n".encode()
    assert files.read("create") == b"Usage: echo 'Name Size' > create\n"
    assert write("extend", "one 1M\n") == errno.EINVAL
    assert write("extend", "none 1M\n") == errno.ENODEV
    assert write("attach", "none disk\n") == errno.ENOENT
    assert write("attach", "one create\n") == errno.EINVAL
    assert write("attach", f"one {'x' * 32}\n") == errno.EINVAL
    assert write("attach", "one ../disk\n") == errno.EINVAL
    assert write("detach", "disk\n") == errno.EINVAL

    assert write("attach", "one disk\n") is None
    assert write("attach", "one disk\n") == errno.EEXIST
    assert write("attach", "one other\n") == errno.EEXIST
    assert write("attach", "two disk\n") == errno.EEXIST
    assert write("destroy", "one\n") == errno.EBUSY
    assert write("extend", "one 2M\n") is None
    assert files.names("") == [*FILES, "disk"]
    assert [files.kind(path) for path in ("", "disk", "create", "urls", "disk/srb_size")] == [
        "directory",
        "directory",
        "verb",
        "report",
        "report",
    ]
    for absent in ("nothing", "nothing/srb_size", "disk/nothing", "disk/create", "disk/", "urls/srb_size"):
        assert number(partial(files.kind, absent)) == errno.ENOENT, absent
    assert files.read("disk/srb_size") == b"2097152\n"
    assert files.read("disk/srb_name") == b"one\n"
    assert files.read("disk/srb_urls") == f"{place}/store\n".encode()
    assert files.read("disk/srb_device").startswith(b"nbd+unix:///")
    assert write("remove_urls", f"{place}/store\n") == errno.EBUSY
    assert write("remove_urls", f"{place}/nowhere\n") == errno.ENOENT
    assert write("add_urls", f"{place}/nowhere\n") == errno.EINVAL
    assert write("add_urls", f"{place}/nowhere,{place}/store\n") == errno.EINVAL

    assert write("detach", "disk\n") is None
    assert files.names("") == FILES
    assert number(lambda: files.read("disk/srb_size")) == errno.ENOENT
    assert write("destroy", "one\n") is None
    assert write("destroy", "one\n") == errno.ENOENT
    assert write("destroy", "two") is None


def test_an_attach_that_was_cut_off_is_made_good(files: ControlFiles) -> None:
    files.write("create", b"cut 4k\n")
    data = files.rest.data("cut")
    files.connector.attach(data | {"device": "disk"})
    view = files.rest.view(data["export"])
    assert view is not None
    serving.call(Path(files.rest.settings.run_dir, data["export"]), serving.Detach())
    assert files.names("disk") == DEVICE  # recorded, and not served
    assert number(lambda: files.read("disk/srb_size")) == errno.EIO
    files.write("attach", b"cut disk\n")
    assert files.read("disk/srb_size") == b"4096\n"
    files.write("detach", b"disk\n")
    files.write("destroy", b"cut\n")


def test_what_another_host_has_is_left_alone(files: ControlFiles, place: Path) -> None:
    files.write("create", b"theirs 1M\n")
    (theirs,) = files.rest.volumes()

    async def elsewhere(*, lost: bool) -> None:
        device = await volumes.attach(DirectoryStore(place / "store"), theirs.id)
        await (device.writer.stop() if lost else device.close())

    asyncio.run(elsewhere(lost=True))
    assert number(lambda: files.write("extend", b"theirs 2M\n")) == errno.EBUSY
    assert number(lambda: files.write("destroy", b"theirs\n")) == errno.EBUSY
    asyncio.run(elsewhere(lost=False))
    files.write("extend", b"theirs 2M\n")
    files.write("destroy", b"theirs\n")
    assert files.read("volumes") == b""


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(VERBS), st.binary(max_size=40) | st.just(b"a" * 5000) | st.just(b"a" * 300))
def test_what_is_no_verb_changes_nothing(files: ControlFiles, verb: str, line: bytes) -> None:
    if re.fullmatch(rb"[!-~]+( [!-~]+)?\n?", line) and len(line) < 256:  # it may be one
        line = b"\x00" + line
    assert number(lambda: files.write(verb, line)) == errno.EINVAL
    assert files.read("volumes") == b""


@contextmanager
def mounted(place: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "breezeblock", "rest", "mount", str(place / "tree"), "--no-device"]
    with (place / "log").open("ab") as log:
        process = subprocess.Popen(
            [
                *command,
                "--state",
                str(place / "records"),
                "--config",
                str(place / "breezeblock.toml"),
                *options,
            ],
            stdout=log,
            stderr=log,
        )
    try:
        until = time.monotonic() + 60
        while number((place / "tree" / "volumes").stat) is not None:
            assert process.poll() is None, (place / "log").read_text()
            assert time.monotonic() < until
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait(30)
        subprocess.run(["umount", "--lazy", str(place / "tree")], check=False, capture_output=True)


def listed(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def shell(script: str, tree: Path) -> str:
    """Run a script in the tree; return what it says on either channel."""
    done = subprocess.run(
        ["/bin/bash", "-c", script], cwd=tree, capture_output=True, text=True, check=False, timeout=60
    )
    return done.stdout + done.stderr


def test_a_mounted_tree(place: Path) -> None:
    tree = place / "tree"
    with mounted(place) as process:
        assert listed(tree) == sorted(FILES)
        assert {name: stat.S_IMODE((tree / name).stat().st_mode) for name in FILES} == {
            name: 0o600 if name in VERBS else 0o400 for name in FILES
        }
        assert shell("echo one 1M > create; { echo two 8192; echo three 4k; } > create", tree) == ""
        assert shell("cat volumes", tree) == "one\nthree\ntwo\n"
        assert "File exists" in shell("echo one 1M > create", tree)
        assert "Invalid argument" in shell("echo four > create", tree)
        assert "No such device" in shell("echo none 1M > extend", tree)
        assert "Permission denied" in shell("echo x > volumes", tree)
        assert "No such file" in shell("echo none disk > attach", tree)
        assert number(lambda: (tree / "new").write_text("x")) in {errno.ENOSYS, errno.EACCES, errno.EROFS}
        assert number((tree / "create").unlink) is not None
        long = "x" * 8000
        assert number(lambda: (tree / "add_urls").write_text(long)) == errno.EINVAL
        assert shell("echo one disk > attach; cat disk/srb_size disk/srb_name", tree) == "1048576\none\n"
        assert "busy" in shell("echo one > destroy", tree)
        assert listed(tree / "disk") == sorted(DEVICE)
        address = (tree / "disk" / "srb_device").read_text().strip()
        written = ["qemu-io", "-f", "raw", "-c", "write -P 9 0 64k", "-c", "flush", address]
        subprocess.run(written, check=True, capture_output=True, timeout=60)
        process.kill()
        process.wait(30)
        assert number(lambda: listed(tree)) == errno.ENOTCONN
        assert "There is a volume one" in (place / "log").read_text()
    with mounted(place) as process:
        assert shell("cat disk/srb_name; echo one 2M > extend; cat disk/srb_size", tree) == "one\n2097152\n"
        process.kill()
        process.wait(30)
        with mounted(place) as again:  # over what is left of it
            assert shell("echo disk > detach; ls -d disk", tree).endswith("No such file or directory\n")
            assert shell("for name in one two three; do echo $name > destroy; done; cat volumes", tree) == ""
            again.send_signal(signal.SIGTERM)
            assert again.wait(30) == 0
            assert not tree.is_mount()


def test_what_cannot_be_mounted_is_said(files: ControlFiles, place: Path) -> None:
    with pytest.raises(ConfigError, match="no group"):
        control_mount.mount(files, place / "tree", group="no such group")
    for wrong in (place, place / "nowhere", place / "breezeblock.toml"):
        with pytest.raises(ConfigError, match="no empty directory"):
            control_mount.mount(files, wrong)


def test_a_group_may_use_the_tree_and_nobody_else(place: Path) -> None:
    group, tree = grp.getgrgid(65534), place / "tree"
    with mounted(place, "--group", group.gr_name) as process:

        def read(gid: int) -> str:
            command = ["cat", str(tree / "urls")]
            done = subprocess.run(
                command, user=65534, group=gid, extra_groups=[], capture_output=True, text=True, check=False
            )
            return done.stdout + done.stderr

        assert read(group.gr_gid) == f"{place}/store\n"
        assert "Permission denied" in read(1)
        assert stat.S_IMODE((tree / "create").stat().st_mode) == 0o660
        subprocess.run(["umount", str(tree)], check=True)
        assert process.wait(30) == 0
