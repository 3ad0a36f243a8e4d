"""What a local pool does with volumes of several formats: names, clones between them, taking over."""

from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from breezeblock import images
from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Placement, Snapshot, Volume
from breezeblock.backends.files import FileBackend
from breezeblock.backends.local import LocalConfig, open_local
from breezeblock.errors import ConflictError, InvalidInputError, NotFoundError

GIB, MIB = 1 << 30, 1 << 20


@pytest.fixture
def backend(tmp_path: Path) -> FileBackend:
    made = open_local("here", LocalConfig(path=str(tmp_path / "pool")), tmp_path)
    made.start()
    return made


def attempt() -> Attempt:
    return Attempt(operation_id=str(uuid4()), token="1")


def volume(**options: str) -> Volume:
    return Volume(id=str(uuid4()), virtual_bytes=MIB, pool="here", depth=1, options=options)


def placed(one: Volume, placement: Placement) -> Volume:
    return msgspec.structs.replace(one, format=placement.format, depth=placement.depth)


def names(backend: FileBackend) -> set[str]:
    return {path.name for path in backend.places.directory("here").iterdir()}


def made(backend: FileBackend, image_format: str) -> Volume:
    one = volume(format=image_format)
    return placed(one, backend.create(one, attempt()))


def test_a_consumer_is_told_the_file_and_its_format(backend: FileBackend) -> None:
    one = made(backend, "vhdx")
    told = backend.connection_info(one, {}).data
    assert (told["name"], told["format"]) == (f"volume-{one.id}.vhdx", "vhdx")


@pytest.mark.parametrize("kind", ["vhd", "vhdx"])
def test_a_linked_clone_is_what_its_source_is(backend: FileBackend, kind: str) -> None:
    source, clone = made(backend, kind), volume()
    done = backend.clone(source, clone, attempt())
    assert (done.format, done.parent) == (kind, source.id)
    assert f"volume-{clone.id}.{kind}" in names(backend)
    # Nobody lived to note its format: what was made goes all the same.
    backend.delete(clone, attempt())
    assert not [name for name in names(backend) if name.startswith(f"volume-{clone.id}")]
    backend.delete(source, attempt())
    assert names(backend) == set()


@pytest.mark.parametrize("kind", ["raw", "qcow2", "vhd"])
def test_a_clone_of_another_format_is_a_copy(backend: FileBackend, kind: str) -> None:
    source, clone = made(backend, "vhdx"), volume(format=kind)
    done = backend.clone(source, clone, attempt())
    assert (done.format, done.parent) == (kind, "")
    assert (f"volume-{clone.id}.vhd" if kind == "vhd" else f"volume-{clone.id}") in names(backend)
    with pytest.raises(InvalidInputError, match="it is to be"):
        backend.clone(source, volume(format=kind, clone="linked"), attempt())


@pytest.mark.parametrize("kind", ["vhd", "vhdx"])
def test_a_clone_of_another_length_is_linked_only_where_all_can_read_it(
    backend: FileBackend, kind: str, tmp_path: Path
) -> None:
    source, directory = made(backend, kind), backend.places.directory("here")
    images.write(directory / f"volume-{source.id}.{kind}", 0, [b"old!" * 128], kind)
    taken = Snapshot(id=str(uuid4()), volume_id=source.id, virtual_bytes=MIB)
    backend.snapshot(source, taken, attempt())
    backend.extend(source, 2 * MIB, attempt())
    source = msgspec.structs.replace(source, virtual_bytes=2 * MIB, depth=2)
    # As long as the snapshot, whose image is longer by now: a copy of its part.
    small = volume(format=kind)
    assert backend.create_from_snapshot(source, taken, small, attempt()).parent == ""
    assert backend.check(msgspec.structs.replace(small, format=kind), ()) == []
    with pytest.raises(InvalidInputError, match="shorter than"):
        backend.create_from_snapshot(source, taken, volume(format=kind, clone="linked"), attempt())
    # As long as the source is: linked. Longer: only where the format's own programs do so.
    for length, shares in ((2 * MIB, True), (3 * MIB, kind == "vhdx")):
        one = msgspec.structs.replace(volume(format=kind), virtual_bytes=length)
        assert (backend.create_from_snapshot(source, taken, one, attempt()).parent != "") == shares
        asked = msgspec.structs.replace(volume(format=kind, clone="linked"), virtual_bytes=length)
        assert backend.create_from_snapshot(source, taken, asked, attempt()).parent == source.id
        found = b"".join(images.read(directory / f"volume-{one.id}.{kind}", 0, length, kind))
        assert found == (b"old!" * 128).ljust(length, b"\0")
    out = tmp_path / "out.raw"
    backend.export_image(source, taken, str(out), "raw", attempt())
    assert out.read_bytes() == (b"old!" * 128).ljust(MIB, b"\0")


def test_a_volume_is_taken_over_by_its_id_alone(backend: FileBackend) -> None:
    """As the API has it: the extension is the back end's affair."""
    directory, volume_id = backend.places.directory("here"), str(uuid4())
    images.create(directory / f"volume-{volume_id}.vhdx", "vhdx", GIB)
    asked = Volume(id=volume_id, virtual_bytes=0, pool="here")
    for reference in (f"volume-{volume_id}", f"volume-{volume_id}.vhdx"):
        assert backend.examine(asked, reference).volume.format == "vhdx"
        assert backend.adopt(asked, reference, attempt()).volume.format == "vhdx"
    assert names(backend) == {f"volume-{volume_id}.vhdx"}
    known = msgspec.structs.replace(asked, format="vhdx")
    assert backend.release(known, attempt()) == f"volume-{volume_id}.vhdx"
    images.create(directory / f"volume-{volume_id}.vhd", "vhd", GIB)
    with pytest.raises(ConflictError, match="more than once"):
        backend.examine(asked, f"volume-{volume_id}")
    assert backend.examine(known, f"volume-{volume_id}").volume.format == "vhdx"
    nobody = str(uuid4())
    with pytest.raises(NotFoundError):
        backend.examine(Volume(id=nobody, virtual_bytes=0, pool="here"), f"volume-{nobody}")
