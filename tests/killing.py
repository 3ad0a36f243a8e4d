"""What kills a service, or a helper process of it, at random moments."""

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from served import PATIENCE_S, Served


def kill_service(served: Served) -> Callable[[random.Random], None]:
    """Return what kills the service, and starts it anew."""

    def kill(_chance: random.Random) -> None:
        served.kill()
        served.start()

    return kill


def kill_helper(served: Served) -> Callable[[random.Random], None]:
    """Return what kills one of the service's helper processes."""

    def kill(chance: random.Random) -> None:
        end = time.monotonic() + PATIENCE_S
        while True:
            found = [
                pid for pid in children(served.processes["one"].pid) if b"backends.helper" in command(pid)
            ]
            if found:
                with suppress(ProcessLookupError):  # gone by now, which is as good
                    os.kill(chance.choice(found), signal.SIGKILL)
                return
            assert time.monotonic() < end, "there is no helper process"
            time.sleep(0.02)

    return kill


def children(pid: int) -> list[int]:
    """Return the processes that this one started."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found += [int(word) for word in (task / "children").read_text().split()]
        except OSError:
            continue
    return found


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
