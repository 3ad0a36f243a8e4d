"""The doctor against a real catalog and real files, damaged one way at a time."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from breezeblock import config as configuration
from breezeblock.app import doctor, quickstart
from breezeblock.backends.contract import Finding
from breezeblock.catalog.clock import now, ordered_id
from breezeblock.cli.exits import Exit
from breezeblock.errors import ConfigError
from breezeblock.service import snapshots, volumes
from breezeblock.service.core import GIB, Caller
from working import working

ME = Caller(project_id="a" * 32, user_id="b" * 32, roles=frozenset({"admin"}), request_id="req-doctor")
STRANGER = "11111111-2222-4333-8444-555555555555"


@dataclass(frozen=True)
class Patient:
    """A stopped service's directory, with a plain volume and one with a snapshot."""

    data: Path
    plain: str
    snapped: str
    snapshot: str

    @property
    def pool(self) -> Path:
        return self.data / "pool"

    def examine(self) -> doctor.Report:
        return doctor.examine(configuration.load(self.data / "breezeblock.toml", {}))

    @contextmanager
    def catalog(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.data / "breezeblock.db")
        with connection:
            yield connection
        connection.close()

    def only_finding(self) -> Finding:
        (finding,) = self.examine().findings
        assert finding.remedy
        return finding


def _until_available(look: object, *arguments: object) -> None:
    end = time.monotonic() + 30
    while look(*arguments).status != "available":  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Patient:
    ready = quickstart.prepare(tmp_path_factory.mktemp("doctor") / "data", 18777)
    with working(ready.config) as service:
        plain = volumes.create(service, ME, volumes.NewVolume(virtual_bytes=GIB, name="plain"))
        snapped = volumes.create(service, ME, volumes.NewVolume(virtual_bytes=GIB, name="snapped"))
        for volume in (plain, snapped):
            _until_available(volumes.get, service, ME, volume)
        snapshot = snapshots.create(service, ME, snapshots.NewSnapshot(volume_id=snapped))
        _until_available(snapshots.get, service, ME, snapshot)
    return Patient(ready.data, plain, snapped, snapshot)


@pytest.fixture
def patient(healthy: Patient, tmp_path: Path) -> Patient:
    data = tmp_path / "data"
    # Holes stay holes: the volumes are a GiB each.
    subprocess.run(["cp", "-a", "--sparse=always", healthy.data, data], check=True)
    file = data / "breezeblock.toml"
    text = file.read_text().replace(str(healthy.data), str(data))
    # Sockets need short names, and nothing is attached.
    file.write_text(text.replace(f'"{data}/run"', f'"{healthy.data}/run"'))
    return Patient(data, healthy.plain, healthy.snapped, healthy.snapshot)


