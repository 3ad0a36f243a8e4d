"""Files that somebody made to hurt: bounded time and memory, one kind of error that names the place."""

import os
import re
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import hostile
import pytest
from hostile import FORMATS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from breezeblock import images
from breezeblock.errors import CorruptError, UnsupportedError
from breezeblock.images import qcow2
from breezeblock.images.file import opened
from breezeblock.images.vhd.records import parse_footer, parse_header

MIB = 1 << 20
FUZZ = int(os.environ.get("FUZZ_EXAMPLES", "0"))
"""How many examples `make fuzz` asks for; the test run takes a few, always the same."""


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return hostile.samples(tmp_path_factory.mktemp("samples"))


mutations = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 1536), st.integers(0, 64 << 10), st.integers(0, 4 << 20)),
        st.sampled_from([1, 2, 4, 8]),
        st.one_of(
            st.sampled_from([0, 1, 0x7FFF_FFFF, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF, 1 << 63]),
            st.integers(0, (1 << 64) - 1),
        ),
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("name", FORMATS)
@settings(
    max_examples=FUZZ or 40, deadline=None, derandomize=not FUZZ, suppress_health_check=list(HealthCheck)
)
@given(changes=mutations, sealed=st.booleans(), cut=st.one_of(st.none(), st.floats(0, 1)))
def test_fields_of_any_value(
    samples: dict[str, Path],
    name: str,
    changes: list[tuple[int, int, int]],
    sealed: bool,
    cut: float | None,
) -> None:
    original = samples[name]
    path = original.with_name(f"mutant.{name}")
    path.write_bytes(hostile.mutant(name, original.read_bytes(), changes, cut, sealed=sealed))
    tracemalloc.start()
    hostile.use(path, name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * MIB


@pytest.mark.parametrize("name", FORMATS)
def test_what_coverage_leads_to(tmp_path: Path, name: str) -> None:
    """A short run of the fuzzer that looks for inputs which reach new code: always the same one."""
    program = Path(__file__).with_name("fuzz_images.py")
    argv = [sys.executable, program, name, tmp_path, "-runs=150", "-seed=7"]
    run = subprocess.run([*map(str, argv)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-4000:]
    assert "Done 150 runs" in run.stderr


def patched_vhd(samples: dict[str, Path], where: Path, **fields: Any) -> Path:
    """A child whose header has other values, with right checksums."""
    with opened(samples["vhd"]) as file:
        size = file.size()
        footer = parse_footer(file, file.read(0, 512), 0)
        header = replace(parse_header(file, footer, size), **fields)
    path = where / "patched.vhd"
    data = bytearray(samples["vhd"].read_bytes())
    data[512:1536] = header.pack()
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"entries": 0x4000_0001}, "BAT entries"),
        ({"entries": 1}, "BAT entries"),
        ({"block_bytes": 3}, "blocks of 3 bytes"),
        ({"block_bytes": 0}, "blocks of 0 bytes"),
        ({"bat_offset": 1 << 62}, "not inside the file"),
        ({"bat_offset": 513}, "not inside the file"),
    ],
)
def test_vhd_headers_that_hang_or_fool_other_programs(
    samples: dict[str, Path], tmp_path: Path, fields: dict[str, int], text: str
) -> None:
    path = patched_vhd(samples, tmp_path, **fields)
    with pytest.raises(CorruptError, match=text):
        images.probe(path, "vhd")


