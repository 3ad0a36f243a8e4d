"""What lies under our names was written by somebody else: it is refused by name, and nothing is changed."""

import json
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from chainlab import MIB, NAMING, Volume, attempt, new_id

from breezeblock import chains
from breezeblock.errors import CorruptError
from breezeblock.shares.files import listing

Verb = Callable[[Volume, str], object]

VERBS: dict[str, Verb] = {
    "snapshot": lambda one, _s: chains.snapshot(
        one.directory, NAMING, one.id, new_id(), MIB, attempt(), format="raw"
    ),
    "delete snapshot": lambda one, s: chains.delete_snapshot(
        one.directory, NAMING, one.id, s, attempt(), format="raw"
    ),
    "revert": lambda one, s: chains.revert(one.directory, NAMING, one.id, s, MIB, attempt(), format="raw"),
    "extend": lambda one, _s: chains.extend(one.directory, NAMING, one.id, 2 * MIB, attempt(), format="raw"),
    "copy": lambda one, _s: chains.copy(
        one.directory, NAMING, one.id, None, one.directory, new_id(), MIB, attempt(), source_format="raw"
    ),
    "connection": lambda one, _s: chains.active(one.directory, NAMING, one.id, "raw"),
    "load": lambda one, _s: chains.load(one.directory, NAMING, one.id, "raw"),
}


def base_of(volume: Volume) -> Path:
    return volume.directory / NAMING.volume(volume.id)


def table_of(volume: Volume) -> dict[str, str]:
    found: dict[str, str] = json.loads((volume.directory / NAMING.info(volume.id)).read_text())
    return found


def with_info(volume: Volume, content: str | bytes) -> None:
    path = volume.directory / NAMING.info(volume.id)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def with_backing(volume: Volume, overlay: str, backing: str, backing_format: str = "raw") -> None:
    """As qemu-img would have written it."""
    subprocess.run(
        [
            *["qemu-img", "rebase", "-u", "-f", "qcow2", "-b"],
            backing,
            "-F",
            backing_format,
            volume.directory / overlay,
        ],
        check=True,
    )


def cycle(volume: Volume, snapshot_id: str) -> None:
    overlay = NAMING.overlay(volume.id, snapshot_id)
    with_backing(volume, overlay, overlay, "qcow2")


def data_file(volume: Volume, snapshot_id: str) -> None:
    path = volume.directory / NAMING.overlay(volume.id, snapshot_id)
    raw = bytearray(path.read_bytes())
    raw[79] |= 4
    extension = struct.pack(">II", 0x44415441, 11) + b"/etc/passwd".ljust(16, b"\0")
    raw[112 : 112 + len(extension)] = extension
    path.write_bytes(raw)


def info_with(**changes: str) -> Callable[[Volume, str], None]:
    return lambda volume, _s: with_info(volume, json.dumps({**table_of(volume), **changes}))


def patch(offset: int, data: bytes) -> Callable[[Volume, str], None]:
    def apply(volume: Volume, snapshot_id: str) -> None:
        path = volume.directory / NAMING.overlay(volume.id, snapshot_id)
        raw = bytearray(path.read_bytes())
        raw[offset : offset + len(data)] = data
        path.write_bytes(raw)

    return apply


def replaced_by(make: Callable[[Path], object]) -> Callable[[Volume, str], None]:
    def apply(volume: Volume, snapshot_id: str) -> None:
        path = volume.directory / NAMING.overlay(volume.id, snapshot_id)
        path.unlink()
        make(path)

    return apply


def base_a_fifo(volume: Volume, _snapshot_id: str) -> None:
    base_of(volume).unlink()
    os.mkfifo(base_of(volume))


