"""What the contract's suite does not ask of object stores: images, adopting, room, collections, refusals."""

import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
import pytest
from rest_storage import RestStorage, key, soon

from breezeblock import vault
from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Snapshot, Volume
from breezeblock.backends.registry import read_config
from breezeblock.backends.rest import RestBackend, open_rest
from breezeblock.backends.rest_config import RestPool, memory, store_config
from breezeblock.errors import (
    CancelledOperationError,
    ConfigError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
)
from breezeblock.objects import serving
from breezeblock.objects.log import format as form
from breezeblock.objects.log import opening, volumes
from breezeblock.objects.stores.port import Store, everything
from cdmi_process import PASSWORD, USER, cdmi_server

MIB = 1 << 20


def attempt(operation: str = "") -> Attempt:
    return Attempt(operation_id=operation or str(uuid4()), token=uuid4().hex)


def volume(length: int = 8 * MIB, **options: str) -> Volume:
    return Volume(id=str(uuid4()), virtual_bytes=length, pool="gold", options=options)


def snapshot_of(one: Volume, name: str = "") -> Snapshot:
    return Snapshot(id=name or str(uuid4()), volume_id=one.id, virtual_bytes=one.virtual_bytes)


@pytest.fixture
def storage() -> Iterator[RestStorage]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        (Path(directory) / "store").mkdir()
        pool = RestPool(store="directory", urls=[f"{directory}/store"])
        yield RestStorage(Path(directory), pool)


@pytest.fixture
def backend(storage: RestStorage) -> RestBackend:
    return open_rest("rest", storage.config, storage.state)


@pytest.mark.parametrize("image_format", ["raw", "qcow2", "vhd", "vhdx"])
def test_images_go_in_and_come_out(
    backend: RestBackend, storage: RestStorage, tmp_path: Path, image_format: str
) -> None:
    raw, image, out = (tmp_path / name for name in ("raw", f"in.{image_format}", "out"))
    raw.write_bytes(b"begin".ljust(2 * MIB, b"\0") + b"middle".ljust(2 * MIB, b"\1"))
    flags = {"vhd": ["-O", "vpc", "-o", "force_size=on"]}.get(image_format, ["-O", image_format])
    subprocess.run(["qemu-img", "convert", "-f", "raw", *flags, raw, image], check=True)
    one = volume()
    backend.import_image(one, str(image), image_format, attempt())
    assert storage.read(one) == raw.read_bytes() + bytes(4 * MIB)
    backend.import_image(one, str(image), image_format, attempt())
    held = snapshot_of(one)
    backend.snapshot(one, held, attempt())
    storage.write(one, 0, b"changed".ljust(4096, b"\0"))
    backend.export_image(one, held, str(out), image_format, attempt())
    name = {"vhd": "vpc"}.get(image_format, image_format)
    subprocess.run(["qemu-img", "convert", "-f", name, "-O", "raw", out, tmp_path / "back"], check=True)
    assert (tmp_path / "back").read_bytes()[: 8 * MIB] == raw.read_bytes() + bytes(4 * MIB)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["back", image.name, "out", "raw"])


