"""A memory back end that does odd things on order; helper processes import it by name.

The order is a file `order` in the pool's directory; its first word says what the next verbs do.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Placement, Pool, Volume
from breezeblock.backends.memory import MemoryBackend, MemoryConfig
from breezeblock.errors import CancelledOperationError, UnavailableError


class Obstinate(MemoryBackend):
    def __init__(self, name: str, config: MemoryConfig) -> None:
        super().__init__(name, config)
        self.order = Path(config.path) / "order"

    def ordered(self) -> str:
        return self.order.read_text() if self.order.exists() else ""

    def stats(self) -> list[Pool]:
        if self.ordered() in {"hang", "child"}:
            time.sleep(3600)
        if self.ordered() == "down":
            return [Pool(name=self.name, total_bytes=None, free_bytes=None, up=False, reason="It is closed.")]
        return super().stats()

    def create(self, volume: Volume, attempt: Attempt) -> Placement:
        match self.ordered():
            case "hang":
                time.sleep(3600)
            case "child":
                with subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "sleep", "3600"]) as child:
                    (self.order.parent / "child").write_text(str(child.pid))
                    child.wait()
            case "die":
                self.order.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            case "slowly":  # but it gets on
                for part in range(12):
                    time.sleep(0.1)
                    attempt.progress(part, 12)
            case "until cancelled":
                while not attempt.cancelled():
                    time.sleep(0.01)
                raise CancelledOperationError("As you wish.")
            case "error":
                raise UnavailableError("It is tired.", remedy="Let it sleep.")
            case "bug":
                raise KeyError("oops")
        return super().create(volume, attempt)


def open_obstinate(name: str, config: MemoryConfig, _state_dir: Path) -> Obstinate:
    """A memory back end has one pool, called like itself: here, like its directory."""
    return Obstinate(Path(config.path).name or name, config)