OTHER = new_id()
DAMAGE: dict[str, Callable[[Volume, str], None]] = {
    ".info missing": lambda one, _s: (one.directory / NAMING.info(one.id)).unlink(),
    ".info empty": lambda one, _s: with_info(one, ""),
    ".info truncated": lambda one, _s: with_info(one, json.dumps(table_of(one), indent=1)[:60]),
    ".info not an object": lambda one, _s: with_info(one, "[]"),
    ".info nested deeply": lambda one, _s: with_info(one, "[" * 200_000),
    ".info with numbers": lambda one, _s: with_info(one, '{"active": 7}'),
    ".info not text": lambda one, _s: with_info(one, b'{"active": "\xff\xfe"}'),
    ".info too large": lambda one, _s: with_info(one, "{" + " " * (1 << 20) + "}"),
    ".info without active": lambda one, s: with_info(one, json.dumps({s: table_of(one)[s]})),
    ".info naming a path": info_with(active="../../etc/passwd"),
    ".info naming an absolute path": info_with(active="/etc/passwd"),
    ".info naming another volume": info_with(active=f"volume-{OTHER}"),
    ".info naming what is not there": lambda one, s: with_info(
        one, json.dumps({**table_of(one), "active": NAMING.overlay(one.id, OTHER)})
    ),
    ".info with a strange key": info_with(nonsense="volume-x"),
    ".info with two for one": lambda one, s: with_info(
        one, json.dumps({**table_of(one), OTHER: table_of(one)[s]})
    ),
    ".info with a snapshot on the base": lambda one, s: with_info(
        one, json.dumps({**table_of(one), s: NAMING.volume(one.id)})
    ),
    ".info active at the base": lambda one, s: with_info(
        one, json.dumps({**table_of(one), "active": NAMING.volume(one.id)})
    ),
    "a cycle": cycle,
    "a backing file of the host": lambda one, s: with_backing(one, NAMING.overlay(one.id, s), "/etc/passwd"),
    "a backing file elsewhere": lambda one, s: with_backing(one, NAMING.overlay(one.id, s), "../passwd"),
    "a backing protocol": lambda one, s: with_backing(one, NAMING.overlay(one.id, s), "nbd://h/x"),
    "a backing json name": lambda one, s: with_backing(
        one, NAMING.overlay(one.id, s), 'json:{"driver":"raw"}'
    ),
    "another volume below": lambda one, s: with_backing(one, NAMING.overlay(one.id, s), f"volume-{OTHER}"),
    "the wrong format below": lambda one, s: with_backing(
        one, NAMING.overlay(one.id, s), NAMING.volume(one.id), "qcow2"
    ),
    "an unknown format below": lambda one, s: with_backing(
        one, NAMING.overlay(one.id, s), NAMING.volume(one.id), "vmdk"
    ),
    "an external data file": data_file,
    "unknown features": patch(72, b"\x80"),
    "extended L2": patch(79, b"\x10"),
    "dirty": patch(79, b"\x01"),
    "encrypted": patch(32, struct.pack(">I", 2)),
    "internal snapshots": patch(60, struct.pack(">I", 1)),
    "cluster bits 8": patch(20, struct.pack(">I", 8)),
    "cluster bits 63": patch(20, struct.pack(">I", 63)),
    "an endless L1": patch(36, struct.pack(">I", 0xFFFFFFFF)),
    "an L1 outside the file": patch(40, struct.pack(">Q", 1 << 40)),
    "an endless refcount table": patch(56, struct.pack(">I", 0xFFFFFFFF)),
    "an endless disk": patch(24, struct.pack(">Q", (1 << 64) - 1)),
    "version 1": patch(4, struct.pack(">I", 1)),
    "no magic": patch(0, b"KDMV"),
    "truncated to nothing": replaced_by(lambda path: path.write_bytes(b"")),
    "truncated header": replaced_by(lambda path: path.write_bytes(b"QFI\xfb\0\0\0\3")),
    "a symbolic link": replaced_by(lambda path: path.symlink_to("/etc/passwd")),
    "a FIFO": replaced_by(os.mkfifo),
    "a directory": replaced_by(lambda path: path.mkdir()),
    "missing": replaced_by(lambda path: None),
    "the base missing": lambda one, _s: base_of(one).unlink(),
    "the base a FIFO": base_a_fifo,
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_and_left_alone(tmp_path: Path, damage: str, verb: str) -> None:
    volume = Volume(tmp_path, "raw", MIB).create()
    snapshot_id = volume.snapshot()
    DAMAGE[damage](volume, snapshot_id)
    before = fingerprint(tmp_path)
    if damage == ".info active at the base" and verb == "connection":
        return  # what a consumer opens does not depend on what the snapshots need
    with pytest.raises(CorruptError) as caught:
        VERBS[verb](volume, snapshot_id)
    assert caught.value.remedy
    assert len(str(caught.value)) < 1500
    assert fingerprint(tmp_path) == before


@pytest.mark.parametrize("damage", DAMAGE)
def test_check_reports_damage_and_delete_removes_what_is_a_file(tmp_path: Path, damage: str) -> None:
    volume = Volume(tmp_path, "raw", MIB).create()
    snapshot_id = volume.snapshot()
    DAMAGE[damage](volume, snapshot_id)
    found = chains.check(tmp_path, NAMING, volume.id, [snapshot_id], MIB, "raw")
    assert found
    assert found[0].severity == "error"
    assert found[0].remedy
    list(chains.inventory(tmp_path, NAMING))
    if damage in {"a symbolic link", "a FIFO", "a directory", "the base a FIFO"}:
        with pytest.raises(CorruptError, match=volume.id):
            chains.delete(tmp_path, NAMING, volume.id, attempt())
        assert listing(tmp_path)
    else:
        chains.delete(tmp_path, NAMING, volume.id, attempt())
        assert listing(tmp_path) == []


def fingerprint(directory: Path) -> list[tuple[str, int, bytes]]:
    return [
        (
            path.name,
            path.lstat().st_mode,
            path.read_bytes() if path.is_file() and not path.is_symlink() else b"",
        )
        for path in sorted(directory.iterdir())
    ]


def test_a_depth_over_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = Volume(tmp_path, "raw", MIB).create()
    for _ in range(3):
        volume.snapshot()
    monkeypatch.setattr("breezeblock.chains.plain.MAX_LAYERS", 3)
    with pytest.raises(CorruptError, match="more than 3 layers"):
        chains.active(tmp_path, NAMING, volume.id, "raw")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[1]",
        b'{"verb":"format","snapshot":"%s","top":"volume-%s","base":"volume-%s"}',
        b'{"snapshot":"../x","top":"/etc/passwd","base":"x"}',
        b"x" * (2 << 20),
    ],
)
def test_a_foreign_intent_is_refused(tmp_path: Path, content: bytes) -> None:
    volume = Volume(tmp_path, "raw", MIB).create()
    snapshot_id = volume.snapshot()
    (tmp_path / NAMING.intent(volume.id)).write_bytes(content)
    before = fingerprint(tmp_path)
    for name in ("snapshot", "delete snapshot", "revert", "extend", "copy"):
        with pytest.raises(CorruptError, match=r"\.intent"):
            VERBS[name](volume, snapshot_id)
    assert fingerprint(tmp_path) == before
    chains.delete(tmp_path, NAMING, volume.id, attempt())
    assert listing(tmp_path) == []


