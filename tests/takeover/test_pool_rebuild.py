"""The catalog is lost; the share brings it back, with linked clones and what is kept for them."""

import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from breezeblock import config as configuration
from breezeblock.app import compose, doctor, quickstart, repair
from breezeblock.app.takeover import Outcome, Takeover, Wishes
from breezeblock.catalog import invariants
from breezeblock.catalog.database import Database
from breezeblock.errors import NotFoundError
from breezeblock.service import layers, snapshots, volumes
from breezeblock.service.core import GIB, Caller, Service
from breezeblock.testing.kill import Outcome as Ended
from breezeblock.testing.kill import run_killed_at, trace_lines
from working import working

PROJECT = "a" * 32
ME = Caller(project_id=PROJECT, user_id="b" * 32, roles=frozenset({"admin"}), request_id="req-rebuild")
VOLUMES = (
    "id, project_id, virtual_bytes, status, backend, pool, locator, format, volume_type_id, depth, "
    "hidden_layers, parent_id, op_id"
)
TABLES = {
    "volumes": VOLUMES,
    "snapshots": "id, volume_id, project_id, virtual_bytes, status, locator, progress",
    "kept_volumes": "id, backend, pool, project_id, parent_id",
    "quota_usages": "project_id, resource, in_use",
    "pools": "backend, name, provisioned_bytes",
}


@dataclass(frozen=True)
class Lost:
    """A stopped service; `before` is what its catalog said, before it was lost."""

    config: configuration.Config
    before: dict[str, list[Any]]

    @property
    def catalog(self) -> Path:
        return Path(self.config.database.url.removeprefix("sqlite:///"))

    @property
    def pool(self) -> Path:
        return Path(self.config.backends["local"]["path"])

    def at(self, catalog: Path) -> "Lost":
        """Return the same with a copy of the catalog, as it is now, at another place."""
        shutil.copy(self.catalog, catalog)
        database = configuration.DatabaseSection(url=f"sqlite:///{catalog}")
        return Lost(msgspec.structs.replace(self.config, database=database), self.before)

    def elsewhere(self, directory: Path) -> "Lost":
        """Return the same with copies of the catalog and of the pool."""
        directory.mkdir()
        subprocess.run(["cp", "-a", "--sparse=always", self.pool, directory / "pool"], check=True)
        local = {**self.config.backends["local"], "path": str(directory / "pool")}
        found = self.at(directory / "catalog.db")
        return Lost(msgspec.structs.replace(found.config, backends={"local": local}), self.before)

    def forget(self) -> None:
        """Lose every volume, as a catalog that was begun anew has none."""
        with sqlite3.connect(self.catalog) as connection:
            for table in ("snapshots", "kept_volumes", "operations", "messages", "quota_usages", "volumes"):
                connection.execute(f"DELETE FROM {table}")
            connection.execute("UPDATE pools SET provisioned_bytes = 0")
            connection.commit()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()

    @contextmanager
    def takeover(self, wishes: Wishes | None = None) -> Iterator[Takeover]:
        backends, policies = compose.open_backends(self.config)
        database = Database(self.config.database.url)
        try:
            wishes = wishes or Wishes(edit=False, project_id=PROJECT)
            yield Takeover(self.config, database, backends["local"], policies["local"], "", wishes)
        finally:
            backends["local"].stop()
            database.dispose()

    def rebuild(self) -> dict[str, Outcome]:
        with self.takeover() as work:
            return {one.volume_id: one for one in work.carry_out()}

    def whole(self) -> None:
        assert said(self.catalog) == self.before
        with sqlite3.connect(self.catalog) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()
        database = Database(self.config.database.url)
        with database.read() as connection_:
            assert invariants.miscounts(connection_) == []
        database.dispose()


def said(catalog: Path) -> dict[str, list[Any]]:
    with sqlite3.connect(catalog) as connection:
        found = {
            table: sorted(connection.execute(f"SELECT {columns} FROM {table}").fetchall(), key=repr)
            for table, columns in TABLES.items()
        }
    connection.close()
    found["quota_usages"] = [row for row in found["quota_usages"] if row[2]]
    return found


