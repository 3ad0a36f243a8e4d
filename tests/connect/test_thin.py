"""Thin volumes: what needs no kernel. The rest is done on one, in tests/uml/nbd_guest/guest_thin.py."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from breezeblock.connect import lent, lvm, thin
from breezeblock.connect.served import ServedConnector
from breezeblock.errors import (
    BreezeblockError,
    ConfigError,
    ConflictError,
    CorruptError,
    InvalidInputError,
    NoSpaceError,
    UnavailableError,
    UnsupportedError,
)
from breezeblock.objects import serving
from breezeblock.objects.stores.opening import StoreConfig

GIB = 1 << 30


@given(st.integers(1, thin.MOST_BYTES))
def test_there_is_room_for_every_byte_to_be_mapped(virtual_bytes: int) -> None:
    room = thin.room(virtual_bytes)
    assert room.data >= virtual_bytes
    assert room.data % thin.EXTENT == room.metadata % thin.EXTENT == room.device % thin.EXTENT == 0
    # The least that the kernel's documentation (thin-provisioning.rst) asks for, and LVM's most.
    assert max(2 << 20, 48 * room.data // thin.CHUNK) <= room.metadata < 15.8 * GIB
    assert room.device > room.data + 2 * room.metadata


@given(st.integers(1, thin.MOST_BYTES), st.integers(0, 1 << 40))
def test_more_takes_more_room(virtual_bytes: int, more: int) -> None:
    if virtual_bytes + more > thin.MOST_BYTES:
        with pytest.raises(InvalidInputError, match=str(thin.MOST_BYTES)):
            thin.room(virtual_bytes + more)
        return
    for one, other in zip(thin.room(virtual_bytes), thin.room(virtual_bytes + more), strict=True):
        assert one <= other


def test_names_are_what_device_mapper_makes_of_them() -> None:
    name = thin.snapshot_name("0b8a4f2e-9d8c-4a55-b7a7-4a3a1a2f9c10")
    path = thin.node("f" * 32, name)
    assert str(path) == f"/dev/mapper/breezeblock_{'f' * 32}-s_0b8a4f2e--9d8c--4a55--b7a7--4a3a1a2f9c10"
    assert len(path.name) < 128, "device-mapper's limit"
    assert not name.startswith(("snapshot", "pvmove")), "LVM's own"


def test_a_command_sees_one_device_and_nothing_of_the_host() -> None:
    words = lvm.argv("/dev/nbd3", "lvs", "--all")
    assert words[0] == "lvs"
    assert words[words.index("--devices") + 1] == "/dev/nbd3"
    config = words[words.index("--config") + 1]
    for said in (
        'system_id="breezeblock"',
        "udev_sync=0",
        "backup=0 archive=0",
        "scan_lvs=0",
        "monitoring=0",
    ):
        assert said in config


def test_a_report_is_read() -> None:
    said = {
        "report": [{"lv": [{"lv_name": "pool", "lv_size": "7340032"}, {"lv_name": "volume", "lv_size": "9"}]}]
    }
    assert [row["lv_name"] for row in lvm.read_report(json.dumps(said))] == ["pool", "volume"]
    assert lvm.read_report('{"report": [{"vg": []}]}') == []


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["report", "lv", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.text(max_size=60) | JSON.map(json.dumps))
def test_what_is_no_report_is_refused(text: str) -> None:
    try:
        rows = lvm.read_report(text)
    except UnavailableError:
        return
    assert all(isinstance(value, str) for row in rows for value in row.values())


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("  Logical volume g/volume in use.", ConflictError),
        ("  Logical volume g/volume contains a filesystem in use.", ConflictError),
        ('  Volume group "g" has insufficient free space (3 extents): 20 required.', NoSpaceError),
        ("  Check of pool g/pool failed (status:1). Manual repair required!", CorruptError),
        ("setpriv: failed to execute lvm: No such file or directory", ConfigError),
        ("  WARNING: Metadata changes will NOT be backed up\n  Failed to find it", UnavailableError),
        ("", UnavailableError),
    ],
)
def test_a_complaint_says_what_kind_of_trouble_it_is(said: str, kind: type[BreezeblockError]) -> None:
    error = lvm.failure("lvextend", said)
    assert type(error) is kind
    assert error.message.startswith("lvextend failed: ")
    assert "WARNING" not in error.message


def test_what_is_on_top_is_taken_away_first(tmp_path: Path) -> None:
    """As the kernel shows a pool of which a volume and a snapshot are active."""
    on = {"nbd0": ["dm-0", "dm-1"], "dm-0": ["dm-2"], "dm-1": ["dm-2"], "dm-2": ["dm-3", "dm-4"], "nbd1": []}
    names = {"dm-0": "g-pool_tmeta", "dm-1": "g-pool_tdata", "dm-2": "g-tpool", "dm-3": "g-v", "dm-4": "g-s"}
    for block, name in names.items():
        (tmp_path / block / "dm").mkdir(parents=True)
        (tmp_path / block / "dm" / "name").write_text(f"{name}\n")
    for block, holders in on.items():
        for holder in holders:
            (tmp_path / block / "holders" / holder).mkdir(parents=True)
    found = lvm.stack(tmp_path, "nbd0")
    assert sorted(found) == sorted(names.values())
    for block, holders in on.items():
        for holder in holders:
            assert block == "nbd0" or found.index(names[holder]) < found.index(names[block])
    assert lvm.stack(tmp_path, "nbd1") == []


def test_locks_of_the_dead_are_swept_and_those_of_the_living_respected(tmp_path: Path) -> None:
    dead, living = "d" * 32, "e" * 32
    (tmp_path / f"{dead}.lock").touch()
    with lent._alone(tmp_path, living):
        lent.sweep(tmp_path)
        assert [one.stem for one in tmp_path.iterdir()] == [living]
        with pytest.raises(ConflictError, match="at work on volume"), lent._alone(tmp_path, living, wait_s=0):
            pass
    lent.forget(tmp_path, living)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("read_only", [False, True])
def test_without_the_kernel_there_is_no_way_into_a_pool(tmp_path: Path, *, read_only: bool) -> None:
    def task(data: Mapping[str, Any]) -> serving.Task:
        store = StoreConfig(kind="directory", urls=[str(tmp_path)], layout="flat")
        return serving.Task(store=store, volume=data["export"], socket=tmp_path / "s", journal=tmp_path / "j")

    connector = ServedConnector(task, tmp_path)
    with pytest.raises(UnsupportedError, match="the kernel has to open"):
        connector.attach({"export": "f" * 32, "thin": True}, read_only=read_only)
    assert connector.records() == []
