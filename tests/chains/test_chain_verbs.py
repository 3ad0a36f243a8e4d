import json
import os
import stat
import subprocess
from pathlib import Path

import pytest
from chainlab import KIB, MIB, NAMING, Volume, attempt, is_clean, new_id

from breezeblock import chains
from breezeblock.attempt import Attempt
from breezeblock.errors import (
    CancelledOperationError,
    CorruptError,
    InvalidInputError,
    NotFoundError,
)
from breezeblock.shares.files import listing

SOME_ID = "0e6d2a1c-5b7f-4c3a-9d8e-1f2a3b4c5d6e"
FORMATS = pytest.mark.parametrize("image_format", ["raw", "qcow2"])


@FORMATS
def test_created_volume_reads_as_zeros_and_takes_no_space(tmp_path: Path, image_format: str) -> None:
    volume = Volume(tmp_path, image_format, 1 << 30).create()
    path, real = volume.active
    assert (path.name, real) == (f"volume-{volume.id}", image_format)
    status = path.stat()
    assert status.st_blocks * 512 <= 16 * KIB
    assert stat.S_IMODE(status.st_mode) == 0o660
    assert listing(tmp_path) == [path.name]
    chains.create(tmp_path, NAMING, volume.id, 1 << 30, attempt(), format=image_format)
    if image_format == "qcow2":
        assert is_clean(path)


@FORMATS
def test_thick_volume_has_its_space(tmp_path: Path, image_format: str) -> None:
    volume = Volume(tmp_path, image_format, 3 * MIB)
    chains.create(tmp_path, NAMING, volume.id, 3 * MIB, attempt(), format=image_format, thick=True)
    assert volume.active[0].stat().st_blocks * 512 >= 3 * MIB
    volume.verify()


def test_mode_is_what_the_naming_says_whatever_the_umask(tmp_path: Path) -> None:
    naming, volume_id = chains.Naming(mode=0o666), new_id()
    before = os.umask(0o077)
    try:
        chains.create(tmp_path, naming, volume_id, MIB, attempt())
        chains.snapshot(tmp_path, naming, volume_id, new_id(), MIB, attempt(), format="raw")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o666}


def test_names_and_info_are_those_of_cinder(tmp_path: Path) -> None:
    volume = Volume(tmp_path, "raw", MIB).create()
    first, second = volume.snapshot(), volume.snapshot()
    base = f"volume-{volume.id}"
    assert sorted(listing(tmp_path)) == sorted([base, f"{base}.{first}", f"{base}.{second}", f"{base}.info"])
    text = (tmp_path / f"{base}.info").read_text()
    table = {"active": f"{base}.{second}", first: f"{base}.{first}", second: f"{base}.{second}"}
    assert text == json.dumps(table, indent=1, sort_keys=True)
    volume.delete_snapshot(second)
    volume.delete_snapshot(first)
    assert json.loads((tmp_path / f"{base}.info").read_text()) == {"active": base}
    chains.delete(tmp_path, NAMING, volume.id, attempt())
    assert listing(tmp_path) == []


def test_names_with_an_extension(tmp_path: Path) -> None:
    naming, volume_id, snapshot_id = chains.Naming(extension="img"), new_id(), new_id()
    chains.create(tmp_path, naming, volume_id, MIB, attempt())
    chains.snapshot(tmp_path, naming, volume_id, snapshot_id, MIB, attempt(), format="raw")
    base = f"volume-{volume_id}"
    assert set(listing(tmp_path)) == {f"{base}.{snapshot_id}.img", f"{base}.img", f"{base}.img.info"}
    assert {item.kind for item in chains.inventory(tmp_path, naming)} == {"volume", "snapshot", "metadata"}
    chains.delete_snapshot(tmp_path, naming, volume_id, snapshot_id, attempt(), format="raw")
    chains.delete(tmp_path, naming, volume_id, attempt())
    assert listing(tmp_path) == []


@FORMATS
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1)])
@pytest.mark.parametrize("written", [True, False])
def test_snapshots_go_in_any_order(
    tmp_path: Path, image_format: str, order: tuple[int, ...], written: bool
) -> None:
    volume = Volume(tmp_path, image_format, MIB).create()
    volume.write(0, MIB, 1)
    made = []
    for number in range(3):
        made.append(volume.snapshot())
        if written:
            volume.write(64 * KIB * number, 192 * KIB, 10 + number)
            volume.write_zeros(512 * KIB + 64 * KIB * number, 100 * KIB)
    for number in order:
        volume.delete_snapshot(made[number])
        volume.verify()
    assert volume.active[0].name == NAMING.volume(volume.id)


