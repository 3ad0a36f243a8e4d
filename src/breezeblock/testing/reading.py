"""Promises of the verbs that tell: data, connection_info, check, inventory, stats, capabilities, sweep."""

from uuid import uuid4

import msgspec

from breezeblock.errors import BreezeblockError
from breezeblock.testing.case import case, raises
from breezeblock.testing.lab import Lab


@case("data")
def _data_reads_and_writes_the_same_bytes(lab: Lab) -> None:
    disk = lab.create()
    with lab.backend.open_data(disk.volume, writable=True) as data:
        assert data.virtual_bytes == disk.volume.virtual_bytes
        assert data.read(0, 8192) == disk.content[:8192]
        data.write(1000, b"not aligned")
        disk.content[1000:1011] = b"not aligned"
        data.zero(3000, 2000)
        disk.content[3000:5000] = bytes(2000)
        data.flush()
    lab.verify()


@case("data")
def _data_extents_cover_the_volume_in_order(lab: Lab) -> None:
    disk = lab.create()
    lab.write(disk, lab.unit // 2)
    with lab.backend.open_data(disk.volume) as data:
        for start, length in ((0, lab.unit), (512, lab.unit - 1024), (lab.unit // 2, 512)):
            at = start
            for offset, size, is_data in data.extents(start, length):
                assert offset == at, f"extents leave a gap or overlap at {at}"
                assert size > 0, f"an empty extent at {at}"
                at += size
                assert is_data or not any(disk.content[offset:at]), f"bytes {offset} to {at} are no zeros"
            assert at == start + length, f"extents end at {at}"


@case("data", "snapshots")
def _data_of_a_snapshot_is_read_only(lab: Lab) -> None:
    disk = lab.create()
    lab.snapshots(disk, 2)
    for snapshot, content in disk.snapshots.values():
        with lab.backend.open_data(disk.volume, snapshot) as data:
            assert data.read(0, data.virtual_bytes) == content
    oldest = disk.at(0)

    def write() -> None:
        with lab.backend.open_data(disk.volume, oldest, writable=True):
            pass

    raises(BreezeblockError, write, "opening a snapshot for writing")


@case()
def _connection_info_is_json_and_can_be_withdrawn(lab: Lab) -> None:
    disk = lab.create()
    connector = {"host": "a-host", "ip": "192.0.2.1", "initiator": "iqn.2026-01.org.example:a-host"}
    info = lab.backend.connection_info(disk.volume, connector)
    assert info.driver_volume_type, "connection_info names no driver_volume_type"
    assert msgspec.json.decode(msgspec.json.encode(info.data)) == info.data
    assert lab.backend.connection_info(disk.volume, connector).data == info.data
    for _ in range(2):
        lab.backend.disconnect(disk.volume, connector)
    lab.verify()


@case()
def _check_finds_damage(lab: Lab) -> None:
    whole, broken = lab.create(), lab.create()
    lab.storage.damage(broken.volume)
    findings = [one for one in lab.backend.check(broken.volume, ()) if one.severity == "error"]
    assert findings, "check finds nothing wrong with a volume that was damaged"
    for finding in findings:
        assert finding.problem, "a finding does not say what is wrong"
        assert finding.remedy, "a finding does not say what would mend it"
    lab.verify(whole)
    lab.delete(broken)


@case()
def _check_misses_a_volume_that_is_not_there(lab: Lab) -> None:
    disk = lab.create()
    lab.delete(disk)
    assert [one for one in lab.backend.check(disk.volume, ()) if one.severity == "error"]


@case("snapshots")
def _check_misses_a_snapshot_that_is_not_there(lab: Lab) -> None:
    disk = lab.create()
    known = lab.new_snapshot(disk)
    assert [one for one in lab.backend.check(disk.volume, (known,)) if one.severity == "error"]


@case()
def _inventory_names_every_volume_once(lab: Lab) -> None:
    disks = [lab.create() for _ in range(3)]
    if lab.able.snapshots:
        lab.snapshots(disks[0], 2)
    seen = list(lab.backend.inventory())
    assert {found.pool for found in seen} <= {pool.name for pool in lab.backend.stats()}
    for disk in disks:
        mine = [one for one in seen if one.volume_id == disk.volume.id]
        assert len([one for one in mine if one.kind == "volume"]) == 1, "not one entry for a volume"
        snapshots = [one for one in mine if one.kind == "snapshot"]
        assert len(snapshots) == len(disk.snapshots), "not one entry for each snapshot"
        assert not [one for one in mine if one.kind == "temporary"], "temporary work is left"
    lab.verify()


@case()
def _stats_describe_the_pools(lab: Lab) -> None:
    pools = lab.backend.stats()
    assert len({pool.name for pool in pools}) == len(pools) > 0
    for pool in pools:
        assert pool.up, f"pool {pool.name} is down: {pool.reason}"
        if pool.total_bytes is not None and pool.free_bytes is not None:
            assert 0 <= pool.free_bytes <= pool.total_bytes


@case()
def _capabilities_are_constant(lab: Lab) -> None:
    before = lab.backend.capabilities()
    lab.reopen()
    assert lab.backend.capabilities() == before
    assert before.storage_protocol
    assert before.snapshots or (before.revert == "none" and not before.create_from_snapshot)


@case()
def _sweep_leaves_what_is_published(lab: Lab) -> None:
    disk = lab.create()
    if lab.able.snapshots:
        lab.snapshots(disk, 1)
    lab.backend.sweep(frozenset({str(uuid4())}))
    assert lab.backend.sweep(frozenset()) == []
    lab.verify()


@case()
def _open_twice_sees_the_same(lab: Lab) -> None:
    disk = lab.create()
    other = lab.storage.open()
    try:
        assert not [one for one in other.check(disk.volume, ()) if one.severity == "error"]
    finally:
        other.stop()
    lab.verify()
