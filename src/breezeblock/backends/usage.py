"""How a pool fills: what it held when, kept in a file, and when it will be full if that goes on.

What it holds may be bytes, or the images of its deepest chain: anything with a limit.

The file lies in the state directory of the process that looks at the pools, so that a restart, or the
doctor in a process of its own, knows what was seen before. It is a convenience: what cannot be read or
written is left out.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import structlog

_log = structlog.get_logger(__name__)
Samples = list[tuple[float, int]]
"""(seconds since 1970, bytes or images in use), the oldest first."""

GAP_S = 1800.0
"""Looks that follow each other more closely are not kept."""
KEEP = 500
"""About ten days."""
LEAST_S = 4 * 3600.0
"""What was seen for a shorter time says nothing about the future."""


class Usage:
    """The pools of one back end over time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, used: Mapping[str, int], now: float | None = None) -> Mapping[str, Samples]:
        """Add what pools hold now, and return everything known with it."""
        at = time.time() if now is None else now
        held = self._read()
        known: dict[str, Samples] = {}
        news = False
        for pool, amount in used.items():
            before = [sample for sample in held.get(pool, []) if sample[0] <= at][-KEEP:]
            known[pool] = [*before, (at, amount)]
            if before and at - before[-1][0] < GAP_S:
                held[pool] = before
            else:
                held[pool], news = known[pool], True
        if news:
            self._write(held)
        return known

    def _read(self) -> dict[str, Samples]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, Samples])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError) as error:
            _log.info("usage_not_read", path=str(self._path), error=type(error).__name__)
            return {}

    def _write(self, held: Mapping[str, Samples]) -> None:
        temp = self._path.with_name(f".tmp-{self._path.name}")
        try:
            temp.write_bytes(msgspec.json.encode(held))
            temp.rename(self._path)
        except OSError as error:
            _log.info("usage_not_kept", path=str(self._path), error=type(error).__name__)


def full_in_s(samples: Sequence[tuple[float, int]], limit: int) -> float | None:
    """Return in how many seconds a pool is full, by the straight line through what was seen.

    None where too little was seen, or where it does not fill.
    """
    if len(samples) < 3 or samples[-1][0] - samples[0][0] < LEAST_S:
        return None
    begun = samples[0][0]
    times = [at - begun for at, _used in samples]
    mean_time = sum(times) / len(times)
    mean_used = sum(used for _at, used in samples) / len(samples)
    spread = sum((at - mean_time) ** 2 for at in times)
    slope = (
        sum((at - mean_time) * (used - mean_used) for at, (_at, used) in zip(times, samples, strict=True))
        / spread
    )
    free = limit - samples[-1][1]
    return max(0.0, free / slope) if slope > 0 else None
