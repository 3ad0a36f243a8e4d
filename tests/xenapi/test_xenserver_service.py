"""The service over a XenServer pool: promises kept through the catalog, the engine and every decorator."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from running import ADMIN, ME, until
from xen_storage import Admin
from xenserver import Simulator, simulated

from breezeblock.app.compose import make_service, open_backends
from breezeblock.app.worker import Worker
from breezeblock.backends.contract import Health
from breezeblock.catalog import migrate, pools
from breezeblock.catalog.database import Database
from breezeblock.config import Config, DatabaseSection, EngineSection, ServiceSection
from breezeblock.engine.dbos_engine import DbosEngine
from breezeblock.errors import InvalidInputError
from breezeblock.service import managing, scheduling, snapshots, volume_types, volumes
from breezeblock.service.core import Service

GIB = 1 << 30
POOLS = {"thick": "lvmoiscsi", "files": "nfs", "luns": "iscsi"}


@dataclass
class Running:
    """The service, and the pool behind it as its administrator and its machines see it."""

    service: Service
    simulator: Simulator
    admin: Admin

    def volume(self, **wanted: object) -> str:
        new = volumes.NewVolume(**({"virtual_bytes": GIB} | wanted))  # type: ignore[arg-type]
        made = volumes.create(self.service, ME, new)
        assert self.until_volume(made, "available", "error") == "available"
        return made

    def until_volume(self, volume_id: str, *wanted: str) -> str:
        return until(lambda: volumes.get(self.service, ADMIN, volume_id).status, *wanted)

    def disk(self, volume_id: str) -> str:
        (ref,) = self.admin.ask("VDI.get_by_name_label", f"volume-{volume_id}")
        return str(self.admin.ask("VDI.get_uuid", ref))

    def delete(self, volume_id: str) -> None:
        volumes.delete(self.service, ME, volume_id)
        self.until_volume(volume_id, "gone")


@contextmanager
def running(tmp_path: Path) -> Iterator[Running]:
    (tmp_path / "password").write_text("secret")
    with simulated("--coalesce-delay", "0.05", "--luns", str(GIB)) as simulator:
        admin = Admin(simulator)
        for name, kind in POOLS.items():
            admin.make_sr(kind, name)
        section = {
            "kind": "xenserver",
            "url": simulator.url,
            "password_file": str(tmp_path / "password"),
            "certificate_sha256": simulator.fingerprint,
            "pools": {name: {"sr": name, "type": kind} for name, kind in POOLS.items()},
        }
        config = Config(
            service=ServiceSection(state_dir=str(tmp_path)),
            database=DatabaseSection(url=f"sqlite:///{tmp_path / 'catalog.db'}"),
            engine=EngineSection(poll_interval_s=0.05, executor_id="test"),
            backends={"xen": section},
        )
        database = Database(config.database.url)
        migrate.upgrade(database)
        backends, policies = open_backends(config)
        worker = Worker(config, database, backends, policies, DbosEngine, alone=True)
        worker.start(lost=lambda: None)
        try:
            yield Running(make_service(config, database, worker.dispatcher.wake), simulator, admin)
        finally:
            worker.stop(10.0)
            worker.close()
            database.dispose()


@pytest.fixture(scope="module")
def xen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("service")) as made:
        for name, specs in (
            ("thick", {"thin_provisioning_support": "<is> False", "snapshot_support": "<is> True"}),
            ("files", {"sr_type": "nfs"}),
            ("none", {"sr_type": "gfs2"}),
        ):
            volume_types.create(made.service, ADMIN, name=name, extra_specs=specs)
        yield made


def test_a_volume_through_the_service(xen: Running) -> None:
    volume = xen.volume(volume_type="thick")
    assert volumes.get(xen.service, ME, volume).pool == "thick"
    xen.simulator.write(xen.disk(volume), 0, b"kept" * 1024)
    snapshot = snapshots.create(xen.service, ME, snapshots.NewSnapshot(volume_id=volume))
    until(lambda: snapshots.get(xen.service, ME, snapshot).status, "available")
    other = xen.volume(virtual_bytes=2 * GIB, snapshot_id=snapshot)
    assert xen.simulator.read(xen.disk(other), 4096) == b"kept" * 1024
    clone = xen.admin.ask("VDI.get_by_uuid", xen.disk(other))
    assert xen.admin.ask("VDI.get_virtual_size", clone) == str(2 * GIB)
    xen.delete(other)
    snapshots.delete(xen.service, ME, snapshot)
    until(lambda: snapshots.get(xen.service, ME, snapshot).status, "gone")
    xen.delete(volume)
    managed = [name for name in xen.simulator.do("names") if name.startswith("VDI") and "True" in name]
    assert not managed


def test_types_pick_a_pool_by_what_its_sr_is(xen: Running) -> None:
    volume = xen.volume(volume_type="files")
    assert volumes.get(xen.service, ME, volume).pool == "files"
    with pytest.raises(InvalidInputError, match="its sr_type is lvmoiscsi, not gfs2"):
        xen.volume(volume_type="none")
    xen.delete(volume)


def test_the_service_knows_what_each_pool_can(xen: Running) -> None:
    with xen.service.database.read() as connection:
        rows = pools.all_pools(connection)
    able = {pool.name: scheduling.capabilities(pool) for pool in rows}
    assert all(msgspec.json.decode(pool.health, type=Health).deepest_chain is not None for pool in rows)
    assert {name: one.snapshots for name, one in able.items()} == {
        "thick": True,
        "files": True,
        "luns": False,
    }
    assert {name: one.thin for name, one in able.items()} == {"thick": False, "files": True, "luns": False}


def test_a_machines_disk_is_managed_and_let_go(xen: Running) -> None:
    record = {"name_label": "root disk", "virtual_size": str(GIB), "type": "user", "sharable": False}
    record |= {
        "SR": xen.admin.ask("SR.get_by_name_label", "files")[0],
        "read_only": False,
        "other_config": {},
    }
    ref = xen.admin.ask("VDI.create", record)
    uuid = xen.admin.ask("VDI.get_uuid", ref)
    host = f"{xen.service.settings.host}@xen#files"
    (listed,) = (one for one in managing.survey(xen.service, ADMIN, host) if one.reference == uuid)
    assert (listed.safe, listed.virtual_bytes) == (True, GIB)
    asked = managing.NewManaged(host=host, reference=managing.Reference(name=uuid), volume_type="files")
    volume = managing.manage(xen.service, ADMIN, asked)
    assert xen.until_volume(volume, "available", "error_managing") == "available"
    found = volumes.get(xen.service, ADMIN, volume)
    assert (found.virtual_bytes, found.locator) == (GIB, uuid)
    managing.unmanage(xen.service, ADMIN, volume)
    xen.until_volume(volume, "gone")
    assert xen.admin.ask("VDI.get_name_label", ref) == "root disk"
    back = managing.NewManaged(host=host, reference=managing.Reference(name=f"volume-{volume}"))
    assert managing.manage(xen.service, ADMIN, back) == volume
    assert xen.until_volume(volume, "available", "error_managing") == "available"
    volumes.delete(xen.service, ADMIN, volume)
    xen.until_volume(volume, "gone")
