"""What operations need of an engine, and nothing of how it does it."""

from collections.abc import Callable
from typing import Any, Protocol

Json = Any
"""What JSON can hold: None, bool, int, float, str, and lists and string-keyed dicts of them."""


class Steps(Protocol):
    """Durable steps of one execution."""

    def step(self, name: str, work: Callable[[], Json]) -> Json:
        """Run `work` once: after a crash, a step that had ended gives its recorded outcome again.

        A step that had not ended runs again from its beginning, so it must be idempotent. A
        `BreezeblockError` raised by `work` is recorded too, and raised again.
        """


Body = Callable[[str, int, Steps], None]
"""What an execution does, given the operation's id, the attempt's number, and its steps."""


class Engine(Protocol):
    """Executes operations durably."""

    def launch(self) -> None:
        """Begin. What this executor left unfinished when it died goes on by itself."""

    def start(self, operation_id: str, attempt: int) -> None:
        """Record an execution durably and begin it in a thread of its own; returns at once."""

    def is_live(self, operation_id: str, attempt: int) -> bool:
        """Say whether an execution is under way, or will go on by itself."""

    def forget(self, older_than_s: float) -> None:
        """Drop the records of executions that ended that long ago."""

    def shutdown(self, timeout_s: float) -> None:
        """Stop. Executions still under way stay resumable."""
