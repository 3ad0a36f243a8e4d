"""Images into disks, disks out as images, whole and only what changed; judged by tools that are not ours."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
import pyvhdi
from xen_storage import Admin, XenStorage
from xenserver import Simulator, simulated

from breezeblock import images
from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Backend, Snapshot, Volume
from breezeblock.cli import run
from breezeblock.errors import BreezeblockError, CorruptError, InvalidInputError, UnavailableError
from breezeblock.testing import run_killed_at, trace_lines
from breezeblock.xenapi import nbd
from breezeblock.xenapi.session import Account, Session

MIB = 1 << 20


@pytest.fixture(scope="module", params=["NBD and QCOW2", "neither"])
def simulator(request: pytest.FixtureRequest) -> Iterator[Simulator]:
    able = ("--nbd", "--qcow2") if request.param != "neither" else ()
    luns = ",".join([str(4 * MIB)] * 3 + [str(8 * MIB)])
    with simulated("--http", "--coalesce-delay", "0.02", "--luns", luns, *able) as running:
        yield running


@pytest.fixture(scope="module")
def modern() -> Iterator[Simulator]:
    with simulated("--http", "--nbd", "--qcow2", "--coalesce-delay", "0.02") as running:
        yield running


def storage(simulator: Simulator, folder: Path, kind: str = "nfs") -> XenStorage:
    return XenStorage(simulator, folder, Admin(simulator).make_sr(kind, f"images {uuid4()}"), kind)


def attempt() -> Attempt:
    return Attempt(operation_id=str(uuid4()), token="1")


def new(units: int = 2) -> Volume:
    return Volume(id=str(uuid4()), virtual_bytes=units * 2 * MIB, pool="gold")


def scattered(size: int) -> bytes:
    data = bytearray(size)
    for offset in (0, 70_000, size // 2, size - 4096):
        data[offset : offset + 4096] = os.urandom(4096)
    return bytes(data)


def qemu(*arguments: object) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize("kind", ["nfs", "iscsi"])
@pytest.mark.parametrize("form", ["raw", "qcow2", "vhd", "vhdx"])
def test_an_image_becomes_a_volume(form: str, kind: str, simulator: Simulator, tmp_path: Path) -> None:
    held = storage(simulator, tmp_path, kind)
    raw, image = tmp_path / "raw", tmp_path / f"image.{form}"
    raw.write_bytes(scattered(3 * MIB))
    if form == "raw":
        raw.rename(image)
        expected = image.read_bytes()
    else:
        expected = raw.read_bytes()
        qemu("convert", "-O", {"vhd": "vpc"}.get(form, form), "-f", "raw", raw, image)
    backend, volume = held.open(), new()
    placed = backend.import_image(volume, str(image), form, attempt())
    assert backend.import_image(volume, str(image), form, attempt()) == placed
    assert simulator.read(placed.locator, volume.virtual_bytes) == expected.ljust(volume.virtual_bytes, b"\0")
    assert sorted(path.name for path in tmp_path.glob("image*")) == [image.name], "drafts are left"
    backend.delete(volume, attempt())
    backend.stop()


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        ("raw", "nfs"),
        ("qcow2", "nfs"),
        ("vhd", "nfs"),
        ("vhdx", "nfs"),
        ("raw", "lvmoiscsi"),
        ("vhd", "lvmoiscsi"),
        ("raw", "netapp"),
        ("qcow2", "netapp"),
    ],
)
def test_a_volume_or_a_snapshot_becomes_an_image(
    form: str, kind: str, simulator: Simulator, tmp_path: Path
) -> None:
    backend, volume = storage(simulator, tmp_path, kind).open(), new()
    placed = backend.create(volume, attempt())
    data = scattered(volume.virtual_bytes)
    simulator.write(placed.locator, 0, data)
    snapshot = Snapshot(id=str(uuid4()), volume_id=volume.id, virtual_bytes=volume.virtual_bytes)
    backend.snapshot(volume, snapshot, attempt())
    simulator.write(placed.locator, 8192, b"later" * 100)
    later = data[:8192] + b"later" * 100 + data[8692:]
    for one, expected in ((snapshot, data), (None, later)):
        image = tmp_path / f"image.{form}"
        for _again in range(2):
            backend.export_image(volume, one, str(image), form, attempt())
        flat = tmp_path / "flat"
        # By its geometry, which QEMU believes otherwise, a VHD of that size is a little shorter.
        driver = "driver=vpc,force_size_calc=current_size" if form == "vhd" else f"driver={form}"
        qemu("convert", "-O", "raw", "--image-opts", f"{driver},file.filename={image}", flat)
        assert flat.read_bytes() == expected
        assert image.stat().st_blocks * 512 < 5 * MIB
        assert sorted(path.name for path in tmp_path.glob("image*")) == [image.name], "drafts are left"
    backend.delete(volume, attempt())
    backend.stop()


def test_images_that_may_not_be_read_never_reach_the_pool(modern: Simulator, tmp_path: Path) -> None:
    backend = storage(modern, tmp_path).open()
    secret, image = tmp_path / "secret", tmp_path / "image"
    secret.write_bytes(bytes(MIB))
    qemu("create", "-f", "qcow2", "-F", "raw", "-b", secret, image)
    modern.do("calls", reset=True)
    with pytest.raises(CorruptError, match="not a bare file name"):
        backend.import_image(new(), str(image), "qcow2", attempt())
    with pytest.raises(InvalidInputError, match="begins like"):
        backend.import_image(new(), str(image), "raw", attempt())
    large = tmp_path / "large"
    large.write_bytes(bytes(5 * MIB))
    with pytest.raises(InvalidInputError, match="larger"):
        backend.import_image(new(), str(large), "raw", attempt())
    assert "Async.VDI.create" not in modern.do("calls")
    with pytest.raises(BreezeblockError):
        backend.export_image(new(), None, str(tmp_path / "x"), "vmdk", attempt())
    backend.stop()


def test_a_volume_in_a_machine_is_not_exported(modern: Simulator, tmp_path: Path) -> None:
    backend, volume, admin = storage(modern, tmp_path).open(), new(), Admin(modern)
    placed = backend.create(volume, attempt())
    vm = admin.ask("VM.create", {"name_label": "x"})
    record = {"VM": vm, "userdevice": "0", "mode": "RW"}
    record |= {"VDI": admin.ask("VDI.get_by_uuid", placed.locator), "type": "Disk", "other_config": {}}
    admin.ask("VBD.create", record)
    backend.export_image(volume, None, str(tmp_path / "off"), "raw", attempt())
    admin.ask("VM.start", vm, False, False)
    with pytest.raises(BreezeblockError, match="attached"):
        backend.export_image(volume, None, str(tmp_path / "x"), "raw", attempt())
    admin.ask("VM.hard_shutdown", vm)
    admin.ask("VM.destroy", vm)
    backend.delete(volume, attempt())
    backend.stop()


@pytest.mark.crash
def test_an_import_killed_anywhere_is_done_again(modern: Simulator, tmp_path: Path) -> None:
    held = storage(modern, tmp_path)
    image = tmp_path / "image"
    image.write_bytes(scattered(2 * MIB))
    packages = ("breezeblock.backends.xenserver_images", *held.packages)
    volume = new(1)
    opened: list[Backend] = []

    def act() -> None:
        opened[0].import_image(volume, str(image), "raw", attempt())

    def opening() -> None:
        opened[:] = [held.open()]

    before = held.names()
    lines = trace_lines(act, packages, before=opening)
    for moment in lines[::6]:
        backend = held.open()
        backend.delete(volume, attempt())
        run_killed_at(act, packages, moment, before=opening)
        placed = backend.import_image(volume, str(image), "raw", attempt())
        assert modern.read(placed.locator, 2 * MIB) == image.read_bytes(), moment
        backend.delete(volume, attempt())
        backend.sweep(frozenset())
        assert held.names() == before, moment
        backend.stop()


def test_nbd_is_judged_by_qemu(modern: Simulator, tmp_path: Path) -> None:
    """QEMU's own client reads our simulator, as our client does: the two ends are not made for each other."""
    held = storage(modern, tmp_path)
    backend, volume = held.open(), new(1)
    placed = backend.create(volume, attempt())
    data = scattered(volume.virtual_bytes)
    modern.write(placed.locator, 0, data)
    session = Session(Account((modern.url,), "root", "secret"))
    ref = Admin(modern).ask("VDI.get_by_uuid", placed.locator)
    first, second = nbd.offers(session, ref)
    (tmp_path / "ca-cert.pem").write_text(first.cert)
    credentials = f"tls-creds-x509,id=tls,endpoint=client,dir={tmp_path},verify-peer=yes"
    where = f"driver=nbd,server.type=inet,server.host={first.address},server.port={first.port}"
    where += f",export={first.exportname},tls-creds=tls"
    qemu("convert", "--object", credentials, "--image-opts", "-O", "raw", where, tmp_path / "read")
    assert (tmp_path / "read").read_bytes() == data
    with nbd.opened(second) as export:
        assert export.virtual_bytes == len(data)
        assert export.read(69_999, 5000) == data[69_999:74_999]
        with pytest.raises(UnavailableError, match="could not read"):
            export.read(len(data), 512)
    stranger = msgspec.structs.replace(first, exportname=first.exportname[:-1] + "x")
    with pytest.raises(UnavailableError), nbd.opened(stranger):
        pass
    other = msgspec.structs.replace(first, cert="", subject="elsewhere")
    with pytest.raises(UnavailableError, match="certificate"), nbd.opened(other):
        pass
    named = msgspec.structs.replace(first, subject="elsewhere.example.org")
    with pytest.raises(UnavailableError, match="negotiate"), nbd.opened(named):
        pass
    backend.delete(volume, attempt())
    backend.stop()
    session.close()


