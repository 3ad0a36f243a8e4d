"""The service over a XenServer pool: promises kept through the catalog, the engine and every decorator."""

from pathlib import Path

from running import ME, until
from xen_storage import Admin
from xenserver import simulated

from breezeblock.app.compose import make_service, open_backends
from breezeblock.app.worker import Worker
from breezeblock.catalog import migrate
from breezeblock.catalog.database import Database
from breezeblock.config import Config, DatabaseSection, EngineSection, ServiceSection
from breezeblock.engine.dbos_engine import DbosEngine
from breezeblock.errors import NotFoundError
from breezeblock.service import snapshots, volumes

GIB = 1 << 30


def test_a_volume_through_the_service(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret")
    with simulated("--coalesce-delay", "0.05") as simulator:
        admin = Admin(simulator)
        admin.make_sr("lvmoiscsi", "gold")
        section = {
            "kind": "xenserver",
            "url": simulator.url,
            "password_file": str(tmp_path / "password"),
            "certificate_sha256": simulator.fingerprint,
            "pools": {"gold": {"sr": "gold", "type": "lvmoiscsi"}},
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
            service = make_service(config, database, worker.dispatcher.wake)

            def ready(volume_id: str) -> str:
                wanted = ("available", "error")
                assert until(lambda: volumes.get(service, ME, volume_id).status, *wanted) == "available"
                return volume_id

            volume = ready(volumes.create(service, ME, volumes.NewVolume(virtual_bytes=GIB)))
            (disk,) = admin.ask("VDI.get_by_name_label", f"volume-{volume}")
            simulator.write(admin.ask("VDI.get_uuid", disk), 0, b"kept" * 1024)
            snapshot = snapshots.create(service, ME, snapshots.NewSnapshot(volume_id=volume))
            until(lambda: snapshots.get(service, ME, snapshot).status, "available")
            made = volumes.NewVolume(virtual_bytes=2 * GIB, snapshot_id=snapshot)
            other = ready(volumes.create(service, ME, made))
            (clone,) = admin.ask("VDI.get_by_name_label", f"volume-{other}")
            assert simulator.read(admin.ask("VDI.get_uuid", clone), 4096) == b"kept" * 1024
            assert admin.ask("VDI.get_virtual_size", clone) == str(2 * GIB)
            volumes.delete(service, ME, other)
            until(lambda: volumes.get(service, ME, other).status, "gone")
            snapshots.delete(service, ME, snapshot)
            until(lambda: snapshots.get(service, ME, snapshot).status, "gone")
            volumes.delete(service, ME, volume)
            until(lambda: volumes.get(service, ME, volume).status, "gone")
            assert not [name for name in simulator.do("names") if name.startswith("VDI")]
        except NotFoundError as error:
            raise AssertionError(str(error)) from error
        finally:
            worker.stop(10.0)
            worker.close()
            database.dispose()
