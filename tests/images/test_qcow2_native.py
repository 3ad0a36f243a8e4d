"""qcow2 as we write it, judged by qemu-img; and what a stop at any write leaves."""

import json
import random
import subprocess
from array import array
from collections.abc import Callable
from pathlib import Path

import oracles
import pytest
import recording
from hypothesis import given
from hypothesis import strategies as st
from recording import LOG

from breezeblock import images
from breezeblock.images import clusters

MIB = 1 << 20
VIRTUAL_BYTES = 5 * MIB + 512


def qemu_check(path: Path) -> tuple[int, int]:
    """(corruptions, leaks) as qemu-img counts them."""
    argv = ["qemu-img", "check", "-f", "qcow2", "--output", "json", str(path)]
    run = subprocess.run(argv, capture_output=True, text=True, check=False)
    found = json.loads(run.stdout)
    assert not found.get("check-errors")
    return found.get("corruptions", 0), found.get("leaks", 0)


def make_chain(where: Path, lowest: str) -> None:
    """Three layers with data in all; the lowest is qcow2 or raw."""
    rng = random.Random(3)
    base, middle, top = where / f"a.{lowest}", where / "b.qcow2", where / "c.qcow2"
    images.create(base, lowest, VIRTUAL_BYTES)
    images.write(base, 0, [rng.randbytes(2 * MIB)], lowest)
    images.create_child(middle, base, parent_format=lowest)
    images.write(middle, MIB + 4096, [rng.randbytes(2 * MIB)])
    (where / "copy.qcow2").write_bytes(middle.read_bytes())
    images.create_child(top, middle)
    images.write(top, 4096, [rng.randbytes(8192)])


def content(path: Path, image_format: str = "qcow2") -> bytes:
    return b"".join(images.read(path, 0, images.info(path, image_format).virtual_bytes, image_format))


def grown(path: Path, image_format: str) -> None:
    images.grow(path, VIRTUAL_BYTES + MIB, image_format)


# What is done, and the image that is read before and after.
VERBS: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    "write": (
        "qcow2",
        "c.qcow2",
        lambda where: images.write(where / "c.qcow2", MIB // 2, [random.Random(8).randbytes(3 * MIB)]),
    ),
    "merge": ("qcow2", "c.qcow2", lambda where: images.merge(where / "b.qcow2")),
    "merge-into-raw": ("raw", "c.qcow2", lambda where: images.merge(where / "b.qcow2")),
    "reparent": (
        "qcow2",
        "c.qcow2",
        lambda where: images.reparent(where / "c.qcow2", where / "copy.qcow2"),
    ),
    "grow": ("qcow2", "c.qcow2", lambda where: grown(where / "c.qcow2", "qcow2")),
    "flatten": ("qcow2", "c.qcow2", lambda where: images.flatten(where / "c.qcow2")),
    "write-raw": (
        "raw",
        "a.raw",
        lambda where: images.write(where / "a.raw", MIB - 7, [random.Random(8).randbytes(MIB)], "raw"),
    ),
    "grow-raw": ("raw", "a.raw", lambda where: grown(where / "a.raw", "raw")),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_stop_at_any_write_leaves_old_or_new(
    verb: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lowest, leaf, act = VERBS[verb]
    chain, replay = tmp_path / "chain", tmp_path / "replay"
    chain.mkdir()
    replay.mkdir()
    make_chain(chain, lowest)
    before = {path.name: path.read_bytes() for path in chain.iterdir()}
    image_format = Path(leaf).suffix[1:]
    old = content(chain / leaf, image_format)
    LOG.clear()
    with monkeypatch.context() as patch:
        recording.system_calls(patch)
        act(chain)
    log = list(LOG)
    new = content(chain / leaf, image_format)
    leaked, seen = 0, set()
    for state in recording.states(before, log, random.Random(2), 3):
        # What was not published yet has a name that nobody asks for.
        visible = {name: bytes(data) for name, data in state.items() if not name.startswith(".tmp-")}
        key = hash(tuple(sorted(visible.items())))
        if key in seen:
            continue
        seen.add(key)
        recording.store(replay, state)
        got = oracles.qemu(replay / leaf, image_format)
        assert got == content(replay / leaf, image_format)
        assert len(got) in {len(old), len(new)}
        for at in range(0, len(got), 512):
            assert got[at : at + 512] in {old[at : at + 512], new[at : at + 512]}
        leaked += sum(mended(path) for path in replay.glob("?.qcow2"))
        act(replay)
        assert content(replay / leaf, image_format) == new == oracles.qemu(replay / leaf, image_format)
    assert len(seen) > 1
    assert leaked or verb not in {"write", "merge"}


def mended(path: Path) -> bool:
    """Tell whether a stop left clusters that nobody uses; there is never worse, and it can be repaired."""
    corruptions, leaks = qemu_check(path)
    assert corruptions == 0
    if leaks:
        assert images.repair(path)
        assert qemu_check(path) == (0, 0)
    return leaks > 0


@pytest.mark.parametrize("cluster", ["512", "4k", "64k", "2M"])
@pytest.mark.parametrize("compat", ["0.10", "1.1"])
@pytest.mark.parametrize("refcount_bits", ["16", "8"])
def test_images_of_any_geometry(tmp_path: Path, cluster: str, compat: str, refcount_bits: str) -> None:
    if compat == "0.10" and refcount_bits != "16":
        return
    path, rng = tmp_path / "one.qcow2", random.Random(1)
    options = f"cluster_size={cluster},compat={compat},refcount_bits={refcount_bits}"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, str(path), "3M"], check=True)
    model = bytearray(3 * MIB)
    for _ in range(8):
        offset, data = rng.randrange(2 * MIB), rng.randbytes(rng.randrange(1, 200_000))
        images.write(path, offset, [data])
        model[offset : offset + len(data)] = data
    assert content(path) == model == oracles.qemu(path, "qcow2")
    assert qemu_check(path) == (0, 0)
    assert images.check(path) == []


