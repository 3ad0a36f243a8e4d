"""Families of linked clones at the level of files: who removes what, and what two do at once."""

import json
import threading
from pathlib import Path

import pytest
from chainlab import KIB, MIB, NAMING, Volume, attempt, backing_names, content, new_id

from breezeblock import chains
from breezeblock.errors import ConflictError, CorruptError
from breezeblock.shares.files import listing

ABOVE = {"raw": "qcow2", "qcow2": "qcow2", "vhd": "vhd", "vhdx": "vhdx"}


def cloned(source: Volume, snapshot_id: str | None = None) -> Volume:
    made = Volume(source.directory, ABOVE[source.format], len(source.model))
    chains.clone(
        source.directory,
        source.naming,
        source.id,
        snapshot_id,
        made.id,
        len(source.model),
        attempt(),
        source_format=source.format,
    )
    made.model[:] = source.snapshots[snapshot_id] if snapshot_id else source.model
    return made


def reads(volume: Volume) -> None:
    assert content(*volume.active) == volume.model
    found = chains.check(
        volume.directory, NAMING, volume.id, list(volume.snapshots), len(volume.model), volume.format
    )
    assert found == []


def delete(volume: Volume) -> None:
    chains.delete(volume.directory, NAMING, volume.id, attempt())


def parent_of(volume: Volume) -> str:
    table = json.loads((volume.directory / NAMING.info(volume.id)).read_text())
    return str(table["parent"])


def test_everything_that_is_kept_goes_with_the_last_user(tmp_path: Path) -> None:
    volume = Volume(tmp_path, "raw", MIB).create()
    volume.write(0, 200 * KIB, 1)
    first = volume.snapshot()
    volume.write(0, 100 * KIB, 2)
    one, two = cloned(volume, first), cloned(volume)
    three = cloned(one)
    delete(volume)
    delete(one)
    for left in (two, three):
        reads(left)
    delete(two)
    reads(three)
    delete(three)
    assert listing(tmp_path) == []


