"""Chains of VHD and VHDX: names, identities, lengths, locks, and what other programs read of them."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "images"))
import oracles
from chainlab import KIB, MIB, NAMING, Volume, attempt, content, new_id, written

from breezeblock import chains, images
from breezeblock.errors import (
    CorruptError,
    InvalidInputError,
    UnavailableError,
)
from breezeblock.shares.files import listing

KINDS = ("vhd", "vhdx")
GIB = 1 << 30
kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
def test_files_are_called_as_cinders_smb_driver_called_them(tmp_path: Path, kind: str) -> None:
    volume = written(tmp_path, kind)
    first, second = volume.snapshots
    base = f"volume-{volume.id}"
    assert sorted(listing(tmp_path)) == sorted(
        [f"{base}.{kind}", f"{base}.{first}.{kind}", f"{base}.{second}.{kind}", f"{base}.{kind}.info"]
    )
    assert json.loads((tmp_path / f"{base}.{kind}.info").read_text()) == {
        "active": f"{base}.{second}.{kind}",
        first: f"{base}.{first}.{kind}",
        second: f"{base}.{second}.{kind}",
    }
    found = {item.name: (item.kind, item.snapshot_id) for item in chains.inventory(tmp_path, NAMING)}
    assert found[f"{base}.{kind}"] == ("volume", None)
    assert found[f"{base}.{first}.{kind}"] == ("snapshot", first)
    assert found[f"{base}.{kind}.info"] == ("metadata", None)


@pytest.fixture
def memory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


@kinds
def test_a_chain_thirty_deep(memory: Path, kind: str) -> None:
    volume = written(memory, kind, snapshots=29)
    chosen = list(volume.snapshots)
    volume.revert(chosen[3])
    volume.delete_snapshot(chosen[15])
    volume.delete_snapshot(chosen[0])
    volume.delete_snapshot(chosen[28])
    volume.verify()
    assert len(images.chain(volume.active[0], kind)) == 27


@kinds
def test_snapshots_go_in_any_order_and_leave_one_image(tmp_path: Path, kind: str) -> None:
    volume = written(tmp_path, kind, snapshots=4)
    for snapshot_id in [list(volume.snapshots)[index] for index in (1, 3, 0, 2)]:
        volume.delete_snapshot(snapshot_id)
        volume.verify()
    assert volume.active[0].name == volume.naming.volume(volume.id)
    chains.delete(tmp_path, volume.naming, volume.id, attempt())
    assert listing(tmp_path) == []


@pytest.mark.parametrize("target", chains.FORMATS)
@pytest.mark.parametrize("source", chains.FORMATS)
def test_images_in_and_out_of_every_format(tmp_path: Path, source: str, target: str) -> None:
    pool, outside = tmp_path / "pool", tmp_path / "outside"
    pool.mkdir()
    outside.mkdir()
    volume = written(pool, source)
    chosen = next(iter(volume.snapshots))
    image = outside / "image"
    for snapshot_id, held in ((None, bytes(volume.model)), (chosen, volume.snapshots[chosen])):
        chains.export_image(
            pool, volume.naming, volume.id, snapshot_id, image, target, attempt(), format=source
        )
        assert content(image, target) == held if target != "raw" else image.read_bytes() == held
    assert listing(outside) == ["image"]
    new = Volume(pool, source, 6 * MIB)
    chains.import_image(pool, new.naming, new.id, 6 * MIB, image, target, attempt(), format=source)
    new.model[: 4 * MIB] = volume.snapshots[chosen]
    new.verify()
    assert listing(outside) == ["image"]


@kinds
def test_an_image_that_ends_inside_a_sector(tmp_path: Path, kind: str) -> None:
    image = tmp_path / "odd"
    image.write_bytes(os.urandom(MIB + 77))
    volume = Volume(tmp_path, kind, 2 * MIB)
    chains.import_image(tmp_path, volume.naming, volume.id, 2 * MIB, image, "raw", attempt(), format=kind)
    volume.model[: MIB + 77] = image.read_bytes()
    volume.verify()


@kinds
def test_fixed_images_have_their_space_from_the_start(tmp_path: Path, kind: str) -> None:
    volume = Volume(tmp_path, kind, 4 * MIB)
    chains.create(tmp_path, volume.naming, volume.id, 4 * MIB, attempt(), format=kind, thick=True)
    path = volume.active[0]
    details = images.info(path, kind).details
    assert "fixed" in {details.get("kind"), details.get("type")}
    assert path.stat().st_blocks * 512 >= 4 * MIB
    assert images.check(path, kind) == []
    volume.write(MIB, MIB, 3)
    volume.snapshot()
    volume.write(0, MIB, 4)
    volume.extend(5 * MIB)
    volume.verify()
    volume.delete_snapshot(next(iter(volume.snapshots)))
    volume.verify()
    assert images.info(path, kind).details == {**details, **images.info(path, kind).details}


@kinds
def test_a_chain_stays_of_one_length_when_it_grows(tmp_path: Path, kind: str) -> None:
    """Programs disagree about an image that is longer than the one below it, but not about these."""
    volume = written(tmp_path, kind)
    chosen = list(volume.snapshots)
    volume.extend(6 * MIB)
    volume.write(5 * MIB, MIB, 50)
    volume.snapshot()
    volume.extend(9 * MIB)
    volume.write(8 * MIB, MIB, 51)
    layers = images.chain(volume.active[0], kind)
    assert {one.virtual_bytes for one in layers} == {9 * MIB}
    volume.verify()  # by 7-Zip, each of them
    if kind == "vhd":
        assert oracles.fattools("read", volume.active[0]) == volume.model
    old = volume.snapshots[chosen[0]]
    out = tmp_path / "out.raw"
    chains.export_image(
        tmp_path,
        volume.naming,
        volume.id,
        chosen[0],
        out,
        "raw",
        attempt(),
        source_bytes=len(old),
        format=kind,
    )
    assert out.read_bytes() == old
    out.unlink()
    volume.delete_snapshot(chosen[1])
    volume.verify()
    volume.revert(chosen[0])
    volume.verify()


@kinds
def test_what_a_clone_rests_on_does_not_grow(tmp_path: Path, kind: str) -> None:
    volume = written(tmp_path, kind)
    clone = Volume(tmp_path, kind, 4 * MIB)
    chains.clone(
        tmp_path,
        volume.naming,
        volume.id,
        next(iter(volume.snapshots)),
        clone.id,
        4 * MIB,
        attempt(),
        source_format=kind,
    )
    held = (tmp_path / volume.naming.volume(volume.id)).read_bytes()
    volume.extend(6 * MIB)
    assert (tmp_path / volume.naming.volume(volume.id)).read_bytes() == held
    assert [one.virtual_bytes for one in images.chain(volume.active[0], kind)] == [6 * MIB, 6 * MIB, 4 * MIB]
    assert content(*volume.active) == volume.model
    assert content(*clone.active) == next(iter(volume.snapshots.values()))


@kinds
def test_a_linked_clone_and_its_flattening(tmp_path: Path, kind: str) -> None:
    volume = written(tmp_path, kind)
    chosen = next(iter(volume.snapshots))
    clone = Volume(tmp_path, kind, 4 * MIB)
    chains.clone(tmp_path, volume.naming, volume.id, chosen, clone.id, 4 * MIB, attempt(), source_format=kind)
    clone.model[:] = volume.snapshots[chosen]
    assert content(*clone.active) == clone.model
    parent = images.chain(clone.active[0], kind)[1].name
    assert parent == volume.naming.volume(volume.id)
    clone.snapshot()
    clone.write(0, 4 * KIB, 99)
    chains.flatten(tmp_path, clone.naming, clone.id, attempt(), format=kind)
    clone.verify()
    chains.delete(tmp_path, volume.naming, volume.id, attempt())
    clone.verify()


@kinds
def test_what_a_guest_uses_is_left_alone(tmp_path: Path, kind: str) -> None:
    volume = Volume(tmp_path, kind, MIB).create()
    name = {"vhd": "vpc", "vhdx": "vhdx"}[kind]
    guest = subprocess.Popen(
        ["qemu-io", "-f", name, str(volume.active[0])], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert guest.stdin is not None
        assert guest.stdout is not None
        guest.stdin.write(b"write -P 7 0 512\n")
        guest.stdin.flush()
        guest.stdout.readline()
        before = listing(tmp_path)
        with pytest.raises(UnavailableError, match="in use"):
            volume.snapshot()
        with pytest.raises(UnavailableError, match="in use"):
            chains.extend(tmp_path, volume.naming, volume.id, 2 * MIB, attempt(), format=kind)
        assert {*listing(tmp_path)} <= {*before, volume.naming.info(volume.id)}
    finally:
        guest.communicate(b"quit\n")
    volume.model[:512] = bytes([7]) * 512
    volume.snapshot()
    volume.verify()


@kinds
def test_a_merge_is_refused_before_it_is_promised(tmp_path: Path, kind: str) -> None:
    volume = written(tmp_path, kind)
    middle = tmp_path / volume.naming.overlay(volume.id, next(iter(volume.snapshots)))
    guest = subprocess.Popen(
        ["qemu-io", "-f", "raw", "-c", "sleep 60000", str(middle)], stdout=subprocess.PIPE
    )
    try:
        while not _is_held(middle):
            assert guest.poll() is None
        with pytest.raises(UnavailableError, match="in use"):
            volume.delete_snapshot(next(iter(volume.snapshots)))
        assert volume.naming.intent(volume.id) not in listing(tmp_path)
    finally:
        guest.kill()
        guest.communicate()
    volume.verify()


def _is_held(path: Path) -> bool:
    from breezeblock.shares import files

    with files.opened(path) as fd:
        return files.held(fd)


@kinds
def test_a_parent_is_a_bare_name_of_the_volume_itself(tmp_path: Path, kind: str) -> None:
    """A header that leads elsewhere is followed by no verb."""
    volume, other = written(tmp_path, kind, 1), written(tmp_path, kind, 0)
    secret = tmp_path / f"secret.{kind}"
    images.create(secret, kind, 4 * MIB)
    overlay = volume.active[0]
    for target in (secret, other.active[0]):
        images.reparent(overlay, target, kind, kind)
        for verb in (
            volume.snapshot,
            lambda: volume.revert(next(iter(volume.snapshots))),
            lambda: chains.active(tmp_path, volume.naming, volume.id, kind),
        ):
            with pytest.raises(CorruptError, match="no image of this volume"):
                verb()


@kinds
def test_a_parent_is_known_by_its_identity(tmp_path: Path, kind: str) -> None:
    volume = written(tmp_path, kind, 1)
    base = tmp_path / volume.naming.volume(volume.id)
    base.unlink()
    images.create(base, kind, 4 * MIB)
    found = chains.check(tmp_path, volume.naming, volume.id, list(volume.snapshots), 4 * MIB, kind)
    assert [one.severity for one in found] == ["error"]
    with pytest.raises(CorruptError):
        volume.delete_snapshot(next(iter(volume.snapshots)))


def test_no_format_is_probed(tmp_path: Path) -> None:
    """A raw volume onto which its guest wrote the headers and the footer of a VHD stays raw."""
    volume = Volume(tmp_path, "raw", 4 * MIB).create()
    images.create(tmp_path / "trap", "vhd", 4 * MIB)
    trap = (tmp_path / "trap").read_bytes()
    path = volume.active[0]
    with path.open("r+b") as file:
        file.write(trap)
        file.seek(-512, os.SEEK_END)
        file.write(trap[-512:])
    volume.model[:] = path.read_bytes()
    volume.snapshot()
    volume.write(MIB, MIB, 5)
    volume.delete_snapshot(next(iter(volume.snapshots)))
    assert path.read_bytes() == volume.model


@kinds
def test_limits_are_named(tmp_path: Path, kind: str) -> None:
    limit = {"vhd": 2040 * GIB, "vhdx": 64 * 1024 * GIB}[kind]
    for size in (0, 513, limit + 512):
        with pytest.raises(InvalidInputError, match=str(limit)):
            chains.create(tmp_path, NAMING.of_format(kind), new_id(), size, attempt(), format=kind)
    volume_id = new_id()
    chains.create(tmp_path, NAMING.of_format(kind), volume_id, limit, attempt(), format=kind)
    with pytest.raises(InvalidInputError, match=str(limit)):
        chains.extend(tmp_path, NAMING.of_format(kind), volume_id, limit + 512, attempt(), format=kind)
    chains.delete(tmp_path, NAMING.of_format(kind), volume_id, attempt())
    assert listing(tmp_path) == []


@pytest.mark.parametrize("clone", [True, False])
def test_a_clone_may_be_named_otherwise_than_its_source(tmp_path: Path, clone: bool) -> None:
    """On SMB every format is an extension, so a clone of a raw volume is called otherwise."""
    naming = chains.Naming(extensions=chains.FORMATS)
    source, made = new_id(), new_id()
    chains.create(tmp_path, naming.of_format("raw"), source, MIB, attempt(), format="raw")
    (tmp_path / f"volume-{source}.raw").write_bytes(bytes([3]) * MIB)
    if clone:
        chains.clone(
            tmp_path, naming.of_format("raw"), source, None, made, MIB, attempt(), source_format="raw"
        )
    else:
        chains.copy(
            tmp_path,
            naming.of_format("qcow2"),
            source,
            None,
            tmp_path,
            made,
            MIB,
            attempt(),
            source_naming=naming.of_format("raw"),
            source_format="raw",
            format="qcow2",
        )
    own = naming.of_format("qcow2")
    assert content(tmp_path / f"volume-{made}.qcow2", "qcow2") == bytes([3]) * MIB
    assert chains.check(tmp_path, own, made, [], MIB, "qcow2") == []
    assert chains.check(tmp_path, naming.of_format("raw"), source, [], MIB, "raw") == []
    chains.delete(tmp_path, naming.of_format("raw"), source, attempt())
    assert content(tmp_path / f"volume-{made}.qcow2", "qcow2") == bytes([3]) * MIB
    chains.delete(tmp_path, own, made, attempt())
    assert listing(tmp_path) == []
