"""A thousand volumes cost as many calls as ten."""

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from xen_storage import Admin, XenStorage
from xenserver import Simulator, simulated

from breezeblock.attempt import Attempt
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
    volumes = [Volume(id=one, virtual_bytes=4 * MIB, pool="gold") for one in ids]
    found["check"] = counted(simulator, lambda: backend.check(volumes[0], ()))
    # A look is shared for five seconds, in which a thousand are compared many times over.
    calls = counted(simulator, lambda: [problem for one in volumes for problem in backend.check(one, ())])
    assert sum(calls.values()) <= 3, calls
    backend.stop()
    return found


def test_a_look_that_is_shared_never_tells_of_what_is_not(simulator: Simulator, tmp_path: Path) -> None:
    storage = XenStorage(simulator, tmp_path, Admin(simulator).make_sr("nfs", "shared looks"))
    backend = storage.open()
    first, second = (Volume(id=str(uuid4()), virtual_bytes=4 * MIB, pool="gold") for _ in range(2))
    attempt = Attempt(operation_id=str(uuid4()), token="1")
    backend.create(first, attempt)
    assert backend.check(first, ()) == []
    placed = backend.create(second, attempt)
    assert backend.check(second, ()) == [], "the look was older than the volume"
    simulator.do("lose", vdi=placed.locator)
    (finding,) = backend.check(second, ())
    assert "no disk" in finding.problem
    backend.delete(first, attempt)
    backend.stop()


def test_calls_do_not_grow_with_the_volumes(simulator: Simulator, tmp_path: Path) -> None:
    few, many = costs(simulator, tmp_path, 10), costs(simulator, tmp_path, 1000)
    assert few == many
    for verb, calls in many.items():
        assert sum(calls.values()) <= 3, (verb, calls)