@FORMATS
def test_volume_grows_between_snapshots_and_each_keeps_its_bytes(tmp_path: Path, image_format: str) -> None:
    volume = Volume(tmp_path, image_format, MIB + 512).create()
    volume.write(0, 2 * MIB, 1)
    first = volume.snapshot()
    volume.extend(2 * MIB + 1024)
    volume.write(MIB, MIB + 1024, 2)
    second = volume.snapshot()
    volume.extend(3 * MIB)
    volume.verify()
    for snapshot_id in (first, second, first):
        volume.revert(snapshot_id)
        volume.verify()
    volume.write(2 * MIB + 512, 4096, 7)
    volume.delete_snapshot(first)
    volume.verify()
    volume.delete_snapshot(second)
    volume.verify()


@FORMATS
def test_empty_overlay_longer_than_its_base_lengthens_it(tmp_path: Path, image_format: str) -> None:
    volume = Volume(tmp_path, image_format, MIB).create()
    snapshot_id = volume.snapshot()
    volume.extend(5 * MIB)
    volume.delete_snapshot(snapshot_id)
    volume.verify()


def compress(volume: Volume, name: str, backing: str, backing_format: str) -> None:
    """Let qemu-img write an image again, compressed, as an imported one may be."""
    command = [
        *["qemu-img", "convert", "-c", "-f", "qcow2", "-O", "qcow2", "-B"],
        backing,
        "-F",
        backing_format,
    ]
    subprocess.run([*command, name, "squeezed"], check=True, cwd=volume.directory)
    (volume.directory / "squeezed").rename(volume.directory / name)


def test_compressed_clusters_are_understood_everywhere(tmp_path: Path) -> None:
    volume = Volume(tmp_path, "raw", MIB).create()
    volume.write(0, MIB, 1)
    first = volume.snapshot()
    volume.write(0, 256 * KIB, 2)
    second = volume.snapshot()
    volume.write(128 * KIB, 256 * KIB, 3)
    compress(volume, NAMING.overlay(volume.id, second), NAMING.overlay(volume.id, first), "qcow2")
    compress(volume, NAMING.overlay(volume.id, first), NAMING.volume(volume.id), "raw")
    copied = Volume(tmp_path, "raw", MIB)
    chains.copy(tmp_path, NAMING, volume.id, None, tmp_path, copied.id, MIB, attempt(), source_format="raw")
    copied.model = bytearray(volume.model)
    copied.verify()
    volume.extend(2 * MIB)
    volume.revert(first)
    volume.verify()
    volume.revert(second)
    volume.verify()
    volume.write(0, 64 * KIB, 4)
    volume.delete_snapshot(first)
    volume.verify()
    volume.delete_snapshot(second)
    volume.verify()


@FORMATS
@pytest.mark.parametrize("result_format", ["raw", "qcow2"])
@pytest.mark.parametrize("of_snapshot", [True, False])
def test_copy_has_the_content_and_zeros_beyond(
    tmp_path: Path, image_format: str, result_format: str, of_snapshot: bool
) -> None:
    source_directory, directory = tmp_path / "one", tmp_path / "two"
    source_directory.mkdir()
    directory.mkdir()
    source = Volume(source_directory, image_format, MIB + 1536).create()
    source.write(4096, 300 * KIB, 1)
    source.snapshot()
    source.write(128 * KIB, 64 * KIB, 2)
    chosen = source.snapshot()
    source.write_zeros(0, 256 * KIB)
    expected = source.snapshots[chosen] if of_snapshot else bytes(source.model)
    result = Volume(directory, result_format, 2 * MIB)
    for _repeat in range(2):
        chains.copy(
            source_directory,
            NAMING,
            source.id,
            chosen if of_snapshot else None,
            directory,
            result.id,
            2 * MIB,
            attempt(),
            source_format=image_format,
            format=result_format,
        )
    result.model[: len(expected)] = expected
    result.verify()
    source.verify()


def test_copy_stays_sparse(tmp_path: Path) -> None:
    source = Volume(tmp_path, "raw", 1 << 30).create()
    source.write(512 * MIB, MIB, 3)
    result = new_id()
    chains.copy(tmp_path, NAMING, source.id, None, tmp_path, result, 1 << 30, attempt(), source_format="raw")
    path = tmp_path / NAMING.volume(result)
    assert path.stat().st_blocks * 512 <= 2 * MIB
    subprocess.run(["cmp", source.active[0], path], check=True)