def until(look: Callable[..., Any], service: Service, id_: str, *, gone: bool = False) -> None:
    import time

    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            row = look(service, ME, id_)
        except NotFoundError:
            assert gone
            return
        assert "error" not in row.status
        if row.op_id is None and not gone:
            return
        time.sleep(0.005)
    raise AssertionError(id_)


def made(service: Service, **wanted: Any) -> str:
    volume_id = volumes.create(service, ME, volumes.NewVolume(**wanted))
    until(volumes.get, service, volume_id)
    return volume_id


def snapped(service: Service, volume_id: str) -> str:
    snapshot_id = snapshots.create(service, ME, snapshots.NewSnapshot(volume_id=volume_id))
    until(snapshots.get, service, snapshot_id)
    return snapshot_id


def write(path: Path, image_format: str, value: int) -> None:
    subprocess.run(["qemu-io", "-f", image_format, "-c", f"write -q -P {value} 0 64k", path], check=True)


def family(service: Service, pool: Path) -> None:
    """A volume with a snapshot and clones of both; a deleted one between; two clones of that one."""
    parent = made(service, virtual_bytes=GIB)
    write(pool / f"volume-{parent}", "raw", 1)
    snapshot = snapped(service, parent)
    write(pool / f"volume-{parent}.{snapshot}", "qcow2", 2)
    between = made(service, source_volid=parent)
    write(pool / f"volume-{between}", "qcow2", 3)
    first = made(service, snapshot_id=snapshot)
    for _ in range(2):
        write(pool / f"volume-{made(service, source_volid=between)}", "qcow2", 4)
    snapped(service, first)
    volumes.delete(service, ME, between)
    until(volumes.get, service, between, gone=True)
    snapped(service, made(service, virtual_bytes=2 * GIB))


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Lost:
    ready = quickstart.prepare(tmp_path_factory.mktemp("rebuild") / "data", 18781)
    config = configuration.load(ready.data / "breezeblock.toml", {})
    with working(config) as service:
        family(service, ready.data / "pool")
        # What a clone made its source to be is found out by the source's next operation.
        for row in said(ready.data / "breezeblock.db")["volumes"]:
            volumes.extend(service, ME, row[0], 4 * GIB)
            until(volumes.get, service, row[0])
    with sqlite3.connect(ready.data / "breezeblock.db") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    before = said(ready.data / "breezeblock.db")
    assert len(before["kept_volumes"]) == 1
    assert len(before["volumes"]) == 5
    assert any(row[10] for row in before["volumes"])
    return Lost(config, before)


@pytest.fixture
def lost(made_once: Lost, tmp_path: Path) -> Lost:
    found = made_once.at(tmp_path / "breezeblock.db")
    found.forget()
    return found


def test_linked_clones_come_back_from_the_share_alone(lost: Lost) -> None:
    with lost.takeover() as work:
        assert {one.state for one in work.plan()} == {"to add"}
    assert {one.state for one in lost.rebuild().values()} == {"added"}
    lost.whole()
    assert doctor.examine(lost.config).findings == []
    assert {one.state for one in lost.rebuild().values()} == {"known"}
    lost.whole()


def test_a_catalog_from_an_older_copy_learns_what_happened_since(lost: Lost) -> None:
    lost.rebuild()
    with sqlite3.connect(lost.catalog) as connection:
        connection.execute("DELETE FROM kept_volumes")
        connection.execute("UPDATE volumes SET parent_id = NULL, depth = 1, hidden_layers = 0")
    connection.close()
    states = [one.state for one in lost.rebuild().values()]
    assert sorted(states) == ["added"] * 3 + ["known"] * 2
    found = said(lost.catalog)
    assert found["kept_volumes"] == lost.before["kept_volumes"]
    assert {row[0]: row[11] for row in found["volumes"]} == {
        row[0]: row[11] for row in lost.before["volumes"]
    }


