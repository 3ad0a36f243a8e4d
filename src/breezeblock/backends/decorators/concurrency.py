"""A limit on how much a back end changes at once."""

from collections.abc import Callable
from threading import BoundedSemaphore
from typing import TypeVar

from breezeblock.backends.contract import Backend
from breezeblock.backends.proxy import Proxy

T = TypeVar("T")

CHANGING = frozenset(
    {"create", "delete", "extend", "snapshot", "delete_snapshot", "revert", "clone", "create_from_snapshot"}
)


def limit_concurrency(backend: Backend, *, at_once: int) -> Backend:
    """Let at most `at_once` changing verbs run together; the others wait for their turn.

    Reading verbs pass: statistics and attachments must not wait behind long copies.
    """
    slots = BoundedSemaphore(at_once)

    def around(verb: str, call: Callable[[], T]) -> T:
        if verb not in CHANGING:
            return call()
        with slots:
            return call()

    return Proxy(backend, around)
