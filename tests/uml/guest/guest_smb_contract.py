"""The smb back end held to the contract on a real CIFS mount, as every other back end is."""

import os
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
from file_storage import FileStorage
from samba_server import PASSWORD, ROOT, USER
from vhd_storage import VhdStorage

from breezeblock import images, vault
from breezeblock.backends.contract import Snapshot, Volume
from breezeblock.backends.registry import open_backend, read_config
from breezeblock.shares import mounts
from breezeblock.testing import Case, Ending, Scenario, cases, kill_everywhere, kills
from breezeblock.testing.lab import attempt


def storage(state: Path, options: str, image_format: str) -> FileStorage:
    name = f"contract-{uuid4().hex}"
    (ROOT / "volumes" / name).mkdir()
    vault.at(state).set("server", PASSWORD)
    # One base for all tests: nothing is ever unmounted, and each share is another directory.
    address = f"//127.0.0.1/volumes/{name}"
    share = f"{address} -o username={USER},secret=server{options}"
    config = read_config({"kind": "smb", "shares": [share]}, "test")
    kind = VhdStorage if image_format.startswith("vhd") else FileStorage
    made = kind(
        mounts.mount_point(state / "mnt", address),
        lambda: open_backend("filer", config, state),
        options={"format": image_format},
        extension=image_format,
    )
    if isinstance(made, VhdStorage):
        made.by_others = False  # a process costs most in here; docs/backends/smb.md is read by 7-Zip
    return made


LONG = {
    "related_volumes_can_be_deleted_in_any_order",
    "snapshots_of_related_volumes_can_be_deleted_in_any_order",
    "related_volumes_take_every_verb",
}
"""Many orders of the same steps: the local back end goes through them."""
SOME_CASES = {
    "create_keeps_what_is_written",
    "extend_grows_with_zeros",
    "clone_is_independent_and_zero_beyond",
    "volume_from_snapshot_is_independent_and_zero_beyond",
    "any_snapshot_can_be_deleted_in_any_order",
    "revert_to_an_older_one",
    "flatten_makes_independent",
}
"""What differs most between formats."""


@pytest.mark.parametrize("case", [case for case in cases() if case.name not in LONG], ids=str)
def test_smb_vhdx(case: Case, tmp_path: Path) -> None:
    case.run(storage(tmp_path, "", "vhdx"))


@pytest.mark.parametrize("case", [case for case in cases() if case.name in SOME_CASES], ids=str)
@pytest.mark.parametrize("image_format", ["vhd", "qcow2", "raw"])
def test_smb_others_sealed(case: Case, image_format: str, tmp_path: Path) -> None:
    if image_format == "raw" and case.name in {
        "flatten_makes_independent",  # nothing can rest on a raw image where names end in the format
        "any_snapshot_can_be_deleted_in_any_order",  # of qcow2, as the overlays of raw images are
    }:
        return
    case.run(storage(tmp_path, ",seal", image_format))


SOME = [
    (scenario, ending)
    for scenario, ending in kills()
    if str(scenario) in {"create", "delete_middle_snapshot", "clone"}
]


@pytest.mark.parametrize(("scenario", "ending"), SOME, ids=str)
def test_smb_killed(scenario: Scenario, ending: Ending, tmp_path: Path) -> None:
    # Few kills: the local back end, which shares all of this code, is killed before every line.
    report = kill_everywhere(storage(tmp_path, "", "vhdx"), scenario, ending, stride=12)
    assert report is not None
    assert report.states > 1


def test_smb_images_in_and_out_and_managing(tmp_path: Path) -> None:
    """What the suite has no cases for: images in and out, being let go and taken over."""
    place = storage(tmp_path, "", "vhdx")
    backend = place.open()
    (pool,) = (one.name for one in backend.stats())
    content = os.urandom(1 << 16).ljust(1 << 20, b"\0")
    source = tmp_path / "in.raw"
    source.write_bytes(content)
    for image_format, out_format in (("vhdx", "vhd"), ("vhd", "vhdx"), ("qcow2", "vhd"), ("raw", "vhdx")):
        volume = Volume(id=str(uuid4()), virtual_bytes=1 << 20, pool=pool, options={"format": image_format})
        placed = backend.import_image(volume, str(source), "raw", attempt())
        volume = msgspec.structs.replace(volume, format=placed.format, options={}, depth=1)
        taken = Snapshot(id=str(uuid4()), volume_id=volume.id, virtual_bytes=1 << 20)
        backend.snapshot(volume, taken, attempt())
        out = tmp_path / f"out.{out_format}"
        backend.export_image(volume, taken, str(out), out_format, attempt())
        assert b"".join(images.read(out, 0, 1 << 20, out_format)) == content
        assert backend.release(volume, attempt()) == f"volume-{volume.id}.{image_format}"
        stranger = Volume(id=volume.id, virtual_bytes=0, pool=pool)
        found = backend.adopt(stranger, f"volume-{volume.id}", attempt())
        assert (found.volume.format, [one.id for one in found.snapshots]) == (image_format, [taken.id])
        backend.delete(msgspec.structs.replace(volume, depth=2), attempt())
    assert list(place.directory.iterdir()) == []
