"""What a pool's operator is told in time, and what is refused because data or space would be lost."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from xen_storage import Admin, XenStorage
from xenserver import Simulator, simulated

from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Backend, Placement, Pool, Snapshot, Volume
from breezeblock.backends.decorators.metrics import add_metrics
from breezeblock.backends.usage import LEAST_S, Samples, Usage, full_in_s
from breezeblock.backends.xenserver import open_xenserver
from breezeblock.backends.xenserver_config import XenPool
from breezeblock.errors import BreezeblockError, ConflictError, NoSpaceError
from breezeblock.xenapi.mirror import View
from breezeblock.xenapi.records import Vdi
from breezeblock.xenapi.trees import Trees

MIB, HOUR = 1 << 20, 3600.0


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with simulated("--http", "--coalesce-delay", "0.02") as running:
        yield running


def attempt() -> Attempt:
    return Attempt(operation_id=str(uuid4()), token="1")


def new(size: int = 4 * MIB) -> Volume:
    return Volume(id=str(uuid4()), virtual_bytes=size, pool="gold")


def snap(backend: Backend, volume: Volume) -> Snapshot:
    one = Snapshot(id=str(uuid4()), volume_id=volume.id, virtual_bytes=volume.virtual_bytes)
    backend.snapshot(volume, one, attempt())
    return one


def held(simulator: Simulator, folder: Path, kind: str = "nfs") -> XenStorage:
    return XenStorage(simulator, folder, Admin(simulator).make_sr(kind, f"{kind} {uuid4()}"), kind)


def only(backend: Backend) -> Pool:
    (pool,) = backend.stats()
    return pool


def switch(simulator: Simulator, sr: str, **switches: str) -> None:
    admin = Admin(simulator)
    admin.ask("SR.set_other_config", admin.ask("SR.get_by_uuid", sr), switches)


def test_depth_and_debt_are_told_and_go_when_the_collector_works(
    simulator: Simulator, tmp_path: Path
) -> None:
    storage = held(simulator, tmp_path)
    switch(simulator, storage.sr, gc="false")
    backend = storage.open()
    registry = CollectorRegistry()
    measured, volume = add_metrics(backend, registry=registry), new()
    placed = backend.create(volume, attempt())
    assert (only(backend).health.deepest_chain, only(backend).health.unmerged_images) == (1, 0)
    taken = []
    for _ in range(22):
        simulator.write(placed.locator, 0, uuid4().bytes * 256)
        taken.append(snap(backend, volume))
    assert only(backend).health.deepest_chain == 23
    for one in taken[5:19]:
        backend.delete_snapshot(volume, one, attempt())
    pool = only(measured)
    assert (pool.health.unmerged_images, pool.health.deepest_chain) == (14, 23)
    assert pool.health.unmerged_bytes > 0
    problems = " ".join(finding.problem for finding in pool.findings)
    assert "chain of 23" in problems
    assert "14 images wait" in problems
    labels = {"backend": "xen", "pool": "gold"}
    assert registry.get_sample_value("breezeblock_storage_unmerged_images", labels) == 14
    assert registry.get_sample_value("breezeblock_storage_deepest_chain", labels) == 23
    switch(simulator, storage.sr)
    simulator.do("collect")
    pool = only(measured)
    assert (pool.health.unmerged_images, pool.health.unmerged_bytes, pool.findings) == (0, 0, ())
    assert registry.get_sample_value("breezeblock_storage_unmerged_bytes", labels) == 0
    backend.delete(volume, attempt())
    backend.stop()


def test_a_pool_that_fills_says_when_it_is_full(simulator: Simulator, tmp_path: Path) -> None:
    storage = held(simulator, tmp_path)
    simulator.do("capacity", sr=storage.sr, count=100 * MIB)
    volume = new()
    backend = storage.open()
    backend.create(volume, attempt())
    now = time.time()
    usage = Usage(tmp_path / "xen.usage.json")
    for hour in range(10, 0, -1):
        usage.note({"gold": 0}, now - (hour + 60) * HOUR)
    used = only(backend).total_bytes, only(backend).free_bytes
    assert None not in used
    pool = only(storage.open())
    assert pool.health.full_in_s is not None
    assert pool.health.full_in_s > 0
    backend.delete(volume, attempt())
    backend.stop()


def test_a_chain_that_grows_says_when_it_is_at_its_limit(simulator: Simulator, tmp_path: Path) -> None:
    storage = held(simulator, tmp_path)
    switch(simulator, storage.sr, gc="false")
    backend, volume = storage.open(), new()
    registry = CollectorRegistry()
    measured = add_metrics(backend, registry=registry)
    placed = backend.create(volume, attempt())
    for _ in range(9):
        simulator.write(placed.locator, 0, uuid4().bytes * 256)
        snap(backend, volume)
    assert only(measured).health.chain_full_in_s is None, "nothing was seen yet"
    (tmp_path / "xen.chains.json").unlink()
    seen = Usage(tmp_path / "xen.chains.json")
    for depth in range(1, 10):
        seen.note({"gold": depth}, time.time() + (depth - 10) * HOUR)
    pool = only(measured)
    assert pool.health.chain_full_in_s == pytest.approx(20 * HOUR, rel=0.01)
    (finding,) = pool.findings
    assert finding.problem == "its deepest chain will be at the limit of 30 in 20 hours if it goes on so"
    metric = "breezeblock_storage_chain_full_in_seconds"
    told = registry.get_sample_value(metric, {"backend": "xen", "pool": "gold"})
    assert told == pool.health.chain_full_in_s
    backend.delete(volume, attempt())
    backend.stop()


@given(
    slope=st.integers(min_value=1, max_value=1 << 40),
    count=st.integers(min_value=3, max_value=40),
    free=st.integers(min_value=0, max_value=1 << 50),
)
def test_a_straight_line_is_foreseen(slope: int, count: int, free: int) -> None:
    samples: Samples = [(at * LEAST_S, slope * at) for at in range(count)]
    full = full_in_s(samples, samples[-1][1] + free)
    assert full == pytest.approx(free / slope * LEAST_S, rel=1e-6)


@pytest.mark.parametrize(
    "samples",
    [[], [(0.0, 1)], [(0.0, 1), (HOUR, 2), (2 * HOUR, 3)], [(0.0, 9), (5 * HOUR, 5), (9 * HOUR, 1)]],
)
def test_what_cannot_be_foreseen_is_not(samples: Samples) -> None:
    assert full_in_s(samples, 100) is None


def test_usage_survives_a_restart_and_damage(tmp_path: Path) -> None:
    path = tmp_path / "usage.json"
    for hour in range(700):
        known = Usage(path).note({"gold": hour, "silver": 1}, 1000.0 + hour * HOUR)
    assert known["gold"][-1] == (1000.0 + 699 * HOUR, 699)
    assert 400 < len(known["gold"]) < 700
    path.write_bytes(b"{broken")
    assert Usage(path).note({"gold": 1}, 1.0) == {"gold": [(1.0, 1)]}
    nowhere = Usage(tmp_path / "missing" / "usage.json")
    assert nowhere.note({"gold": 1}, 1.0) == {"gold": [(1.0, 1)]}


@pytest.mark.parametrize("kind", ["lvmohba", "nfs"])
def test_a_deletion_that_leaves_no_space_to_coalesce_is_refused(
    kind: str, simulator: Simulator, tmp_path: Path
) -> None:
    storage = held(simulator, tmp_path, kind)
    backend, volume, admin = storage.open(), new(8 * MIB), Admin(simulator)
    placed = backend.create(volume, attempt())
    simulator.write(placed.locator, 0, b"x" * (2 * MIB))
    snapshot = snap(backend, volume)
    simulator.write(placed.locator, 4 * MIB, b"y" * (4 * MIB))
    sr = admin.ask("SR.get_by_uuid", storage.sr)
    admin.ask("SR.scan", sr)  # else XenServer does not know what disks hold
    used = int(admin.ask("SR.get_physical_utilisation", sr))
    simulator.do("capacity", sr=storage.sr, count=used + MIB)
    backend.stats()
    simulator.do("calls", reset=True)
    with pytest.raises(NoSpaceError, match="coalescing") as caught:
        backend.delete_snapshot(volume, snapshot, attempt())
    assert "grow the SR" in caught.value.remedy
    assert "Async.VDI.destroy" not in simulator.do("calls")
    simulator.do("capacity", sr=storage.sr, count=used + 6 * MIB)
    backend.stats()
    backend.delete_snapshot(volume, snapshot, attempt())
    simulator.do("collect")
    assert only(backend).health.deepest_chain == 1
    backend.delete(volume, attempt())
    backend.stop()


@pytest.mark.parametrize("kind", ["lvmohba", "nfs"])
def test_the_collector_says_that_it_lacks_space(kind: str, simulator: Simulator, tmp_path: Path) -> None:
    """What would happen if the deletion were not refused: an administrator deletes the same snapshot."""
    storage = held(simulator, tmp_path, kind)
    backend, volume, admin = storage.open(), new(8 * MIB), Admin(simulator)
    placed = backend.create(volume, attempt())
    simulator.write(placed.locator, 0, b"x" * (2 * MIB))
    one = Snapshot(id=str(uuid4()), volume_id=volume.id, virtual_bytes=8 * MIB)
    snapshot = backend.snapshot(volume, one, attempt()).locator
    simulator.write(placed.locator, 4 * MIB, b"y" * (4 * MIB))
    sr = admin.ask("SR.get_by_uuid", storage.sr)
    admin.ask("SR.scan", sr)
    used = int(admin.ask("SR.get_physical_utilisation", sr))
    simulator.do("capacity", sr=storage.sr, count=used + MIB)
    admin.ask("VDI.destroy", admin.ask("VDI.get_by_uuid", snapshot))
    simulator.do("collect")
    told = [m["name"] for m in admin.ask("message.get_all_records").values() if m["obj_uuid"] == storage.sr]
    assert told == ["SM_GC_NO_SPACE"]
    assert only(backend).health.unmerged_images == 1
    backend.delete(volume, attempt())
    backend.stop()


def test_a_volume_goes_though_the_pool_is_full(simulator: Simulator, tmp_path: Path) -> None:
    """With all of it nothing has to be merged."""
    storage = held(simulator, tmp_path)
    backend, volume = storage.open(), new()
    placed = backend.create(volume, attempt())
    for _ in range(3):
        simulator.write(placed.locator, 0, uuid4().bytes * 256)
        snap(backend, volume)
    simulator.do("capacity", sr=storage.sr, count=MIB)
    backend.delete(volume, attempt())
    backend.stop()


def image(uuid: str, parent: str = "", *, used: int = 4, size: int = 10, managed: bool = True) -> Vdi:
    config = {"vhd-parent": parent} if parent else {}
    return Vdi(
        uuid=uuid, SR="sr", virtual_size=size, physical_utilisation=used, managed=managed, sm_config=config
    )


def trees(*found: Vdi) -> Trees:
    return Trees(View({}, {}, {}, {}, {}, {one.uuid: one for one in found}))


def test_the_space_that_merges_need() -> None:
    base, leaf, old = (
        image("base", used=7, managed=False),
        image("leaf", "base"),
        image("old", "base", used=1),
    )
    tree = trees(base, leaf, old)
    assert tree.missing_bytes([old], 0, thick=False) == 2  # 3 more in the base, 1 given back
    assert tree.missing_bytes([old], 2, thick=False) == 0
    assert tree.missing_bytes([leaf], 0, thick=True) == 0  # 3 more, 4 given back
    assert tree.missing_bytes([leaf, old], 0, thick=True) == 0
    assert (tree.depth(leaf), tree.unmerged(leaf)) == (2, 0)
    alone = trees(base, leaf)
    assert (alone.unmerged(leaf), alone.debt("sr").images, alone.debt("sr").reclaimable_bytes) == (1, 1, 4)
    assert alone.debt("other").images == 0
    ring = trees(image("a", "b"), image("b", "a"))
    assert ring.depth(image("a", "b")) == 2


def test_an_sr_in_two_pools_of_hosts_is_refused(simulator: Simulator, tmp_path: Path) -> None:
    storage = held(simulator, tmp_path)
    with simulated("--http") as second:
        there = XenStorage(second, tmp_path / "second", storage.sr)
        there.folder.mkdir()
        admin = Admin(second)
        admin.ask("SR.introduce", storage.sr, "the same", "", "nfs", "user", True, {})
        config = {"server": "nas", "serverpath": "/exports/vm"}
        sr = admin.ask("SR.get_by_uuid", storage.sr)
        for host in admin.ask("host.get_all"):
            record = {"host": host, "SR": sr, "device_config": config, "other_config": {}}
            admin.ask("PBD.plug", admin.ask("PBD.create", record))
        one, two = storage.open(), there.open()
        assert only(one).up
        down = only(two)
        assert not down.up
        assert "at once" in down.reason
        with pytest.raises(ConflictError, match="at once"):
            two.create(new(), attempt())
        assert not only(one).up, "the first does not know of the second"
        for pbd in admin.ask("SR.get_PBDs", sr):
            admin.ask("PBD.unplug", pbd)
        admin.ask("SR.forget", sr)
        two.stats()
        assert only(one).up, "the SR was forgotten there, and yet is refused here"
        one.stop()
        two.stop()


def test_the_doctor_tells(simulator: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from breezeblock.cli import run

    storage = held(simulator, tmp_path)
    switch(simulator, storage.sr, gc="false")
    (tmp_path / "password").write_text("secret")
    path = tmp_path / "breezeblock.toml"
    path.write_text(
        f'[service]\nstate_dir = "{tmp_path}"\n[database]\nurl = "sqlite:///{tmp_path}/catalog.db"\n'
        f'[backends.xen]\nkind = "xenserver"\nurl = "{simulator.url}"\n'
        f'password_file = "{tmp_path}/password"\n'
        f'[backends.xen.pools.gold]\nsr = "{storage.sr}"\ntype = "nfs"\n'
    )
    assert run(["db", "upgrade", "--config", str(path)]) == 0
    backend, volume = storage.open(), new()
    placed = backend.create(volume, attempt())
    for _ in range(20):
        simulator.write(placed.locator, 0, uuid4().bytes * 256)
        snap(backend, volume)
    capsys.readouterr()
    assert run(["doctor", "--config", str(path)]) == 6
    assert "chain of 21" in " ".join(capsys.readouterr().out.split())
    backend.delete(volume, attempt())
    backend.stop()


def test_pools_are_not_measured_together(simulator: Simulator, tmp_path: Path) -> None:
    first, second = held(simulator, tmp_path), held(simulator, tmp_path, "lvmoiscsi")
    pools = {"gold": XenPool(sr=first.sr, type="nfs"), "thick": XenPool(sr=second.sr, type="lvmoiscsi")}
    backend = open_xenserver("xen", first.config(pools=pools), tmp_path)
    backend.start()
    volume = Volume(id=str(uuid4()), virtual_bytes=4 * MIB, pool="thick")
    backend.create(volume, attempt())
    source = new()
    simulator.write(backend.create(source, attempt()).locator, 0, b"moved" * 1000)
    found: dict[str, Any] = {pool.name: pool for pool in backend.stats()}
    assert (found["gold"].health.deepest_chain, found["thick"].health.deepest_chain) == (1, 1)
    assert found["gold"].capabilities.thin
    assert not found["thick"].capabilities.thin
    assert found["thick"].capabilities.facts["sr_type"] == "lvmoiscsi"
    one = snap(backend, source)
    verbs: tuple[Callable[[Volume], Placement], ...] = (
        lambda target: backend.clone(source, target, attempt()),
        lambda target: backend.create_from_snapshot(source, one, target, attempt()),
    )
    for verb in verbs:
        target = Volume(id=str(uuid4()), virtual_bytes=8 * MIB, pool="thick")
        with pytest.raises(BreezeblockError, match="without copying"):
            verb(target)
        asked = Volume(id=target.id, virtual_bytes=8 * MIB, pool="thick", options={"clone": "full"})
        placed = verb(asked)
        assert simulator.read(placed.locator, 8192) == (b"moved" * 1000).ljust(8192, b"\0")
        assert len(simulator.read(placed.locator, 8 * MIB)) == 8 * MIB
        backend.delete(asked, attempt())
    backend.delete(source, attempt())
    backend.delete(volume, attempt())
    backend.stop()
