"""Every verb of the XenServer back end killed before its lines, over each engine of the simulator."""

import os
from collections.abc import Iterator

import pytest
from xen_storage import Admin, XenStorage
from xenserver import Simulator, simulated

from breezeblock.testing import Ending, Scenario, kill_everywhere, kills


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    luns = ",".join(str(size * UNIT) for size in [1] * 8 + [2] * 4 + [4])
    # TLS costs a process that lives for one verb more than the verb; other tests speak it.
    # Small disks: this is about steps, not about bytes.
    small = ("--luns", luns, "--round", str(UNIT), "--capacity", str(1 << 30))
    with simulated("--http", "--coalesce-delay", "0.01", *small) as running:
        yield running


UNIT = 64 << 10
STRIDES = {"lvmoiscsi": 6, "nfs": 24, "netapp": 24, "iscsi": 5}
"""The verbs run the same lines over each engine with snapshots, and writing VHDs takes longest.

BREEZEBLOCK_KILL_STRIDE=1 kills before every line."""
ASKED = int(os.environ.get("BREEZEBLOCK_KILL_STRIDE", "0"))


@pytest.fixture(scope="module", params=STRIDES)
def storage(
    request: pytest.FixtureRequest, simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> XenStorage:
    kind = str(request.param)
    sr = Admin(simulator).make_sr(kind, f"sr-{kind}")
    return XenStorage(simulator, tmp_path_factory.mktemp(kind), sr, kind, unit_bytes=UNIT)


@pytest.mark.crash
@pytest.mark.parametrize(("scenario", "ending"), kills(), ids=str)
def test_killed_anywhere(scenario: Scenario, ending: Ending, storage: XenStorage) -> None:
    report = kill_everywhere(storage, scenario, ending, stride=ASKED or STRIDES[storage.kind])
    if report is None:
        assert not scenario.needs(storage.open().capabilities())
        return
    assert report.kills > 0