def test_check_tells_damage_from_leaks_as_qemu_does(tmp_path: Path) -> None:
    path = tmp_path / "one.qcow2"
    images.create(path, "qcow2", MIB)
    images.write(path, 0, [b"x" * MIB])
    sound = path.read_bytes()
    for at, value, repairable in ((2 * 65536 + 2 * 10, 0, False), (2 * 65536 + 2 * 100, 1, True)):
        data = bytearray(sound.ljust(101 * 65536, b"\0"))
        data[at : at + 2] = value.to_bytes(2, "big")
        path.write_bytes(data)
        (found,) = images.check(path)
        assert found.repairable is repairable
        corruptions, leaks = qemu_check(path)
        assert (bool(leaks), bool(corruptions)) == (repairable, not repairable)
        assert bool(images.repair(path)) is repairable


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, 1 << 16, (1 << 63) | (5 << 16), (1 << 62) | 7, 2**64 - 1]),
            st.integers(1, 40),
        ),
        max_size=12,
    )
)
def test_a_table_is_divided_as_entry_by_entry(parts: list[tuple[int, int]]) -> None:
    """What is compared in slices is what comparing each entry with the one before would give."""
    size, ordinary = 1 << 16, {1 << 16, (1 << 63) | (5 << 16)}
    entries = [
        value + number * (size if value in ordinary else 0)
        for value, count in parts
        for number in range(count)
    ]
    divided = list(clusters.stretches(array("Q", entries), size))
    seen = 0
    for index, count, value in divided:
        assert index == seen
        packed = value >> 62 & 1
        step = size if value & 0x00FF_FFFF_FFFF_FE00 and not packed and value != 2**64 - 1 else 0
        assert entries[index : index + count] == [value + number * step for number in range(count)]
        if packed:
            assert count == 1
        elif index + count < len(entries):
            assert entries[index + count] != value + count * step, "the stretch ends where it must"
        seen += count
    assert seen == len(entries)


def test_a_chain_thirty_deep_beside_qemu(tmp_path: Path) -> None:
    """We wrote it, QEMU reads it; QEMU writes on it, we read it, and merge what it wrote."""
    rng = random.Random(30)
    model = bytearray(VIRTUAL_BYTES)
    path = tmp_path / "0.qcow2"
    images.create(path, "qcow2", VIRTUAL_BYTES)
    for number in range(1, 31):
        offset, data = rng.randrange(VIRTUAL_BYTES - 100_000), rng.randbytes(rng.randrange(1, 100_000))
        images.write(path, offset, [data])
        model[offset : offset + len(data)] = data
        if number < 30:
            child = tmp_path / f"{number}.qcow2"
            images.create_child(child, path, durable=False)
            path = child
    told = subprocess.run(
        ["qemu-img", "info", "-f", "qcow2", "--backing-chain", "--output=json", path],
        capture_output=True,
        check=True,
    )
    seen = [(one["virtual-size"], Path(one["filename"]).name) for one in json.loads(told.stdout)]
    assert seen == [(VIRTUAL_BYTES, f"{number}.qcow2") for number in reversed(range(30))]
    assert [(one.virtual_bytes, one.name) for one in images.chain(path)] == seen
    assert oracles.qemu(path, "qcow2") == model == content(path)
    above = ["-b", path.name, "-F", "qcow2", str(tmp_path / "theirs.qcow2")]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *above], check=True)
    write = "write -q -P 77 1000k 300k"
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", write, tmp_path / "theirs.qcow2"], check=True)
    model[1000 << 10 : 1300 << 10] = bytes([77]) * (300 << 10)
    assert content(tmp_path / "theirs.qcow2") == model
    images.merge(tmp_path / "theirs.qcow2")
    images.flatten(tmp_path / "15.qcow2")
    assert oracles.qemu(path, "qcow2") == model == content(path)
    assert len(images.chain(path)) == 15
    assert qemu_check(path) == (0, 0)