@pytest.mark.parametrize(("entry", "text"), [(1, "headers|lies on|inside"), (0, "overlaps")])
def test_vhd_blocks_that_lie_where_they_must_not(
    samples: dict[str, Path], tmp_path: Path, entry: int, text: str
) -> None:
    data = bytearray(samples["vhd"].read_bytes())
    (bat,) = struct.unpack_from(">Q", data, 512 + 16)
    value = entry or struct.unpack_from(">I", data, bat)[0]
    struct.pack_into(">I", data, bat + 4, value)
    path = samples["vhd"].parent / "blocks.vhd"
    path.write_bytes(data)
    assert any(re.search(text, one.text) for one in images.check(path, "vhd"))
    with pytest.raises(CorruptError):
        images.write(path, 0, [b"x" * 512], "vhd")
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    "parent", ["/etc/passwd", "../base.vhd", "C:\\base.vhd", "a/b.vhd", "..\\base.vhd", ".."]
)
def test_a_parent_anywhere_else_is_not_followed(
    samples: dict[str, Path], tmp_path: Path, parent: str
) -> None:
    raw = parent.encode("utf-16-le")
    with opened(samples["vhd"]) as file:
        size = file.size()
        header = parse_header(file, parse_footer(file, file.read(0, 512), 0), size)
    one = replace(header.locators[0], length=len(raw))
    data = bytearray(samples["vhd"].read_bytes())
    data[one.offset : one.offset + len(raw)] = raw
    data[512:1536] = replace(header, locators=(one,), parent_name="").pack()
    path = tmp_path / "away.vhd"
    path.write_bytes(data)
    assert images.probe(path, "vhd").parent == parent
    with pytest.raises(CorruptError, match="same directory"):
        images.chain(path, "vhd")


@pytest.mark.parametrize("name", FORMATS)
def test_links_fifos_and_directories_are_no_images(
    samples: dict[str, Path], tmp_path: Path, name: str
) -> None:
    for kind in ("link", "fifo", "directory"):
        where = tmp_path / kind
        where.mkdir()
        (where / f"child.{name}").write_bytes(samples[name].read_bytes())
        base = where / f"base.{name}"
        if kind == "link":
            base.symlink_to(samples[name].parent / f"base.{name}")
        elif kind == "fifo":
            os.mkfifo(base)
        else:
            base.mkdir()
        with pytest.raises(CorruptError, match="not a regular file"):
            images.chain(where / f"child.{name}", name)


def test_a_chain_that_bites_its_tail(tmp_path: Path) -> None:
    one, other = tmp_path / "one.qcow2", tmp_path / "other.qcow2"
    images.create(one, "qcow2", MIB)
    images.create_child(other, one)
    images.create_child(tmp_path / "new.qcow2", other)
    (tmp_path / "new.qcow2").rename(one)
    with pytest.raises(CorruptError, match="its own child"):
        images.chain(other)
    for verb in (images.merge, images.flatten, images.check):
        try:
            verb(other)
        except CorruptError:
            continue
        assert verb is images.check


def test_a_vhd_that_is_its_own_parent(tmp_path: Path, samples: dict[str, Path]) -> None:
    data = bytearray(samples["vhd"].read_bytes())
    footer_id = data[68:84]
    path = tmp_path / "base.vhd"
    data[512 + 40 : 512 + 56] = footer_id
    hostile.seal("vhd", data)
    path.write_bytes(data)
    with pytest.raises(CorruptError, match="its own child"):
        images.chain(path, "vhd")


def test_a_depth_bomb(tmp_path: Path) -> None:
    for level in range(257):
        with (tmp_path / f"{level}.qcow2").open("xb") as file:
            backing = f"{level - 1}.qcow2" if level else None
            qcow2.create(file.fileno(), MIB, backing=backing, backing_format="qcow2")
    assert len(images.chain(tmp_path / "255.qcow2")) == 256
    assert b"".join(images.read(tmp_path / "255.qcow2", 0, MIB)) == bytes(MIB)
    with pytest.raises(CorruptError, match="more than 256 layers"):
        images.chain(tmp_path / "256.qcow2")
    with pytest.raises(UnsupportedError, match="at most 256"):
        images.create_child(tmp_path / "one-more.qcow2", tmp_path / "255.qcow2")
    assert not (tmp_path / "one-more.qcow2").exists()
    images.create_child(tmp_path / "other.qcow2", tmp_path / "0.qcow2")
    with pytest.raises(UnsupportedError, match="at most 256"):
        images.reparent(tmp_path / "other.qcow2", tmp_path / "255.qcow2")


@pytest.mark.parametrize("image_format", ["vhd", "vhdx"])
def test_a_foreign_parent_of_the_same_name_is_refused(tmp_path: Path, image_format: str) -> None:
    base, child = tmp_path / f"base.{image_format}", tmp_path / f"child.{image_format}"
    images.create(base, image_format, MIB)
    images.create_child(child, base)
    base.unlink()
    images.create(base, image_format, MIB)
    with pytest.raises(CorruptError, match="it was made for a parent"):
        images.read(child, 0, 10).__next__()


