"""Trying again what did not answer."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

import structlog

from breezeblock.backends.contract import Backend
from breezeblock.backends.proxy import Proxy
from breezeblock.errors import PoolDownError, UnavailableError

T = TypeVar("T")
_log = structlog.get_logger(__name__)


def add_retry(
    backend: Backend,
    *,
    tries: int = 3,
    first_seconds: float = 0.2,
    sleep: Callable[[float], None] = time.sleep,
    jitter: Callable[[float, float], float] = random.uniform,
) -> Backend:
    """Repeat a verb that raised `UnavailableError`, up to `tries` calls in all.

    The pause doubles from `first_seconds` and is drawn from its upper half, so that many callers do
    not come back together. Every verb may be repeated (the contract says so). A full storage is
    transient too, but not within seconds: `NoSpaceError` goes to the caller at once.
    """

    def around(verb: str, call: Callable[[], T]) -> T:
        for number in range(1, tries):
            try:
                return call()
            except PoolDownError:
                raise  # a fraction of a second changes nothing
            except UnavailableError as error:
                pause = first_seconds * 2 ** (number - 1)
                _log.warning("retry", backend=backend.name, verb=verb, failed=number, error=str(error))
                sleep(jitter(pause / 2, pause))
        return call()

    return Proxy(backend, around)
