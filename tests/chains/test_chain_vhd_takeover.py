"""Taking over chains of VHD and VHDX that others wrote."""

import sys
from itertools import pairwise
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "images"))
from chainlab import MIB, NAMING, Volume, attempt, new_id, written

from breezeblock import chains, images
from breezeblock.errors import (
    BreezeblockError,
    ConflictError,
    CorruptError,
    InvalidInputError,
)
from breezeblock.shares.files import listing

KINDS = ("vhd", "vhdx")
kinds = pytest.mark.parametrize("kind", KINDS)
GIB = 1 << 30


def as_windows_would(volume: Volume) -> None:
    """Let every child name its parent by a path of Windows, in capitals; with another program for VHD."""
    from breezeblock.images import formats
    from breezeblock.images.file import opened
    from breezeblock.images.vhdx import Vhdx, items, link, locator

    assert volume.format == "vhdx"
    for child, parent in pairwise(images.chain(volume.active[0], volume.format)):
        path = f"\\\\?\\UNC\\server\\share\\{parent.name.upper()}"
        with opened(volume.directory / child.name, write=True) as file:
            layer = formats.open_layer(file, "vhdx")
            assert isinstance(layer, Vhdx)
            linkage = link.locator_of(layer.image).linkage
            pairs = {"parent_linkage": f"{{{linkage}}}", "absolute_win32_path": path}
            items.set_locator(layer.edit, locator.Locator(pairs, linkage))


def test_what_windows_wrote_is_taken_over(tmp_path: Path) -> None:
    volume = written(tmp_path, "vhdx")
    as_windows_would(volume)
    with pytest.raises(BreezeblockError):
        chains.active(tmp_path, volume.naming, volume.id, "vhdx")
    reference = volume.naming.volume(volume.id)
    expected = chains.look(tmp_path, volume.naming, volume.id, reference)
    assert [one for one, _bytes in expected.snapshots] == list(volume.snapshots)
    assert sum("in its own directory" in edit for edit in expected.edits) == 2
    found = chains.adopt(tmp_path, volume.naming, volume.id, reference, attempt())
    assert (found.format, found.edits, found.virtual_bytes) == ("vhdx", (), GIB)
    for snapshot_id, held in volume.snapshots.items():
        chain = chains.load(tmp_path, volume.naming, volume.id, "vhdx")
        name = chain.data(snapshot_id)[0].name
        assert b"".join(images.read(tmp_path / name, 0, 4 * MIB, "vhdx")) == held
    assert b"".join(images.read(volume.active[0], 0, 4 * MIB, "vhdx")) == volume.model


def test_a_parent_of_the_right_name_only_is_not_taken_over(tmp_path: Path) -> None:
    volume = written(tmp_path, "vhdx", 1)
    as_windows_would(volume)
    base = tmp_path / volume.naming.volume(volume.id)
    base.unlink()
    images.create(base, "vhdx", 4 * MIB)
    with pytest.raises(CorruptError, match="DataWriteGuid"):
        chains.look(tmp_path, volume.naming, volume.id, base.name)


@kinds
def test_a_file_becomes_a_volume_and_is_let_go_again(tmp_path: Path, kind: str) -> None:
    image = tmp_path / f"machine.{kind}"
    images.create(image, kind, 3 * MIB)
    images.write(image, MIB, [bytes([8]) * 512], kind)
    volume_id = new_id()
    found = chains.adopt(tmp_path, NAMING.like(image.name), volume_id, image.name, attempt())
    assert (found.format, found.virtual_bytes) == (kind, GIB)
    naming = NAMING.of_format(kind)
    assert listing(tmp_path) == [naming.volume(volume_id)]
    again = chains.adopt(tmp_path, NAMING.like(image.name), volume_id, image.name, attempt())
    assert again == found
    chains.release(tmp_path, naming, volume_id, attempt(), format=kind)
    assert listing(tmp_path) == [naming.volume(volume_id)]


@kinds
def test_a_child_cannot_become_a_volume_without_its_parent(tmp_path: Path, kind: str) -> None:
    images.create(tmp_path / f"base.{kind}", kind, MIB)
    images.create_child(tmp_path / f"child.{kind}", tmp_path / f"base.{kind}", kind, kind)
    with pytest.raises(InvalidInputError, match="rests on another image"):
        chains.look(tmp_path, NAMING, new_id(), f"child.{kind}")


def test_two_volumes_of_one_id_are_no_volume(tmp_path: Path) -> None:
    volume_id = new_id()
    for kind in KINDS:
        images.create(tmp_path / f"volume-{volume_id}.{kind}", kind, MIB)
    images.create(tmp_path / "more.vhd", "vhd", MIB)
    with pytest.raises(ConflictError, match="already"):
        chains.look(tmp_path, NAMING, volume_id, "more.vhd")