def test_an_nbd_server_that_breaks_is_left_for_http(modern: Simulator, tmp_path: Path) -> None:
    backend, volume = storage(modern, tmp_path).open(), new(1)
    placed = backend.create(volume, attempt())
    data = scattered(volume.virtual_bytes)
    modern.write(placed.locator, 0, data)
    modern.do("fault", method="nbd", code="VDI_IO_ERROR", times=2)
    backend.export_image(volume, None, str(tmp_path / "raw"), "raw", attempt())
    modern.do("forgive")
    assert (tmp_path / "raw").read_bytes() == data
    backend.delete(volume, attempt())
    backend.stop()


def test_only_what_changed_is_exported(modern: Simulator, tmp_path: Path) -> None:
    held = storage(modern, tmp_path)
    path = tmp_path / "breezeblock.toml"
    path.write_text(
        f'[backends.xen]\nkind = "xenserver"\nurl = "{modern.url}"\npassword_file = "{tmp_path}/password"\n'
        f'[backends.xen.pools.gold]\nsr = "{held.sr}"\ntype = "nfs"\n'
    )
    backend, volume = held.open(), new(4)
    placed = backend.create(volume, attempt())
    modern.write(placed.locator, 0, scattered(volume.virtual_bytes))

    def call(*arguments: object, code: int = 0) -> None:
        assert run(["xenserver", *map(str, arguments), "--config", str(path)]) == code

    def snap() -> str:
        one = Snapshot(id=str(uuid4()), volume_id=volume.id, virtual_bytes=volume.virtual_bytes)
        return backend.snapshot(volume, one, attempt()).locator

    call("track", "xen", placed.locator)
    older = snap()
    for offset in (4096, 3 * MIB):
        modern.write(placed.locator, offset, os.urandom(4096))
    newer = snap()
    now = modern.read(newer, volume.virtual_bytes)
    old, child, raw = tmp_path / "old.vhd", tmp_path / "child.vhd", tmp_path / "raw"
    call("export", "xen", older, old)
    call("export", "xen", newer, child, "--base", older)
    assert child.stat().st_size < old.stat().st_size
    below, above = pyvhdi.file(), pyvhdi.file()
    below.open(str(old))
    above.open(str(child))
    above.set_parent(below)
    assert above.read(volume.virtual_bytes) == now
    call("export", "xen", older, raw, "--format", "raw")
    modern.do("calls", reset=True)
    call("export", "xen", newer, raw, "--format", "raw", "--base", older)
    assert raw.read_bytes() == now
    assert modern.do("calls")["VDI.list_changed_blocks"] == 1
    call("changes", "xen", older, newer, "--json")
    call("track", "xen", placed.locator, "--off")
    qcow2 = tmp_path / "disk.qcow2"
    call("export", "xen", newer, qcow2, "--format", "qcow2")
    qemu("convert", "-f", "qcow2", "-O", "raw", qcow2, tmp_path / "flat")
    assert (tmp_path / "flat").read_bytes() == now
    modern.write(placed.locator, 0, bytes(volume.virtual_bytes))
    call("import", "xen", placed.locator, qcow2, "--format", "qcow2", "--yes")
    assert modern.read(placed.locator, volume.virtual_bytes) == now
    backend.delete(volume, attempt())
    backend.stop()


def test_file_srs_hold_chains_of_vhds(modern: Simulator, tmp_path: Path) -> None:
    """What the simulator keeps is what a file SR has on its export: read here by libvhdi, without us."""
    held = storage(modern, tmp_path)
    backend, volume = held.open(), new()
    placed = backend.create(volume, attempt())
    modern.write(placed.locator, 0, b"base" * 1024)
    snapshot = Snapshot(id=str(uuid4()), volume_id=volume.id, virtual_bytes=volume.virtual_bytes)
    backend.snapshot(volume, snapshot, attempt())
    modern.write(placed.locator, 4096, b"leaf" * 1024)
    folder = Path(modern.do("folder", sr=held.sr))
    layers = images.chain(folder / f"{placed.locator}.vhd", "vhd")
    assert [layer.format for layer in layers] == ["vhd", "vhd"]
    leaf, base = pyvhdi.file(), pyvhdi.file()
    leaf.open(str(folder / layers[0].name))
    base.open(str(folder / layers[1].name))
    leaf.set_parent(base)
    assert leaf.read(volume.virtual_bytes) == modern.read(placed.locator, volume.virtual_bytes)
    backend.delete(volume, attempt())
    backend.stop()
