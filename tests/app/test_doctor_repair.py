"""Repair of a stopped service's real files and catalog: what is mended, and what is left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_doctor import Patient, healthy, patient

from breezeblock import config as configuration
from breezeblock.app import compose
from breezeblock.chains.repairing import QUARANTINE
from breezeblock.cli.exits import Exit
from breezeblock.engine.lease import Lease

__all__ = ["healthy", "patient"]  # fixtures


def repair(patient: Patient) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "breezeblock", "doctor", "--repair", "--yes", "--json"],
        env={**os.environ, "BREEZEBLOCK_CONFIG": str(patient.data / "breezeblock.toml")},
        capture_output=True,
        text=True,
        check=False,
    )


def quarantined(patient: Patient) -> dict[str, bytes]:
    aside = patient.pool / QUARANTINE
    return {path.name: path.read_bytes() for path in aside.iterdir()} if aside.exists() else {}


def info(patient: Patient) -> Path:
    return patient.pool / f"volume-{patient.snapped}.info"


def overlay(patient: Patient) -> Path:
    return patient.pool / f"volume-{patient.snapped}.{patient.snapshot}"


def test_a_healthy_service_is_left_as_it_is(patient: Patient) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in patient.pool.iterdir()}
    done = repair(patient)
    assert (done.returncode, "MEND" in done.stderr) == (Exit.OK, False), done.stderr
    assert {path.name: path.stat().st_mtime_ns for path in patient.pool.iterdir()} == before


@pytest.mark.parametrize("content", [None, b"", b'{"active": ', b'{"active": "/etc/passwd"}'])
def test_an_info_that_is_lost_or_unreadable_is_written_anew(patient: Patient, content: bytes | None) -> None:
    before = json.loads(info(patient).read_text())
    info(patient).unlink() if content is None else info(patient).write_bytes(content)
    done = repair(patient)
    assert done.returncode == Exit.OK, done.stdout
    assert json.loads(info(patient).read_text()) == before
    assert list(quarantined(patient).values()) == ([] if content is None else [content])


def test_an_info_that_says_something_is_not_overruled(patient: Patient) -> None:
    said = json.dumps({"active": f"volume-{patient.snapped}"}).encode()
    info(patient).write_bytes(said)
    assert repair(patient).returncode == Exit.FINDINGS
    assert info(patient).read_bytes() == said


def test_a_volume_that_a_host_may_have_open_is_left_alone(patient: Patient) -> None:
    """Where locks stay on each host, as on SMB shares, only the catalog tells."""
    info(patient).unlink()
    with patient.catalog() as connection:
        connection.execute(f"UPDATE volumes SET status = 'in-use' WHERE id = '{patient.snapped}'")
    assert repair(patient).returncode == Exit.FINDINGS
    assert not info(patient).exists()


def test_what_no_layer_uses_is_moved_aside(patient: Patient) -> None:
    name = f"volume-{patient.plain}.11111111-2222-4333-8444-555555555555"
    # With an .info, so that the overlay's missing from it says something.
    (patient.pool / f"volume-{patient.plain}.info").write_text(
        json.dumps({"active": f"volume-{patient.plain}"})
    )
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", patient.pool / name, "1G"], check=True)
    held = (patient.pool / name).read_bytes()
    assert repair(patient).returncode == Exit.OK
    assert not (patient.pool / name).exists()
    assert list(quarantined(patient).values()) == [held]


def test_a_deletion_that_was_cut_off_is_finished(patient: Patient) -> None:
    intent = {
        "verb": "delete_snapshot",
        "snapshot": patient.snapshot,
        "top": overlay(patient).name,
        "base": f"volume-{patient.snapped}",
    }
    (patient.pool / f"volume-{patient.snapped}.intent").write_text(json.dumps(intent))
    with patient.catalog() as connection:
        connection.execute("UPDATE snapshots SET status = 'error_deleting'")
    assert repair(patient).returncode == Exit.OK
    assert not overlay(patient).exists()
    assert json.loads(info(patient).read_text()) == {"active": f"volume-{patient.snapped}"}


def test_strangers_files_are_kept_and_the_servers_own_are_not_touched(patient: Patient) -> None:
    (patient.pool / "holiday.jpg").write_bytes(b"jpeg")
    (patient.pool / ".nfs0001").write_bytes(b"open somewhere")
    (patient.pool / "lost+found").mkdir()
    (patient.pool / "link").symlink_to("/etc/passwd")
    (patient.pool / ".tmp-0198aaaa-0000-7000-8000-000000000000-ab").write_bytes(b"work")
    repair(patient)
    assert list(quarantined(patient).values()) == [b"jpeg"]
    left = {path.name for path in patient.pool.iterdir()}
    assert {".nfs0001", "lost+found", "link"} <= left
    assert not any(name.startswith(".tmp-") for name in left)


def test_another_volume_of_nobody_is_left_where_it_is(patient: Patient) -> None:
    name = "volume-99999999-2222-4333-8444-555555555555"
    (patient.pool / name).write_bytes(b"somebody's")
    assert repair(patient).returncode == Exit.FINDINGS
    assert (patient.pool / name).read_bytes() == b"somebody's"


def test_rows_and_counts_are_made_right(patient: Patient) -> None:
    with patient.catalog() as connection:
        connection.execute("UPDATE pools SET provisioned_bytes = 5")
        connection.execute("UPDATE quota_usages SET in_use = in_use + 3")
        connection.execute(f"UPDATE volumes SET status = 'extending' WHERE id = '{patient.plain}'")
    assert repair(patient).returncode == Exit.OK
    with patient.catalog() as connection:
        (status,) = connection.execute(f"SELECT status FROM volumes WHERE id = '{patient.plain}'").fetchone()
    assert status == "error_extending"


def test_a_running_service_is_not_repaired(patient: Patient) -> None:
    (patient.pool / "holiday.jpg").write_bytes(b"jpeg")
    loaded = configuration.load(patient.data / "breezeblock.toml", {})
    database = compose.open_database(loaded)
    lease = Lease(database, loaded.executor_id)
    lease.acquire(1.0)
    try:
        done = repair(patient)
        assert done.returncode == Exit.UNREACHABLE, done.stderr
        assert (patient.pool / "holiday.jpg").exists()
    finally:
        lease.release()
        database.dispose()


@pytest.mark.crash
def test_killed_at_any_time_it_completes_when_run_again(patient: Patient) -> None:
    before = json.loads(info(patient).read_text())
    raw = (patient.pool / f"volume-{patient.snapped}").stat().st_size
    chance = random.Random(7)
    started = time.monotonic()
    repair(patient)
    whole = time.monotonic() - started
    for _ in range(4):
        info(patient).write_bytes(b"{")
        (patient.pool / "holiday.jpg").write_bytes(b"jpeg")
        process = subprocess.Popen(
            [sys.executable, "-m", "breezeblock", "doctor", "--repair", "--yes", "--json"],
            env={**os.environ, "BREEZEBLOCK_CONFIG": str(patient.data / "breezeblock.toml")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(whole * (0.3 + 0.7 * chance.random()))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.wait()
        assert repair(patient).returncode == Exit.OK
        assert json.loads(info(patient).read_text()) == before
        assert not (patient.pool / "holiday.jpg").exists()
    assert (patient.pool / f"volume-{patient.snapped}").stat().st_size == raw
    assert list(quarantined(patient).values()).count(b"jpeg") == 4
