"""Which pools are down, since when and why; and when to believe that one is back."""

import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Lock

from breezeblock.errors import PoolDownError

GOOD_LOOKS = 2
"""In a row, until a pool that was down counts as up."""
MOST_GOOD_LOOKS = 16
FLAPPING_S = 300.0
"""Each fall within this time doubles the good looks that the next recovery needs."""


@dataclass(slots=True)
class Health:
    """One pool's. Thread-safe."""

    name: str
    """As it stands in messages."""
    _down: tuple[str, str] | None = None
    """Since when (UTC) and why."""
    _good: int = 0
    _falls: "deque[float]" = field(default_factory=lambda: deque(maxlen=8))
    _lock: Lock = field(default_factory=Lock)

    @property
    def down(self) -> str:
        """Say since when and why it is down; empty while it is up."""
        known = self._down
        return f"down since {known[0]}: {known[1]}" if known else ""

    def check(self) -> None:
        """Raise PoolDownError if it is down."""
        if said := self.down:
            raise PoolDownError(
                f"Pool {self.name} is {said}",
                remedy="Work on it goes on when its storage answers again.",
            )

    def fell(self, reason: str) -> bool:
        """Take it down, or keep it down with what is known by now; tell whether it was up."""
        with self._lock:
            self._good = 0
            was_up = self._down is None
            if self._down is None:
                self._falls.append(time.monotonic())
                since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            else:
                since = self._down[0]
            self._down = (since, reason)
            return was_up

    def answered(self) -> bool:
        """Count a good look; tell whether the pool is up now."""
        with self._lock:
            if self._down is None:
                return True
            self._good += 1
            now = time.monotonic()
            falls = sum(now - fall < FLAPPING_S for fall in self._falls)
            if self._good < min(GOOD_LOOKS << max(falls - 1, 0), MOST_GOOD_LOOKS):
                return False
            self._down = None
            return True
