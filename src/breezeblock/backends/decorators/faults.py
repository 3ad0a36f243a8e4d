"""Failures on order, for tests."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Literal, TypeVar

from breezeblock.backends.contract import Backend
from breezeblock.backends.proxy import Proxy

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What shall go wrong with the `nth` call of `verb` (from 1; 0 = with each)."""

    verb: str
    nth: int = 1
    when: Literal["before", "after"] = "before"
    """After: the back end did its work, the caller never hears of it."""
    error: Exception | None = None
    """Raised; None: the process kills itself as `kill -9` would."""
    delay_seconds: float = 0.0
    """Waited first. With `error` None and a delay, only the delay happens."""


def add_faults(backend: Backend, *faults: Fault) -> Backend:
    """Make the calls that `faults` names go wrong."""
    calls: Counter[str] = Counter()
    lock = Lock()

    def around(verb: str, call: Callable[[], T]) -> T:
        with lock:
            calls[verb] += 1
            number = calls[verb]
        due = [fault for fault in faults if fault.verb == verb and fault.nth in {0, number}]
        for fault in due:
            if fault.when == "before":
                _strike(fault)
        result = call()
        for fault in due:
            if fault.when == "after":
                _strike(fault)
        return result

    return Proxy(backend, around)


def _strike(fault: Fault) -> None:
    if fault.delay_seconds:
        time.sleep(fault.delay_seconds)
    if fault.error is not None:
        raise fault.error
    if not fault.delay_seconds:
        os.kill(os.getpid(), signal.SIGKILL)