@pytest.mark.parametrize("order", [1, -1])
def test_a_deletion_cut_off_anywhere_finds_the_rest(
    tmp_path: Path, order: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the order of the overlays' names: what is above a frozen image is found by its chain alone."""
    volume = Volume(tmp_path, "raw", MIB).create()
    below, middle, top = sorted((new_id() for _number in range(3)), reverse=order < 0)
    volume.snapshot(below)
    clone = cloned(volume, below)
    volume.snapshot(middle)
    volume.snapshot(top)
    unlink = Path.unlink
    done: list[Path] = []

    def stop_after_one(path: Path, missing_ok: bool = False) -> None:
        if path.name.startswith(f"volume-{volume.id}."):
            if done:
                raise KeyboardInterrupt
            done.append(path)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        delete(volume)
    monkeypatch.undo()
    delete(volume)
    reads(clone)
    delete(clone)
    assert listing(tmp_path) == []


@pytest.mark.parametrize("round_number", range(20))
def test_parent_and_clones_deleted_at_the_same_moment(tmp_path: Path, round_number: int) -> None:
    """Each is held by its own operation, so only the directory of names stands between them."""
    volume = Volume(tmp_path, ("raw", "qcow2")[round_number % 2], MIB).create()
    volume.write(0, 64 * KIB, 1)
    volume.snapshot()
    members = [volume, *(cloned(volume) for _ in range(3))]
    members.append(cloned(members[-1]))
    start = threading.Barrier(len(members))
    failures: list[BaseException] = []

    def go(member: Volume) -> None:
        try:
            start.wait()
            delete(member)
        except BaseException as error:  # noqa: BLE001 - reported below
            failures.append(error)

    threads = [threading.Thread(target=go, args=(member,)) for member in members]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert listing(tmp_path) == []


def test_a_frozen_image_is_not_touched(tmp_path: Path) -> None:
    volume = Volume(tmp_path, "raw", MIB).create()
    volume.write(0, 200 * KIB, 1)
    first = volume.snapshot()
    volume.write(0, 100 * KIB, 2)
    second = volume.snapshot()
    volume.write(4096, 4096, 3)
    clone = cloned(volume, second)
    base = tmp_path / NAMING.volume(volume.id)
    overlay = tmp_path / NAMING.overlay(volume.id, first)
    before = [path.read_bytes() for path in (base, overlay)]
    volume.delete_snapshot(first)
    volume.delete_snapshot(second)
    volume.write(0, MIB, 4)
    volume.extend(2 * MIB)
    volume.snapshot()
    chains.shorten(tmp_path, NAMING, volume.id, attempt(), format="raw")
    assert [path.read_bytes() for path in (base, overlay)] == before
    reads(clone)
    reads(volume)
    delete(clone)
    chains.shorten(tmp_path, NAMING, volume.id, attempt(), format="raw")
    volume.verify()


NOBODY = "62f723f1-32ce-47bc-b759-14ff897cf8b9"


@pytest.mark.parametrize(
    "parent", ["/etc/passwd", "../volume-x", "volume-x", f"volume-{NOBODY}", f"volume-{NOBODY}.info"]
)
def test_a_header_or_info_alone_leads_nowhere(tmp_path: Path, parent: str) -> None:
    """Another volume's images are read only where `.info` and the first image's header name the same one."""
    volume = Volume(tmp_path, "raw", MIB).create()
    clone = cloned(volume)
    path = tmp_path / NAMING.info(clone.id)
    table = json.loads(path.read_text())
    path.write_text(json.dumps({**table, "parent": parent}))
    with pytest.raises(CorruptError):
        chains.active(tmp_path, NAMING, clone.id, "qcow2")
    del table["parent"]
    path.write_text(json.dumps(table))
    with pytest.raises(CorruptError, match="no image of this volume"):
        chains.active(tmp_path, NAMING, clone.id, "qcow2")


def test_check_misses_the_name_that_freezes(tmp_path: Path) -> None:
    volume = Volume(tmp_path, "raw", MIB).create()
    clone = cloned(volume)
    name = tmp_path / NAMING.users(volume.id) / f"{clone.id}@{parent_of(clone)}"
    name.unlink()
    found = chains.check(tmp_path, NAMING, clone.id, [], MIB, "qcow2")
    assert [one.severity for one in found] == ["error"]
    assert NAMING.users(volume.id) in found[0].problem
    name.touch()
    (name.parent / f"{new_id()}@{parent_of(clone)}").touch()
    found = chains.check(tmp_path, NAMING, volume.id, [], MIB, "raw")
    assert [one.severity for one in found] == ["warning"]


def test_a_damaged_parent_is_not_deleted_under_its_clones(tmp_path: Path) -> None:
    volume = Volume(tmp_path, "raw", MIB).create()
    clone = cloned(volume)
    (tmp_path / NAMING.info(volume.id)).write_text("{}")
    before = sorted(listing(tmp_path))
    with pytest.raises(CorruptError, match="clones rest on it"):
        delete(volume)
    assert sorted(listing(tmp_path)) == before
    reads(clone)


@pytest.mark.parametrize(("image_format", "family"), [("raw", "plain"), ("vhd", "differencing")])
def test_a_clone_too_deep_to_be_read_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image_format: str, family: str
) -> None:
    monkeypatch.setattr(f"breezeblock.chains.{family}.MAX_LAYERS", 3)
    volume = Volume(tmp_path, image_format, 4 * MIB).create()
    volume.write(0, 4 * KIB, 1)
    oldest = volume.snapshot()
    volume.write(0, 4 * KIB, 2)
    deepest = cloned(volume)
    assert len(backing_names(*deepest.active)) == 3
    deepest.write(0, 4 * KIB, 3)
    before = sorted(listing(tmp_path))
    with pytest.raises(ConflictError, match="would rest on 3 layers; the limit is 3"):
        cloned(deepest)
    volume.write(0, 4 * KIB, 4)  # into the overlay on which it goes on since
    with pytest.raises(ConflictError, match="would rest on 3 layers"):
        cloned(volume)
    with pytest.raises(ConflictError, match="would rest on 3 layers"):
        volume.snapshot()
    assert sorted(listing(tmp_path)) == before
    assert content(*volume.active) == volume.model
    assert content(*cloned(volume, oldest).active) == volume.snapshots[oldest]
