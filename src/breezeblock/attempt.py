"""One execution of one durable operation, as the floors that do the work see it."""

from collections.abc import Callable
from dataclasses import dataclass, field


def _never() -> bool:
    return False


def _ignore(_done: int, _total: int) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution of one operation.

    `operation_id` is the same on every re-run; `token` is unique to this execution. Both are safe in
    file names. Temporary names hold both (`temp_name`), so that a frozen worker which wakes up late
    cannot touch what its successor made, and a sweep can tell whose they are.
    """

    operation_id: str
    token: str
    progress: Callable[[int, int], None] = field(default=_ignore)
    """Call with (bytes done, bytes total) during long work; cheap, may be called often."""
    cancelled: Callable[[], bool] = field(default=_never)
    """True once the operation was asked to stop: raise `CancelledOperationError` before publishing."""

    io_bytes_per_s: int = 0
    """How fast background work may move bytes; 0 = as fast as it can."""

    @property
    def temp_name(self) -> str:
        """The name (no directory) for this attempt's unpublished work."""
        return f".tmp-{self.operation_id}-{self.token}"
