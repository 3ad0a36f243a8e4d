"""A thousand volumes cost as many calls as ten."""

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from xen_storage import Admin, XenStorage
from xenserver import Simulator, simulated

from breezeblock.backends.contract import Backend, Volume
from breezeblock.backends.xenserver_tags import SELF, VOLUME

MIB = 1 << 20


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with simulated("--http") as running:
        yield running


def counted(simulator: Simulator, call: Callable[[], object]) -> dict[str, int]:
    simulator.do("calls", reset=True)
    call()
    calls: dict[str, int] = simulator.do("calls")
    return calls


def costs(simulator: Simulator, folder: Path, count: int) -> dict[str, dict[str, int]]:
    sr = Admin(simulator).make_sr("nfs", f"many-{count}")
    ids = [str(uuid4()) for _ in range(count)]
    simulator.do("fill", sr=sr, marks=[{VOLUME: one, SELF: "UUID"} for one in ids], size=4 * MIB)
    storage = XenStorage(simulator, folder, sr)
    opened: list[Backend] = []
    found: dict[str, dict[str, int]] = {"start": counted(simulator, lambda: opened.append(storage.open()))}
    (backend,) = opened
    found["stats"] = counted(simulator, backend.stats)
    seen: list[str | None] = []
    found["inventory"] = counted(simulator, lambda: seen.extend(one.volume_id for one in backend.inventory()))
    assert sorted(ids) == sorted(one for one in seen if one)
    found["sweep"] = counted(simulator, lambda: backend.sweep(frozenset()))
    volume = Volume(id=ids[0], virtual_bytes=4 * MIB, pool="gold")
    found["check"] = counted(simulator, lambda: backend.check(volume, ()))
    backend.stop()
    return found


def test_calls_do_not_grow_with_the_volumes(simulator: Simulator, tmp_path: Path) -> None:
    few, many = costs(simulator, tmp_path, 10), costs(simulator, tmp_path, 1000)
    assert few == many
    for verb, calls in many.items():
        assert sum(calls.values()) <= 3, (verb, calls)