def test_settings_say_how_volumes_are_written(storage: RestStorage) -> None:
    pool = msgspec.structs.replace(storage.pool, zstd_level=3)
    packed = replace(storage, pool=pool)
    one = volume()
    backend = open_rest("rest", packed.config, packed.state)
    backend.create(one, attempt())
    with backend.open_data(one, writable=True) as data:
        data.write(0, b"compressible" * (MIB // 12))
    held = storage.run(lambda store: everything(store, f"v/{key(one)}/seg/"))
    assert sum(item.length for item in held) < MIB // 4
    assert storage.read(one)[:12] == b"compressible"
    config = msgspec.structs.replace(packed.config, cache_bytes=8 * MIB, dirty_bytes=9 * MIB, dirty_s=1.5)
    assert memory(config, "gold") == volumes.Memory(
        cache_bytes=8 * MIB, dirty_segments=2, age_s=1.5, zstd_level=3
    )


def test_an_import_that_was_stopped_is_no_volume_and_is_swept(
    backend: RestBackend, storage: RestStorage, tmp_path: Path
) -> None:
    backend.stats()
    before = storage.names()
    (tmp_path / "image").write_bytes(b"x" * (8 * MIB))
    one, looks = volume(), iter([False, False])
    stopped = Attempt(operation_id="op", token="t", cancelled=lambda: next(looks, True))
    with pytest.raises(CancelledOperationError):
        backend.import_image(one, str(tmp_path / "image"), "raw", stopped)
    with pytest.raises(NotFoundError):
        backend.connection_info(one, {})
    (found,) = backend.inventory()
    assert (found.kind, found.volume_id) == ("temporary", one.id)
    assert backend.sweep(frozenset({"op"})) == []
    assert backend.sweep(frozenset()) == [found.name]
    assert storage.names() == before


def test_a_volume_that_another_service_swept_is_not_said_to_be_there(
    backend: RestBackend, storage: RestStorage, tmp_path: Path
) -> None:
    (tmp_path / "image").write_bytes(b"x" * (8 * MIB))
    looks = 0

    def swept() -> bool:
        nonlocal looks
        looks += 1
        if looks == 3:
            assert len(backend.sweep(frozenset())) == 1
        return False

    with pytest.raises(ConflictError, match="removed while it was made"):
        backend.import_image(
            volume(), str(tmp_path / "image"), "raw", Attempt(operation_id="op", token="t", cancelled=swept)
        )


def test_what_is_too_small_or_no_image_is_refused(backend: RestBackend, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"x" * (9 * MIB))
    with pytest.raises(InvalidInputError, match="the volume only"):
        backend.import_image(volume(), str(tmp_path / "image"), "raw", attempt())
    (tmp_path / "image").write_bytes(b"QFI\xfb".ljust(MIB, b"\0"))
    with pytest.raises(InvalidInputError, match="begins like"):
        backend.import_image(volume(), str(tmp_path / "image"), "raw", attempt())
    for wanted in (volume(clone="sometimes"), volume(colour="red")):
        with pytest.raises(InvalidInputError, match="no option"):
            backend.create(wanted, attempt())


def test_a_released_volume_comes_back_with_its_snapshots(backend: RestBackend, storage: RestStorage) -> None:
    one = volume()
    backend.create(one, attempt())
    taken = [snapshot_of(one) for _ in range(3)]
    for number, held in enumerate(taken):
        storage.write(one, number * 4096, bytes([number + 1]) * 4096)
        backend.snapshot(one, held, attempt())
    reference = backend.release(one, attempt())
    assert reference in {found.name for found in backend.inventory()}
    found = backend.adopt(one, reference, attempt())
    assert (found.virtual_bytes, found.edits) == (8 * MIB, ())
    assert [held.id for held in found.snapshots] == [held.id for held in taken]
    assert backend.check(one, found.snapshots) == []


def test_a_volume_of_another_name_is_taken_over_without_copying(
    backend: RestBackend, storage: RestStorage
) -> None:
    old, new = volume(), volume()
    backend.create(old, attempt())
    storage.write(old, MIB, b"o" * 4096)
    held = snapshot_of(old)
    backend.snapshot(old, held, attempt())
    with pytest.raises(ConflictError, match="has snapshots"):
        backend.examine(new, f"volume-{old.id}")
    backend.delete_snapshot(old, held, attempt())
    with pytest.raises(InvalidInputError, match="not 4096"):
        backend.examine(Volume(id=new.id, virtual_bytes=4096, pool="gold"), old.id)
    assert backend.examine(new, key(old)).edits
    for _ in range(2):
        assert backend.adopt(new, key(old), attempt()).virtual_bytes == 8 * MIB
    assert storage.read(new)[MIB : MIB + 4096] == b"o" * 4096
    for absent in (old.id, "volume-x", str(uuid4())):
        with pytest.raises(NotFoundError):
            backend.examine(new, absent)
    assert backend.check(new, ()) == []


def test_what_clones_need_outlives_its_volume_and_nothing_else_does(
    backend: RestBackend, storage: RestStorage
) -> None:
    backend.stats()
    source, clone = volume(), volume()
    backend.create(source, attempt())
    storage.write(source, 0, b"a" * MIB)
    held = snapshot_of(source)
    backend.snapshot(source, held, attempt())
    backend.create_from_snapshot(source, held, clone, attempt())
    storage.write(source, 0, b"b" * MIB)
    backend.delete(source, attempt())
    for _ in range(3):
        backend.collect()
    assert storage.read(clone)[:MIB] == b"a" * MIB
    assert {found.kind for found in backend.inventory() if source.id in found.name} == {"kept"}
    assert backend.check(clone, ()) == []
    backend.delete(clone, attempt())
    for _ in range(3):
        backend.collect()
    left = {item.key.split("/")[0] for item in storage.run(lambda store: everything(store, ""))}
    assert left == {"pool", "gc"}


@pytest.mark.parametrize("held", ["at rest", "served here", "in use elsewhere"])
def test_room_in_segments_of_which_little_lives_comes_back(
    backend: RestBackend, storage: RestStorage, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    monkeypatch.setattr(form, "STILL_S", 0.0)
    one = volume(16 * MIB)
    backend.create(one, attempt())

    async def fill(store: Store) -> None:
        device = await volumes.attach(store, key(one))
        for first in (0, 64 << 10):
            for at in range(first, 8 * MIB, MIB):
                await soon(device.write(at, memoryview(bytes([at // MIB + 1]) * MIB)))
        await device.writer.checkpoint()
        if held == "in use elsewhere":
            await device.writer.stop()
        else:
            await device.close()

    storage.run(fill)
    expected = storage.read(one)
    task = serving.Task(
        store=store_config(storage.pool, "", storage.state),
        volume=key(one),
        socket=Path(storage.config.run_dir, key(one)),
        journal=storage.state / "journal",
    )
    if held == "served here":
        task.socket.parent.mkdir()
        serving.start(task)
    epoch = storage.run(lambda store: opening.newest(store, key(one))).epoch
    try:
        for _ in range(3):
            backend.collect()
    finally:
        if held == "served here":
            serving.call(task.socket, serving.Detach())
    seen = storage.run(lambda store: opening.newest(store, key(one)))
    there = {item.key for item in storage.run(lambda store: everything(store, f"v/{key(one)}/seg/"))}
    sparse = form.segment_key(key(one), form.WINDOW) in there
    assert sparse == (held == "in use elsewhere")
    assert (seen.epoch > epoch) == (held == "at rest")
    assert storage.read(one) == expected


def test_a_damaged_volume_is_told_of_in_particular(backend: RestBackend, storage: RestStorage) -> None:
    one = volume()
    backend.create(one, attempt())
    held = snapshot_of(one)
    storage.write(one, 0, b"a" * MIB)
    backend.snapshot(one, held, attempt())

    async def lose(store: object) -> None:
        for item in await everything(store, f"v/{key(one)}/seg/"):  # type: ignore[arg-type]
            await store.delete(item.key)  # type: ignore[attr-defined]

    storage.run(lose)
    (found,) = [one for one in backend.check(one, (held,)) if one.subject == held.id]
    assert "gone" in found.problem


def test_a_store_of_ours_tells_its_room_and_needs_the_password(tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir()
    with cdmi_server(tmp_path / "objects") as url:
        vault.at(tmp_path).set("cdmi", PASSWORD)
        pool = RestPool(store="cdmi", urls=[f"{url}/here"], user=USER, secret="cdmi")
        backend = open_rest("rest", RestStorage(tmp_path, pool).config, tmp_path)
        (seen,) = backend.stats()
        assert seen.up, seen.reason
        assert seen.total_bytes is not None
        assert 0 < (seen.free_bytes or 0) < seen.total_bytes
        vault.at(tmp_path).set("cdmi", "another")
        (seen,) = backend.stats()
        assert not seen.up
        assert "another" not in seen.reason
    (seen,) = backend.stats()
    assert not seen.up
    assert seen.reason


def test_a_pool_that_was_exchanged_is_refused(backend: RestBackend, storage: RestStorage) -> None:
    one = volume()
    backend.create(one, attempt())
    store = storage.state / "store"
    store.rename(storage.state / "elsewhere")
    store.mkdir()  # as a mount point without its file system
    (seen,) = backend.stats()
    assert not seen.up
    assert not list(store.rglob("v"))
    store.rename(storage.state / "empty")
    (storage.state / "elsewhere").rename(store)
    assert backend.stats()[0].up
    assert storage.run(volumes.volumes) == [UUID(one.id).hex]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pools": {}}, "pools"),
        ({"pools": {"p": {"store": "tape", "urls": ["/a"]}}}, "store"),
        ({"pools": {"p": {"store": "directory", "urls": ["relative"]}}}, "absolute path"),
        ({"pools": {"p": {"store": "cdmi", "urls": []}}}, "urls"),
        ({"pools": {"p": {"store": "cdmi", "urls": ["https://a"], "user": "u"}}}, "needs `secret`"),
        ({"pools": {"p": {"store": "cdmi", "urls": ["http://a"], "user": "u", "secret": "s"}}}, "use https"),
        *(
            (
                {"pools": {"p": {"store": "cdmi", "urls": [url], "user": "u", "secret": "s"}}},
                "password would be readable",
            )
            for url in ("HTTP://a", "http://127.a.example/", "http://localhost.example", "http://[::2]/")
        ),
        (
            {"pools": {name: {"store": "directory", "urls": ["/a/"]} for name in "pq"}},
            "names one store twice",
        ),
        ({"pools": {"p": {"store": "directory", "urls": ["/a"]}}, "run_dir": "/" + "x" * 60}, "run_dir"),
    ],
)
def test_bad_settings_say_what_is_wrong(change: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config({"kind": "rest", **change}, "file.toml: backends.x")
    assert says in str(caught.value)