@pytest.mark.crash
def test_killed_before_any_line_it_completes_when_run_again(lost: Lost, tmp_path: Path) -> None:
    packages = (
        "breezeblock.app.takeover",
        "breezeblock.operations.adopting",
        "breezeblock.catalog.rows",
        "breezeblock.catalog.pools",
        "breezeblock.catalog.quotas",
        "breezeblock.catalog.database",
    )
    traced = lost.at(tmp_path / "traced.db")
    lines = trace_lines(traced.rebuild, packages)
    traced.whole()
    killed = 0
    for number in range(0, len(lines), len(lines) // 30):
        one = lost.at(tmp_path / f"{number}.db")
        killed += run_killed_at(one.rebuild, packages, lines[number]) is Ended.KILLED
        assert {outcome.state for outcome in one.rebuild().values()} <= {"added", "known"}
        one.whole()
    assert killed > 20


@pytest.mark.crash
def test_an_adoption_killed_before_any_line_completes_when_run_again(lost: Lost, tmp_path: Path) -> None:
    packages = ("breezeblock.app.takeover", "breezeblock.chains", "breezeblock.images.qcow2")
    lost = lost.elsewhere(tmp_path / "prepared")
    (plain,) = (
        row[0] for row in lost.before["volumes"] if row[2] == 4 * GIB and row[7] == "raw" and row[9] == 2
    )
    (overlay,) = lost.pool.glob(f"volume-{plain}.????????-*")
    below = f"/var/lib/cinder/mnt/{'ab' * 16}/volume-{plain}"
    subprocess.run(["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", below, overlay], check=True)

    def adopt(one: Lost) -> dict[str, str]:
        with one.takeover(Wishes(edit=True, project_id=PROJECT)) as work:
            return {outcome.volume_id: outcome.state for outcome in work.carry_out()}

    traced = lost.elsewhere(tmp_path / "traced")
    lines = trace_lines(lambda: adopt(traced), packages)
    assert doctor.examine(traced.config).findings == []
    killed = 0
    for number in range(0, len(lines), len(lines) // 12):
        one = lost.elsewhere(tmp_path / str(number))
        killed += run_killed_at(lambda one=one: adopt(one), packages, lines[number]) is Ended.KILLED  # type: ignore[misc]
        assert set(adopt(one).values()) <= {"added", "known"}
        compose.open_backends(one.config)[0]["local"].sweep(frozenset())  # as the next worker does
        assert doctor.examine(one.config).findings == []
    assert killed > 8


def test_a_clone_whose_hold_on_its_parent_was_lost_gets_it_back(lost: Lost, tmp_path: Path) -> None:
    """As after a copy of the share that left out empty files; until then the parent could go."""
    lost = lost.elsewhere(tmp_path / "copy")
    lost.rebuild()
    holds = sorted(lost.pool.glob("*.clones/*"))
    for hold in holds:
        hold.unlink()
    findings = doctor.examine(lost.config).findings
    assert {one.severity for one in findings} == {"error"}
    with repair.prepared(lost.config) as steps:
        for step in steps:
            assert step.text.startswith("note that volume"), step.text
            step.do()
    assert sorted(lost.pool.glob("*.clones/*")) == holds
    assert doctor.examine(lost.config).findings == []


def test_what_came_back_is_used_on_in_any_order(lost: Lost, tmp_path: Path) -> None:
    lost = lost.elsewhere(tmp_path / "copy")  # the others need theirs
    lost.rebuild()
    with working(lost.config) as service:
        rows = {row[0]: row for row in lost.before["volumes"]}
        kept = lost.before["kept_volumes"][0][0]
        clones = [id_ for id_, row in rows.items() if row[11] == kept]
        layers.flatten(service, ME, clones[0])
        until(volumes.get, service, clones[0])
        for id_ in [*clones[1:], *(one for one in rows if one not in clones), clones[0]]:
            volumes.delete(service, ME, id_, cascade=True)
            until(volumes.get, service, id_, gone=True)
    assert list(lost.pool.iterdir()) == []
    assert said(lost.catalog)["kept_volumes"] == []