def _everything(directory: Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for path in sorted(directory.rglob("*")):
        about = path.lstat()
        found[str(path.relative_to(directory))] = (about.st_mode, about.st_size, about.st_mtime_ns)
    return found


def _run(
    connection: sqlite3.Connection,
    operation: str,
    kind: str,
    status: str,
    volume: str,
    arguments: dict[str, int],
) -> None:
    """Write down that a worker called x is at work on a volume."""
    connection.execute(
        "INSERT INTO operations (id, kind, state, lane, backend, resource_type, resource_id, volume_id,"
        " project_id, user_id, request_id, arguments, executor, attempts, created_at)"
        " VALUES (?, ?, 'running', ?, 'local', 'volume', ?, ?, '', '', '', ?, 'x', 1, '')",
        (operation, kind, volume, volume, volume, json.dumps(arguments)),
    )
    connection.execute("UPDATE volumes SET status = ?, op_id = ? WHERE id = ?", (status, operation, volume))


def test_a_healthy_service_has_no_findings_and_is_not_changed(patient: Patient) -> None:
    before = _everything(patient.pool)
    with patient.catalog() as connection:
        rows = list(connection.iterdump())
    report = patient.examine()
    assert report.findings == []
    assert (report.looked_at["volumes"], report.looked_at["snapshots"]) == (2, 1)
    assert _everything(patient.pool) == before
    with patient.catalog() as connection:
        assert list(connection.iterdump()) == rows


def test_a_missing_volume_is_named(patient: Patient) -> None:
    (patient.pool / f"volume-{patient.plain}").unlink()
    assert patient.plain in patient.only_finding().subject + patient.only_finding().problem


def test_a_missing_layer_of_a_chain_is_named(patient: Patient) -> None:
    (patient.pool / f"volume-{patient.snapped}").unlink()
    findings = patient.examine().findings
    assert findings
    assert all(patient.snapped in finding.subject + finding.problem for finding in findings)


@pytest.mark.parametrize("content", [None, b"", b'{"active": "volu', b"[]", b'{"active": "/etc/passwd"}'])
def test_a_bad_info_is_found(patient: Patient, content: bytes | None) -> None:
    info = patient.pool / f"volume-{patient.snapped}.info"
    info.unlink()
    if content is not None:
        info.write_bytes(content)
    findings = patient.examine().findings
    assert findings
    assert all(patient.snapped in finding.subject + finding.problem for finding in findings)


@pytest.mark.parametrize("content", [None, b'{"active": "volu', b'{"active": "volume-%s"}'])
def test_the_info_that_the_doctor_offers_mends_the_volume(patient: Patient, content: bytes | None) -> None:
    info = patient.pool / f"volume-{patient.snapped}.info"
    good = json.loads(info.read_bytes())
    info.unlink()
    if content is not None:
        info.write_bytes(content.replace(b"%s", patient.snapped.encode()))
    finding = patient.examine().findings[0]
    told, _, offered = finding.remedy.partition(", if nothing uses the volume: ")
    assert info.name in told
    assert json.loads(offered) == good
    info.write_text(offered)
    assert patient.examine().findings == []


def test_the_doctor_offers_no_info_where_none_fits(patient: Patient) -> None:
    base = f"volume-{patient.snapped}"
    (patient.pool / base).unlink()
    (patient.pool / f"{base}.info").unlink()
    finding = patient.examine().findings[0]
    assert f"{base} is missing. Restore it" in finding.remedy
    assert f"{base}.{patient.snapshot} (rests on {base})" in finding.remedy


def test_a_volume_of_another_size_is_found(patient: Patient) -> None:
    os.truncate(patient.pool / f"volume-{patient.plain}", GIB // 2)
    assert patient.plain in patient.only_finding().subject + patient.only_finding().problem


def test_files_of_an_unknown_volume_are_never_called_rubbish(patient: Patient) -> None:
    (patient.pool / f"volume-{STRANGER}").write_bytes(bytes(512))
    finding = patient.only_finding()
    assert STRANGER in finding.problem
    assert "only when you are sure" in finding.remedy


def test_a_strangers_file_is_a_warning(patient: Patient) -> None:
    (patient.pool / "holiday.jpg").write_bytes(b"x")
    finding = patient.only_finding()
    assert "holiday.jpg" in finding.subject
    assert finding.severity == "warning"


def test_a_dead_operations_temporary_is_a_warning_and_a_live_ones_is_not(patient: Patient) -> None:
    operation = ordered_id()
    (patient.pool / f".tmp-{operation}-0a1b2c3d").write_bytes(b"x")
    assert patient.only_finding().severity == "warning"
    with patient.catalog() as connection:
        _run(connection, operation, "extend_volume", "extending", patient.plain, {"virtual_bytes": 2 * GIB})
        # What the promise of an extension takes ahead.
        connection.execute("UPDATE quota_usages SET in_use = in_use + 1 WHERE resource LIKE 'gigabytes%'")
        promised = "UPDATE pools SET provisioned_bytes = provisioned_bytes + ? WHERE backend = 'local'"
        connection.execute(promised, (GIB,))
        beat = "INSERT INTO services (host, binary, availability_zone, heartbeat_at) VALUES ('x', ?, '', ?)"
        connection.execute(beat, ("breezeblock-worker", now()))
    report = patient.examine()
    assert report.findings == []
    assert report.looked_at["left out because an operation is at work"] == 1


def test_an_operation_whose_worker_is_silent_is_found(patient: Patient) -> None:
    operation = ordered_id()
    with patient.catalog() as connection:
        _run(connection, operation, "delete_volume", "deleting", patient.plain, {})
    finding = patient.only_finding()
    assert operation in finding.subject
    assert "worker x has not" in finding.problem


def test_a_row_without_its_operation_is_found(patient: Patient) -> None:
    with patient.catalog() as connection:
        connection.execute("UPDATE volumes SET status = 'deleting' WHERE id = ?", (patient.plain,))
    finding = patient.only_finding()
    assert (finding.subject, "deleting" in finding.problem) == (f"volume {patient.plain}", True)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE quota_usages SET in_use = in_use + 5 WHERE resource = 'volumes'",
        "UPDATE pools SET provisioned_bytes = provisioned_bytes + 512 WHERE backend = 'local'",
    ],
)
def test_a_wrong_count_is_found(patient: Patient, damage: str) -> None:
    with patient.catalog() as connection:
        connection.execute(damage)
    assert "the sum of what it stands for" in patient.only_finding().problem


def test_an_operation_for_a_back_end_that_is_gone_is_found(patient: Patient) -> None:
    file = patient.data / "breezeblock.toml"
    file.write_text(file.read_text().replace("[backends.local]", "[backends.other]"))
    shutil.rmtree(patient.pool)
    finding = patient.only_finding()
    assert (finding.subject, "2 volumes" in finding.problem) == ("back end local", True)


def test_a_pool_that_is_down_is_one_finding_and_its_volumes_none(patient: Patient) -> None:
    file = patient.data / "breezeblock.toml"
    section = "[backends.local]\n"
    file.write_text(file.read_text().replace(section, f"{section}must_be_mounted = true\n"))
    finding = patient.only_finding()
    assert "local" in finding.subject
    assert "Nothing is mounted" in finding.problem


def test_no_database_is_an_error_and_makes_none(tmp_path: Path) -> None:
    config = configuration.Config(
        database=configuration.DatabaseSection(url=f"sqlite:///{tmp_path}/none.db"),
    )
    with pytest.raises(ConfigError, match=r"none\.db"):
        doctor.examine(config)
    assert list(tmp_path.iterdir()) == []


def test_the_command_tells_findings_by_its_exit_code(patient: Patient) -> None:
    def call(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from breezeblock.cli import main; main()", "doctor", *options]
        return subprocess.run(command, cwd=patient.data, capture_output=True, text=True, check=False)

    healthy = call()
    assert (healthy.returncode, healthy.stdout) == (Exit.OK, ""), healthy.stderr
    (patient.pool / "a\x1b[2Jb").write_bytes(b"x")
    for index in range(5):
        (patient.pool / f"stranger-{index}").write_bytes(b"x")
    told = call("--limit", "2")
    assert told.returncode == Exit.FINDINGS
    assert told.stdout.count("remedy:") == 2
    assert "4 more" in told.stderr
    assert "\x1b" not in told.stdout
    as_json = call("--json")
    report = json.loads(as_json.stdout)
    assert as_json.returncode == Exit.FINDINGS
    assert {tuple(sorted(finding)) for finding in report["findings"]} == {
        ("problem", "remedy", "severity", "subject")
    }
    assert len(report["findings"]) == 6
