"""How quick an endpoint is, what is late, and how many second requests may be afforded."""

import math
from collections import deque

_WEIGHT = 0.3
_FORGET_S = 10.0
_FLOOR_S = 0.001


class Latency:
    """A moving average that fades while nothing is asked, so that who was slow once is tried again."""

    def __init__(self) -> None:
        self._value, self._at = 0.0, 0.0

    def add(self, seconds: float, now: float) -> None:
        """Take a sample."""
        self._value = seconds if not self._at else self._value + _WEIGHT * (seconds - self._value)
        self._at = now

    def expected(self, now: float) -> float:
        """Return what the next request will take, in seconds; at least 1 ms, so that load counts too."""
        return max(_FLOOR_S, self._value * math.exp(-max(0.0, now - self._at) / _FORGET_S))


class Late:
    """The 95th percentile of the last 256 samples, counted anew for every 16."""

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=256)
        self.count = 0
        self.after_s = 0.0

    def add(self, seconds: float) -> None:
        """Take a sample."""
        self._samples.append(seconds)
        self.count += 1
        if self.count % 16 == 0 or self.count < 32:
            ordered = sorted(self._samples)
            self.after_s = max(_FLOOR_S, ordered[min(len(ordered) - 1, len(ordered) * 95 // 100)])


class Budget:
    """So many extra requests for each ordinary one, and a few in a burst."""

    def __init__(self, share: float, burst: float = 8.0) -> None:
        self._share, self._burst, self._left = share, burst, 1.0

    def earn(self) -> None:
        """Count an ordinary request."""
        self._left = min(self._burst, self._left + self._share)

    def spend(self) -> bool:
        """Take one, if there is one."""
        if self._left < 1:
            return False
        self._left -= 1
        return True
