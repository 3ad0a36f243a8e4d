import json
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from breezeblock.attempt import Attempt
from breezeblock.errors import CorruptError, InvalidInputError
from breezeblock.images import clusters, qcow2, raw

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
ATTEMPT = Attempt("operation", "token")


@contextmanager
def opened(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> Iterator[int]:
    fd = os.open(path, flags, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def info(path: Path) -> dict[str, Any]:
    done = subprocess.run(
        ["qemu-img", "info", "-f", "qcow2", "--output=json", path], check=True, capture_output=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check(path: Path) -> None:
    subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", path], check=True)


def qemu_img(*arguments: object) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)


def qemu_io(path: Path, *commands: str) -> None:
    arguments = [part for command in commands for part in ("-c", command)]
    subprocess.run(["qemu-io", "-f", "qcow2", *arguments, path], check=True, capture_output=True)


@pytest.mark.parametrize("virtual_bytes", [0, 512, MIB + 512, 100 * GIB, 4 * TIB, 4 * TIB + 512, 20 * TIB])
@pytest.mark.parametrize("backing", [None, "base"])
def test_created_image_is_what_qemu_takes_it_for(
    tmp_path: Path, virtual_bytes: int, backing: str | None
) -> None:
    (tmp_path / "base").write_bytes(bytes(MIB))
    path = tmp_path / "image"
    with opened(path) as fd:
        qcow2.create(fd, virtual_bytes, backing=backing, backing_format="raw")
        header = qcow2.parse(fd)
        assert clusters.is_empty(fd, header)
    check(path)
    seen = info(path)
    assert seen["virtual-size"] == header.virtual_bytes == virtual_bytes
    assert seen.get("backing-filename") == header.backing == backing
    assert seen.get("backing-filename-format") == header.backing_format == (backing and "raw")
    assert path.stat().st_blocks * 512 <= 64 * KIB
    if virtual_bytes > MIB:
        qemu_io(path, f"write -P 7 {virtual_bytes - 512} 512", f"read -P 7 {virtual_bytes - 512} 512")
        check(path)


@pytest.mark.parametrize("virtual_bytes", [-512, 511, qcow2.MAX_VIRTUAL_BYTES + 512, 1 << 63])
def test_impossible_virtual_bytes(tmp_path: Path, virtual_bytes: int) -> None:
    with opened(tmp_path / "image") as fd, pytest.raises(InvalidInputError, match=str(virtual_bytes)):
        qcow2.create(fd, virtual_bytes)


@pytest.mark.parametrize("made_by", ["us", "qemu", "qemu compat 0.10", "qemu small clusters"])
def test_reparented_image_reads_the_new_backing_file(tmp_path: Path, made_by: str) -> None:
    for number, name in enumerate(("one", "another-with-a-longer-name"), start=1):
        (tmp_path / name).write_bytes(bytes([number]) * MIB)
    qemu_img("create", "-f", "qcow2", "-b", tmp_path / "one", "-F", "raw", tmp_path / "three")
    path = tmp_path / "image"
    options = {
        "qemu": "compat=1.1",
        "qemu compat 0.10": "compat=0.10",
        "qemu small clusters": "cluster_size=4096",
    }
    if made_by == "us":
        with opened(path) as fd:
            qcow2.create(fd, MIB, backing="one", backing_format="raw")
    else:
        subprocess.run(
            [
                "qemu-img",
                "create",
                "-q",
                "-f",
                "qcow2",
                "-o",
                options[made_by],
                "-b",
                "one",
                "-F",
                "raw",
                "image",
            ],
            check=True,
            cwd=tmp_path,
        )
    for name, image_format, byte in [("another-with-a-longer-name", "raw", 2), ("three", "qcow2", 1)] * 3:
        with opened(path) as fd:
            assert qcow2.reparent(fd, qcow2.parse(fd), name, image_format)
        seen = info(path)
        assert (seen["backing-filename"], seen["backing-filename-format"]) == (name, image_format)
        check(path)
        qemu_io(path, f"read -P {byte} 0 64k")


def test_reparenting_is_whole_at_every_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop after each write in turn: the image always names the old or the new backing file, entirely."""
    for name in ("old", "new-and-longer"):
        (tmp_path / name).write_bytes(bytes(MIB))
    real, seen = os.pwrite, set()
    for stop_after in range(4):
        path = tmp_path / f"image{stop_after}"
        with opened(path) as fd:
            qcow2.create(fd, MIB, backing="old", backing_format="raw")
            header = qcow2.parse(fd)
            left = stop_after

            def limited(fd: int, data: bytes, offset: int) -> int:
                nonlocal left
                if left == 0:
                    raise OSError(5, "stopped")
                left -= 1
                assert offset + len(data) <= 512 or offset >= 2048, "a header write must be one sector"
                return real(fd, data, offset)

            with monkeypatch.context() as patch:
                patch.setattr(os, "pwrite", limited)
                with suppress(OSError):
                    qcow2.reparent(fd, header, "new-and-longer", "qcow2")
        found = info(path)
        seen.add((found["backing-filename"], found["backing-filename-format"]))
    assert seen == {("old", "raw"), ("new-and-longer", "qcow2")}


@pytest.mark.parametrize("made_by", ["us", "qemu"])
def test_grown_image(tmp_path: Path, made_by: str) -> None:
    path = tmp_path / "image"
    if made_by == "us":
        with opened(path) as fd:
            qcow2.create(fd, MIB)
    else:
        qemu_img("create", "-f", "qcow2", path, "1M")
    qemu_io(path, "write -P 1 0 1M")
    for virtual_bytes in (MIB + 512, GIB, 3 * TIB, 4 * TIB):
        with opened(path) as fd:
            assert qcow2.grow(fd, qcow2.parse(fd), virtual_bytes)
        assert info(path)["virtual-size"] == virtual_bytes
        check(path)
        qemu_io(path, "read -P 1 0 1M", f"read -P 0 {virtual_bytes - 512} 512")
    with opened(path) as fd:
        assert not qcow2.grow(fd, qcow2.parse(fd), 4 * TIB + 512)
        assert qcow2.grow(fd, qcow2.parse(fd), 512), "already larger"
    assert info(path)["virtual-size"] == 4 * TIB


def test_an_image_with_bitmaps_is_left_to_qemu_img(tmp_path: Path) -> None:
    path = tmp_path / "image"
    (tmp_path / "base").write_bytes(bytes(MIB))
    for command in ("create -q -f qcow2 -b base -F raw image", "bitmap --add -f qcow2 image b"):
        subprocess.run(["qemu-img", *command.split()], check=True, cwd=tmp_path)
    before = path.read_bytes()
    with opened(path) as fd:
        header = qcow2.parse(fd)
        assert not qcow2.reparent(fd, header, "other", "raw")
        assert not qcow2.grow(fd, header, 2 * MIB)
    assert path.read_bytes() == before


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_what_is_allocated_is_what_qemu_wrote(data: st.DataObject) -> None:
    """Committing the layer over its base gives what qemu reads through both."""
    directory = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        base, path, flat = directory / "base", directory / "image", directory / "flat"
        base.write_bytes(bytes([9]) * (2 * MIB))
        cluster = data.draw(st.sampled_from([512, 4096, 65536, MIB]))
        options = f"cluster_size={cluster},preallocation={data.draw(st.sampled_from(['off', 'metadata']))}"
        backing = ["-b", "base", "-F", "raw"] if options.endswith("off") else []
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, *backing, "image", str(2 * MIB)],
            check=True,
            cwd=directory,
        )
        for _number in range(data.draw(st.integers(0, 4))):
            start = data.draw(st.integers(0, 2 * MIB // 512 - 1)) * 512
            length = min(
                data.draw(st.sampled_from([512, 5000 // 512 * 512, 65536, 700 * KIB])), 2 * MIB - start
            )
            verb = data.draw(st.sampled_from(["write -P 3", "write -z", "write -z -u", "discard"]))
            qemu_io(path, f"{verb} {start} {length}")
        qemu_img("convert", "-f", "qcow2", "-O", "raw", path, flat)
        if not backing:
            base.write_bytes(bytes(2 * MIB))
        with opened(path) as fd, opened(base) as target:
            header = qcow2.parse(fd)
            for _twice in range(2):
                clusters.commit_to_raw(fd, header, target, ATTEMPT)
        assert base.read_bytes() == flat.read_bytes()
    finally:
        shutil.rmtree(directory)


PLACES = st.one_of(
    st.integers(0, 160), st.integers(2040, 2080), st.sampled_from([196608, 262144, 262152, 262160])
)


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_any_bytes_are_read_or_refused(data: st.DataObject) -> None:
    """Fields set to extremes, flipped, truncated: never anything but an answer or CorruptError."""
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        fd = file.fileno()
        qcow2.create(fd, 8 * GIB, backing="volume-base", backing_format="raw")
        os.pwrite(fd, struct.pack(">Q", 4 * 65536 | 1 << 63), 3 * 65536)
        os.pwrite(fd, struct.pack(">4Q", 5 * 65536 | 1 << 63, 1, 1 << 62 | 999, 0), 4 * 65536)
        os.ftruncate(fd, 6 * 65536)
        for _number in range(data.draw(st.integers(1, 4))):
            place = data.draw(PLACES)
            patch = data.draw(
                st.one_of(
                    st.binary(min_size=1, max_size=8),
                    st.sampled_from([b"\xff" * 8, b"\0" * 8, b"\xff" * 4, struct.pack(">Q", 1 << 62)]),
                )
            )
            os.pwrite(fd, patch, place)
        if data.draw(st.booleans()):
            os.ftruncate(fd, data.draw(st.integers(0, 6 * 65536)))
        with suppress(CorruptError):
            header = qcow2.parse(fd)
            assert header.backing is None or "/" not in header.backing
            for run in clusters.runs(fd, header):
                assert 0 <= run.offset < run.offset + run.length <= header.virtual_bytes


def test_raw_copy_keeps_holes_and_bytes(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with opened(source) as fd, opened(target) as other:
        raw.grow(fd, GIB + 512)
        for offset in (0, 300 * MIB, GIB):
            os.pwrite(fd, os.urandom(512), offset)
        raw.copy(fd, other, ATTEMPT)
    subprocess.run(["cmp", source, target], check=True)
    assert target.stat().st_blocks * 512 < MIB


def test_raw_copy_stays_sparse_where_no_call_tells_the_holes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NFS before 4.2: the whole file is one extent of data."""
    lseek = os.lseek

    def blind(fd: int, position: int, how: int) -> int:
        if how == os.SEEK_DATA:
            return position
        return lseek(fd, 0, os.SEEK_END) if how == os.SEEK_HOLE else lseek(fd, position, how)

    monkeypatch.setattr(os, "lseek", blind)
    source, target = tmp_path / "source", tmp_path / "target"
    with opened(source) as fd, opened(target) as other:
        raw.grow(fd, 40 * MIB + 512)
        for offset in (0, 9 * MIB - 3, 40 * MIB):
            os.pwrite(fd, os.urandom(512), offset)
        raw.copy(fd, other, ATTEMPT)
    subprocess.run(["cmp", source, target], check=True)
    assert target.stat().st_blocks * 512 < MIB


@pytest.mark.parametrize("copies", ["refused", "in the kernel", "through memory"])
def test_raw_zero_and_move_without_help_from_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copies: str
) -> None:
    """As on a share that offers no hole punching, whatever it offers for copying."""

    def refuse(*_arguments: object) -> int:
        raise OSError(95, "Operation not supported")

    if copies == "refused":
        monkeypatch.setattr(os, "copy_file_range", refuse)
    monkeypatch.setattr(raw, "_only_copies", lambda _fd: copies == "through memory")
    monkeypatch.setattr(raw, "_fallocate", lambda *_arguments: False)
    monkeypatch.setattr(raw, "SLICE_BYTES", 64 * KIB)
    data = os.urandom(300 * KIB)
    (tmp_path / "source").write_bytes(data)
    (tmp_path / "target").write_bytes(b"x" * MIB)
    with opened(tmp_path / "source") as fd, opened(tmp_path / "target") as other:
        raw.move(fd, 1000, other, 5000, 200 * KIB)
        raw.zero(other, 400 * KIB, 200 * KIB)
        raw.move(fd, 250 * KIB, other, 700 * KIB, 100 * KIB)
    expected = bytearray(b"x" * MIB)
    expected[5000 : 5000 + 200 * KIB] = data[1000 : 1000 + 200 * KIB]
    expected[400 * KIB : 600 * KIB] = bytes(200 * KIB)
    expected[700 * KIB : 800 * KIB] = data[250 * KIB :].ljust(100 * KIB, b"\0")
    assert (tmp_path / "target").read_bytes() == expected
    with opened(tmp_path / "thick") as fd:
        raw.preallocate(fd, 300 * KIB + 512, ATTEMPT)
    assert (tmp_path / "thick").read_bytes() == bytes(300 * KIB + 512)
