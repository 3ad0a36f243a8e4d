"""300 random operations on 20 volumes over three pools, with 60 kills; local directories stand for shares.

The same on real NFS, where the server is killed too, is in tests/uml.
"""

import os
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos import Chaos
from killing import kill_helper, kill_service
from served import Served

OPERATIONS, SERVICE_KILLS, HELPER_KILLS = 300, 6, 54
SEED = int(os.environ.get("BREEZEBLOCK_CHAOS_SEED", "0")) or time.time_ns() % 1_000_000

CONFIG = """[backends.here]
kind = "local"
background_bytes_per_s = 0
[backends.here.pools]
{}
"""


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory where fsync costs nothing: here processes are killed, not machines."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


@pytest.mark.crash
@pytest.mark.timeout(400)
def test_nothing_is_lost_whatever_is_killed(memory: Path) -> None:
    shares = {name: memory / name for name in ("one", "two", "three")}
    for share in shares.values():
        share.mkdir()
    lines = "\n".join(f'{name} = "{share}"' for name, share in shares.items())
    served = Served(
        memory,
        f"sqlite:///{memory / 'catalog.db'}",
        backends=CONFIG.format(lines),
        program=(str(Path(__file__).with_name("apart_local.py")),),
    )
    print(f"\nBREEZEBLOCK_CHAOS_SEED={SEED}")
    chaos = Chaos(served, shares, SEED, OPERATIONS)
    killers = [("service", kill_service(served))] * SERVICE_KILLS + [
        ("helper", kill_helper(served))
    ] * HELPER_KILLS
    random.Random(SEED).shuffle(killers)
    began = time.monotonic()
    try:
        served.start()
        chaos.run(killers)
        chaos.verify()
        chaos.end()
    except AssertionError as error:
        error.add_note(chaos.told())
        raise
    finally:
        served.stop_all()
    print(
        f"{chaos.done} operations ({chaos.refused} more refused), kills {chaos.kills}, "
        f"{time.monotonic() - began:.0f} s: nothing lost, stuck or left"
    )
    assert sum(chaos.kills.values()) == SERVICE_KILLS + HELPER_KILLS