@pytest.mark.parametrize(("image_format", "place"), [("qcow2", 4), ("vhd", 12), ("vhdx", 3)])
def test_an_error_names_the_layer_that_is_wrong(tmp_path: Path, image_format: str, place: int) -> None:
    base, child = tmp_path / f"base.{image_format}", tmp_path / f"child.{image_format}"
    images.create(base, image_format, MIB)
    images.create_child(child, base)
    data = bytearray(base.read_bytes())
    for start in {0, len(data) - 512 if image_format == "vhd" else 0}:
        data[start + place] ^= 0xFF
    base.write_bytes(data)
    with pytest.raises(CorruptError, match=rf"\Abase\.{image_format}: .* \(at byte \d+\)"):
        images.chain(child)


def test_an_error_in_a_table_names_the_layer_that_is_wrong(tmp_path: Path) -> None:
    base, child = tmp_path / "base.qcow2", tmp_path / "child.qcow2"
    images.create(base, "qcow2", MIB)
    images.create_child(child, base)
    with base.open("r+b") as file:
        file.seek(3 * 65536)
        file.write(b"\xff" * 8)
    with pytest.raises(CorruptError, match=r"\Abase\.qcow2: L1 entry 0 .*\(at byte 196608\)"):
        b"".join(images.read(child, 0, 512))


def test_a_guest_cannot_turn_its_raw_or_fixed_disk_into_a_chain(
    tmp_path: Path, samples: dict[str, Path]
) -> None:
    raw = tmp_path / "guest.raw"
    raw.write_bytes(samples["qcow2"].read_bytes())
    assert images.probe(raw, "raw").parent is None
    fixed = tmp_path / "guest.vhd"
    images.create(fixed, "vhd", 5 * MIB, images.Options(fixed=True))
    images.write(fixed, 0, [samples["vhd"].read_bytes()[: 4 * MIB]])
    assert images.probe(fixed).parent is None
    assert images.probe(fixed).details["type"] == "fixed"


def test_tables_that_are_one_and_the_same_a_million_times(tmp_path: Path) -> None:
    vhd, qcow = tmp_path / "one.vhd", tmp_path / "one.qcow2"
    images.create(vhd, "vhd", 2040 << 30)
    images.write(vhd, 0, [b"x" * 512])
    with vhd.open("r+b") as file:
        file.seek(512 + 16)
        (bat,) = struct.unpack(">Q", file.read(8))
        file.seek(bat)
        entry = file.read(4)
        file.seek(bat)
        file.write(entry * 1_044_480)
    assert 0 < len(images.check(vhd)) <= 1000
    images.create(qcow, "qcow2", 1 << 50)
    images.write(qcow, 0, [b"x" * 512])
    with qcow.open("r+b") as file:
        file.seek(40)
        (l1,) = struct.unpack(">Q", file.read(8))
        file.seek(l1)
        entry = file.read(8)
        file.seek(l1)
        file.write(entry * ((1 << 50) >> 29))
    (found,) = images.check(qcow)
    assert "two tables lie on each other" in found.text


def test_a_compressed_cluster_that_unpacks_to_more_than_a_cluster(tmp_path: Path) -> None:
    raw, packed = tmp_path / "z.raw", tmp_path / "z.qcow2"
    raw.write_bytes(bytes(4 * MIB))
    raw.write_bytes(b"a" * MIB + bytes(3 * MIB))
    argv = ["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", str(raw), str(packed)]
    subprocess.run(argv, check=True)
    assert b"".join(images.read(packed, 0, 4 * MIB)) == raw.read_bytes()


def test_64_tib_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "huge.vhdx"
    images.create(path, "vhdx", 64 << 40)
    images.write(path, (64 << 40) - 512, [b"e" * 512])
    program = (
        "import resource, sys\nfrom pathlib import Path\nfrom breezeblock import images\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "path = Path(sys.argv[1])\n"
        "assert sum(one.length for one in images.extents(path)) == 64 << 40\n"
        "assert images.check(path) == []\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    assert int(run.stdout) < 64 << 10, "KiB more than before"