def test_an_overlay_with_data_outside_the_chain_is_not_thrown_away(tmp_path: Path) -> None:
    """As after an old .info came back from a backup."""
    volume = Volume(tmp_path, "raw", MIB).create()
    volume.snapshot()
    old = (tmp_path / NAMING.info(volume.id)).read_bytes()
    late = volume.snapshot()
    volume.write(0, 4096, 5)
    with_info(volume, old)
    with pytest.raises(CorruptError, match="holds data"):
        VERBS["delete snapshot"](volume, late)
    with pytest.raises(CorruptError, match="holds data"):
        chains.snapshot(tmp_path, NAMING, volume.id, late, MIB, attempt(), format="raw")
    problems = chains.check(tmp_path, NAMING, volume.id, list(volume.snapshots), MIB, "raw")
    assert any(late in one.subject and one.severity == "error" for one in problems)
    assert any("no layer refers to it" in one.problem for one in problems)


def test_a_cut_overlay_is_refused_before_anything_is_merged(tmp_path: Path) -> None:
    volume = Volume(tmp_path, "raw", MIB).create()
    snapshot_id = volume.snapshot()
    volume.write(0, MIB, 5)
    path, _format = volume.active
    os.truncate(path, path.stat().st_size // 2)
    base = base_of(volume).read_bytes()
    with pytest.raises(CorruptError, match="impossible in a file of"):
        VERBS["delete snapshot"](volume, snapshot_id)
    assert path.exists()
    assert not (tmp_path / NAMING.intent(volume.id)).exists()
    assert snapshot_id in table_of(volume)
    assert base_of(volume).read_bytes() == base