def test_raw_volume_with_a_qcow2_header_stays_raw(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret" * 100_000)
    volume = Volume(tmp_path, "raw", MIB).create()
    path = tmp_path / NAMING.volume(volume.id)
    header = [*["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw"], "-b", str(secret), "evil", "1M"]
    subprocess.run(header, cwd=tmp_path, check=True)
    evil = (tmp_path / "evil").read_bytes().ljust(MIB, b"\0")[:MIB]
    (tmp_path / "evil").unlink()
    secret_bytes = secret.read_bytes()
    secret.unlink()
    path.write_bytes(evil)
    volume.model = bytearray(evil)
    first = volume.snapshot()
    second = volume.snapshot()
    volume.revert(first)
    volume.verify()
    volume.delete_snapshot(first)
    volume.delete_snapshot(second)
    volume.extend(2 * MIB)
    volume.verify()
    assert secret_bytes[:4096] not in path.read_bytes()


def test_repeating_a_finished_verb_changes_nothing(tmp_path: Path) -> None:
    volume = Volume(tmp_path, "raw", MIB).create()
    volume.write(0, 4096, 1)
    first, second = volume.snapshot(), volume.snapshot()
    volume.write(0, 4096, 2)
    chains.snapshot(tmp_path, NAMING, volume.id, first, MIB, attempt(), format="raw")
    volume.verify()
    for _repeat in range(3):
        volume.revert(first)
        volume.verify()
    volume.delete_snapshot(first)
    chains.delete_snapshot(tmp_path, NAMING, volume.id, first, attempt(), format="raw")
    volume.extend(2 * MIB)
    assert chains.extend(tmp_path, NAMING, volume.id, MIB, attempt(), format="raw") == "raw"
    volume.verify()
    assert set(volume.snapshots) == {second}
    for _repeat in range(2):
        chains.delete(tmp_path, NAMING, volume.id, attempt())
    assert listing(tmp_path) == []


def test_what_is_not_there(tmp_path: Path) -> None:
    volume = Volume(tmp_path, "raw", MIB)
    with pytest.raises(NotFoundError, match=volume.id):
        chains.snapshot(tmp_path, NAMING, volume.id, new_id(), MIB, attempt(), format="raw")
    chains.delete_snapshot(tmp_path, NAMING, volume.id, new_id(), attempt(), format="raw")
    chains.delete(tmp_path, NAMING, volume.id, attempt())
    volume.create()
    missing = new_id()
    with pytest.raises(NotFoundError, match=missing):
        chains.revert(tmp_path, NAMING, volume.id, missing, MIB, attempt(), format="raw")


@pytest.mark.parametrize("virtual_bytes", [0, -512, 511, 1 << 62, 1 << 63])
@FORMATS
def test_impossible_sizes(tmp_path: Path, virtual_bytes: int, image_format: str) -> None:
    with pytest.raises(InvalidInputError, match=str(virtual_bytes)):
        chains.create(tmp_path, NAMING, new_id(), virtual_bytes, attempt(), format=image_format)
    volume = Volume(tmp_path, image_format, MIB).create()
    with pytest.raises(InvalidInputError, match=str(virtual_bytes)):
        chains.extend(tmp_path, NAMING, volume.id, virtual_bytes, attempt(), format=image_format)
    volume.verify()


def test_copy_into_too_few_bytes_leaves_nothing(tmp_path: Path) -> None:
    source = Volume(tmp_path, "raw", 2 * MIB).create()
    with pytest.raises(InvalidInputError, match=str(2 * MIB)):
        chains.copy(
            tmp_path, NAMING, source.id, None, tmp_path, new_id(), MIB, attempt(), source_format="raw"
        )
    assert listing(tmp_path) == [NAMING.volume(source.id)]


@pytest.mark.parametrize("identity", ["", "x", "../../etc/passwd", SOME_ID.upper(), "a\nb", f"{SOME_ID}\n"])
def test_only_ids_become_file_names(tmp_path: Path, identity: str) -> None:
    with pytest.raises(InvalidInputError):
        chains.create(tmp_path, NAMING, identity, MIB, attempt())
    with pytest.raises(InvalidInputError):
        chains.snapshot(tmp_path, NAMING, new_id(), identity, MIB, attempt(), format="raw")
    assert listing(tmp_path) == []


def test_cancel_before_publishing_leaves_nothing(tmp_path: Path) -> None:
    source = Volume(tmp_path, "raw", MIB).create()
    source.write(0, MIB, 1)
    snapshot_id = source.snapshot()
    before = sorted(listing(tmp_path))
    stopped = Attempt(operation_id=new_id(), token="a", cancelled=lambda: True)
    with pytest.raises(CancelledOperationError):
        chains.copy(tmp_path, NAMING, source.id, None, tmp_path, new_id(), MIB, stopped, source_format="raw")
    with pytest.raises(CancelledOperationError):
        chains.create(tmp_path, NAMING, new_id(), MIB, stopped)
    with pytest.raises(CancelledOperationError):
        chains.delete_snapshot(tmp_path, NAMING, source.id, snapshot_id, stopped, format="raw")
    with pytest.raises(CancelledOperationError):
        chains.snapshot(tmp_path, NAMING, source.id, new_id(), MIB, stopped, format="raw")
    with pytest.raises(CancelledOperationError):
        chains.revert(tmp_path, NAMING, source.id, snapshot_id, MIB, stopped, format="raw")
    assert sorted(listing(tmp_path)) == before
    source.verify()


def test_foreign_file_under_a_new_volumes_name(tmp_path: Path) -> None:
    volume_id = new_id()
    path = tmp_path / NAMING.volume(volume_id)
    path.write_text("somebody's notes")
    with pytest.raises(CorruptError, match=volume_id):
        chains.create(tmp_path, NAMING, volume_id, MIB, attempt())
    assert path.read_text() == "somebody's notes"
