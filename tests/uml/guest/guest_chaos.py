"""Random operations on volumes over three NFS shares, while the server, helpers and the service are killed.

As tests/crash/test_chaos.py, where local directories stand for shares and processes start fast.
"""

import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chaos import Chaos
from killing import kill_helper, kill_service
from served import Served

ROOT = Path("/run/nfsroot")
SEED = int(os.environ.get("BREEZEBLOCK_CHAOS_SEED", "0")) or time.time_ns() % 1_000_000
SCALE = int(os.environ.get("BREEZEBLOCK_CHAOS_SCALE", "1"))
"""A process takes seconds to start in here, so that by default this is a fifth of what is done outside."""
OPERATIONS, VOLUMES, THREADS = 60 * SCALE, min(12 * SCALE, 20), 3
KILLS = {"service": SCALE, "helper": 5 * SCALE, "server": 14 * SCALE}
CONFIG = """[backends.nas]
kind = "nfs"
background_bytes_per_s = 0
shares = [{}]
mount_base = "{}"
"""


def kill_server() -> Callable[[random.Random], None]:
    """Return what ends all of the server's threads and connections, and starts it anew a moment later."""

    def kill(chance: random.Random) -> None:
        subprocess.run(["rpc.nfsd", "0"], check=True)
        time.sleep(chance.uniform(0, 0.3))
        subprocess.run(["rpc.nfsd", "-G", "10", "-L", "10", "4"], check=True)
        Path("/proc/fs/nfsd/v4_end_grace").write_text("Y")

    return kill


@pytest.mark.timeout(300 * SCALE)
def test_nothing_is_lost_whatever_is_killed(tmp_path: Path) -> None:
    shares = {}
    lines = []
    for number, version in enumerate(("3", "4.2", "4.1")):
        address = f"/export/chaos{number}"
        (ROOT / address.lstrip("/")).mkdir()
        shares[f"127.0.0.1:{address}"] = ROOT / address.lstrip("/")
        lines.append(f'"127.0.0.1:{address} -o vers={version}"')
    served = Served(
        tmp_path,
        f"sqlite:///{tmp_path / 'catalog.db'}",
        backends=CONFIG.format(", ".join(lines), tmp_path / "mnt"),
    )
    print(f"\nBREEZEBLOCK_CHAOS_SEED={SEED}")
    chaos = Chaos(served, shares, SEED, OPERATIONS, VOLUMES)
    kinds = {"service": kill_service(served), "helper": kill_helper(served), "server": kill_server()}
    killers = [(name, kinds[name]) for name, times in KILLS.items() for _ in range(times)]
    random.Random(SEED).shuffle(killers)
    began = time.monotonic()
    try:
        served.start()
        chaos.run(killers, THREADS)
        chaos.verify()
        chaos.end()
    except AssertionError as error:
        error.add_note(chaos.told())
        raise
    finally:
        served.stop_all()
    print(
        f"{chaos.done} operations ({chaos.refused} more refused) over NFS, kills {chaos.kills}, "
        f"{time.monotonic() - began:.0f} s: nothing lost, stuck or left"
    )
    assert chaos.kills == KILLS
