"""The XenServer back end held to the contract, over each engine of the simulator."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from xen_storage import Admin, XenStorage
from xenserver import Simulator, simulated

from breezeblock.testing import Case, cases


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    luns = ",".join(str(size << 20) for size in [2] * 8 + [4] * 4 + [8])
    with simulated("--luns", luns, "--coalesce-delay", "0.02", "--capacity", str(4 << 30)) as running:
        yield running


@pytest.fixture(scope="module", params=["nfs", "lvmoiscsi", "netapp", "iscsi"])
def storage(
    request: pytest.FixtureRequest, simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> XenStorage:
    kind = str(request.param)
    sr = Admin(simulator).make_sr(kind, f"sr-{kind}")
    folder: Path = tmp_path_factory.mktemp(kind)
    return XenStorage(simulator, folder, sr, kind)


@pytest.mark.parametrize("case", cases(), ids=str)
def test_xenserver(case: Case, storage: XenStorage) -> None:
    case.run(storage)
