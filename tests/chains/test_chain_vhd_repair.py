"""Mending images of VHD and VHDX volumes: each damage that loses nothing, and none that does."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from chainlab import KIB, MIB, Volume, attempt

from breezeblock import chains, images
from breezeblock.chains.repairing import Mend
from breezeblock.errors import UnavailableError
from breezeblock.images.file import opened
from breezeblock.images.vhdx import open_layer

Damage = Callable[[Path], None]


def volume_of(directory: Path, kind: str) -> Volume:
    volume = Volume(directory, kind, 4 * MIB).create()
    volume.write(0, MIB, 1)
    volume.snapshot()
    volume.write(MIB, 64 * KIB, 2)
    return volume


def offered(volume: Volume) -> list[Mend]:
    return chains.mends(volume.directory, volume.naming, volume.id, list(volume.snapshots), volume.format)


def done(volume: Volume) -> list[Mend]:
    made = offered(volume)
    for one in made:
        chains.mend(
            volume.directory,
            volume.naming,
            volume.id,
            list(volume.snapshots),
            one,
            attempt(),
            format=volume.format,
        )
    return made


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset, os.SEEK_SET if offset >= 0 else os.SEEK_END)
        file.write(data)


def appended(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(3 * MIB))


def appended_before_the_footer(path: Path) -> None:
    """As an allocation leaves it that was cut off after the new footer was written."""
    footer = path.read_bytes()[-512:]
    with path.open("r+b") as file:
        file.seek(-512, os.SEEK_END)
        file.write(bytes(4 * MIB) + footer)


def unreplayed(path: Path) -> None:
    """Let QEMU die between its log and its table."""
    with opened(path) as file:
        where = open_layer(file).image.regions.bat.offset
    blkdebug = path.with_name("blkdebug.conf")
    blkdebug.write_text(
        f'[inject-error]\nevent = "none"\niotype = "write"\nsector = "{where // 512}"\nonce = "off"\n'
    )
    command = ["qemu-io", "-f", "vhdx", "-c", "write -P 9 3M 64k", f"blkdebug:{blkdebug}:{path}"]
    subprocess.run(command, check=False, capture_output=True)
    blkdebug.unlink()


DAMAGES: list[tuple[str, str, Damage]] = [
    ("vhd", "the footer at the end", lambda path: overwrite(path, -512, bytes(512))),
    ("vhd", "the footer at the start", lambda path: overwrite(path, 0, bytes(512))),
    ("vhd", "belong to nothing", appended_before_the_footer),
    ("vhdx", "one of the two headers", lambda path: overwrite(path, 128 * KIB, bytes(4 * KIB))),
    ("vhdx", "one of the two region tables", lambda path: overwrite(path, 256 * KIB, bytes(64 * KIB))),
    ("vhdx", "nothing refers to the last", appended),
]


@pytest.mark.parametrize(("kind", "says", "damage"), DAMAGES, ids=[f"{k} {s}" for k, s, _ in DAMAGES])
@pytest.mark.parametrize("which", ["base", "active"])
def test_what_loses_nothing_is_mended(
    kind: str, says: str, damage: Damage, which: str, tmp_path: Path
) -> None:
    volume = volume_of(tmp_path, kind)
    assert offered(volume) == []
    path = volume.active[0] if which == "active" else tmp_path / volume.naming.volume(volume.id)
    damage(path)
    found = chains.check(tmp_path, volume.naming, volume.id, list(volume.snapshots), 4 * MIB, kind)
    assert [(says in one.problem, one.severity) for one in found] == [(True, "warning")], found
    (mend,) = done(volume)
    assert (mend.kind, mend.name) == ("image", path.name)
    assert says in mend.text
    assert offered(volume) == []
    assert images.check(volume.active[0], kind) == []
    volume.verify()


def test_a_log_that_was_not_replayed_is(tmp_path: Path) -> None:
    volume = Volume(tmp_path, "vhdx", 4 * MIB).create()
    volume.write(0, MIB, 1)
    unreplayed(volume.active[0])
    through = b"".join(images.read(volume.active[0], 0, 4 * MIB, "vhdx"))
    (mend,) = done(volume)
    assert "the log was not replayed" in mend.text
    volume.model[:] = through
    volume.verify()


@pytest.mark.parametrize("kind", ["vhd", "vhdx"])
def test_more_than_that_is_left_alone(kind: str, tmp_path: Path) -> None:
    """A table that names a place outside of the file, beside a damage that could be mended."""
    volume = volume_of(tmp_path, kind)
    path = volume.active[0]
    if kind == "vhd":
        where = int.from_bytes(path.read_bytes()[512 + 16 : 512 + 24], "big")
        overwrite(path, where, (1 << 24).to_bytes(4, "big"))
        overwrite(path, -512, bytes(512))
    else:
        with opened(path) as file:
            where = open_layer(file).image.regions.bat.offset
        overwrite(path, where, ((1 << 40) | 6).to_bytes(8, "little"))
        overwrite(path, 128 * KIB, bytes(4 * KIB))
    before = path.read_bytes()
    assert offered(volume) == []
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", ["vhd", "vhdx"])
def test_an_image_that_a_clone_rests_on_is_left_alone(kind: str, tmp_path: Path) -> None:
    volume = volume_of(tmp_path, kind)
    clone = Volume(tmp_path, kind, 4 * MIB)
    chosen = next(iter(volume.snapshots))
    chains.clone(tmp_path, volume.naming, volume.id, chosen, clone.id, 4 * MIB, attempt(), source_format=kind)
    base = tmp_path / volume.naming.volume(volume.id)
    overwrite(base, 0 if kind == "vhd" else 128 * KIB, bytes(512))
    assert offered(volume) == offered(clone) == []
    chains.delete(tmp_path, clone.naming, clone.id, attempt())
    assert [one.name for one in offered(volume)] == [base.name]


def test_an_image_in_use_is_left_alone(tmp_path: Path) -> None:
    volume = volume_of(tmp_path, "vhdx")
    path = volume.active[0]
    overwrite(path, 128 * KIB, bytes(512))
    (mend,) = offered(volume)
    guest = subprocess.Popen(
        ["qemu-io", "-f", "raw", str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert guest.stdin is not None
        assert guest.stdout is not None
        guest.stdin.write(b"read 0 512\n")
        guest.stdin.flush()
        guest.stdout.readline()
        assert offered(volume) == []
        with pytest.raises(UnavailableError, match="in use"):
            images.repair(path, "vhdx")
        assert mend.name == path.name
    finally:
        guest.communicate(b"quit\n")
