"""`python -m benchmarks.xenserver [--volumes N]`: what a XenServer pool of many volumes costs, in calls.

Runs against the simulator (tests/simulators/xenserver), so the seconds say how busy this machine is; the
calls are those that a real pool would get.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests" / "simulators"), str(ROOT / "tests" / "xenapi")]


def main() -> None:
    from xen_storage import Admin, XenStorage
    from xenserver import simulated

    from breezeblock.attempt import Attempt
    from breezeblock.backends.contract import Snapshot, Volume
    from breezeblock.backends.xenserver_tags import SELF, VOLUME

    parser = argparse.ArgumentParser(prog="python -m benchmarks.xenserver", description=__doc__)
    parser.add_argument("--volumes", type=int, default=1000)
    count: int = parser.parse_args().volumes
    with simulated() as simulator, tempfile.TemporaryDirectory() as folder:
        sr = Admin(simulator).make_sr("nfs", "bench")
        ids = [str(uuid4()) for _ in range(count)]
        simulator.do("fill", sr=sr, marks=[{VOLUME: one, SELF: "UUID"} for one in ids], size=1 << 30)
        storage = XenStorage(simulator, Path(folder), sr)

        def measure(verb: str, call: Callable[[], object]) -> object:
            simulator.do("calls", reset=True)
            begun = time.perf_counter()
            result = call()
            seconds = time.perf_counter() - begun
            calls = simulator.do("calls")
            print(f"{verb:<12}{sum(calls.values()):>4} calls {seconds * 1000:>9.1f} ms  {calls}")
            return result

        print(f"{count} volumes on one SR")
        backend = storage.open()
        measure("start", storage.open)
        measure("stats", backend.stats)
        measure("inventory", lambda: list(backend.inventory()))
        measure("sweep", lambda: backend.sweep(frozenset()))
        all_of_them = [Volume(id=one, virtual_bytes=1 << 30, pool="gold") for one in ids]
        measure("check all", lambda: [backend.check(one, ()) for one in all_of_them])
        volume = Volume(id=str(uuid4()), virtual_bytes=1 << 30, pool="gold")
        snapshot = Snapshot(id=str(uuid4()), volume_id=volume.id, virtual_bytes=1 << 30)
        clone = Volume(id=str(uuid4()), virtual_bytes=1 << 30, pool="gold")
        now = Attempt(operation_id=str(uuid4()), token="1")
        measure("create", lambda: backend.create(volume, now))
        measure("snapshot", lambda: backend.snapshot(volume, snapshot, now))
        measure("clone", lambda: backend.create_from_snapshot(volume, snapshot, clone, now))
        measure("check", lambda: backend.check(volume, (snapshot,)))
        measure("delete", lambda: backend.delete(volume, now))
        backend.stop()


if __name__ == "__main__":
    main()
