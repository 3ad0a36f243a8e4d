import os
from pathlib import Path

from chainlab import MIB, NAMING, Volume, attempt, new_id

from breezeblock import chains
from breezeblock.attempt import Attempt
from breezeblock.shares import files
from breezeblock.shares.files import listing


def test_check_compares_with_the_catalogue(tmp_path: Path) -> None:
    volume = Volume(tmp_path, "raw", MIB).create()
    known, unknown = volume.snapshot(), volume.snapshot()
    lost = new_id()
    stray = tmp_path / NAMING.overlay(volume.id, new_id())
    stray.write_bytes(b"")
    found = chains.check(tmp_path, NAMING, volume.id, [known, lost], 2 * MIB, "raw")
    told = {(one.subject, one.severity) for one in found}
    assert told == {
        (f"snapshot {lost}", "error"),
        (f"snapshot {unknown}", "warning"),
        (f"volume {volume.id}", "error"),
        (f"volume {volume.id}", "warning"),
    }
    assert any(stray.name in one.problem for one in found)
    assert all(one.remedy for one in found)


def test_check_finds_damaged_tables(tmp_path: Path) -> None:
    volume = Volume(tmp_path, "raw", MIB).create()
    snapshot_id = volume.snapshot()
    volume.write(0, 4096, 1)
    path, _format = volume.active
    assert chains.check(tmp_path, NAMING, volume.id, [snapshot_id], MIB, "raw") == []
    raw = bytearray(path.read_bytes())
    raw[2 * 65536 : 2 * 65536 + 16] = b"\0\1" * 3 + b"\0" * 10
    path.write_bytes(raw)
    found = chains.check(tmp_path, NAMING, volume.id, [snapshot_id], MIB, "raw")
    assert [(one.subject, one.severity) for one in found] == [(path.name, "error")]


def test_check_of_a_volume_that_is_gone(tmp_path: Path) -> None:
    found = chains.check(tmp_path, NAMING, new_id(), [], MIB, "raw")
    assert [one.severity for one in found] == ["error"]


def test_inventory_tells_ours_from_others(tmp_path: Path) -> None:
    volume = Volume(tmp_path, "raw", MIB).create()
    snapshot_id = volume.snapshot()
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "lost+found").mkdir()
    (tmp_path / attempt().temp_name).write_text("x")
    (tmp_path / f"volume-{new_id()}").symlink_to("/etc/passwd")
    found = {(item.kind, item.volume_id, item.snapshot_id) for item in chains.inventory(tmp_path, NAMING)}
    assert found == {
        ("volume", volume.id, None),
        ("snapshot", volume.id, snapshot_id),
        ("metadata", volume.id, None),
        ("foreign", None, None),
        ("temporary", None, None),
    }


def test_sweep_spares_the_living(tmp_path: Path) -> None:
    volume = Volume(tmp_path, "raw", MIB).create()
    dead, alive = attempt(), attempt()
    for one in (dead, alive):
        (tmp_path / one.temp_name).write_text("x")
    (tmp_path / ".tmp-directory").mkdir()
    assert chains.sweep(tmp_path, frozenset({alive.operation_id})) == [dead.temp_name]
    assert set(listing(tmp_path)) == {NAMING.volume(volume.id), alive.temp_name, ".tmp-directory"}


def test_attempts_of_one_operation_clear_away_each_other(tmp_path: Path) -> None:
    operation, volume_id = new_id(), new_id()
    killed, other = attempt(operation, "killed"), attempt(new_id(), "other")

    def die(one: Attempt) -> None:
        with files.noted(tmp_path, one.operation_id, one.token), files.fresh(tmp_path / one.temp_name):
            os._exit(0)

    for one in (killed, other):
        pid = os.fork()
        if pid == 0:
            die(one)
        os.waitpid(pid, 0)
        assert (tmp_path / one.temp_name).exists()
    chains.create(tmp_path, NAMING, volume_id, MIB, attempt(operation, "next"))
    kept = {name for name in listing(tmp_path) if name.startswith(".tmp-")}
    assert kept == {other.temp_name, f".tmp-{other.operation_id}-attempts"}
    assert chains.sweep(tmp_path, [other.operation_id]) == []
    assert set(chains.sweep(tmp_path, [])) == kept
