"""Trying again what did not answer."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

import structlog

from breezeblock.backends.contract import Backend
from breezeblock.backends.proxy import Proxy
from breezeblock.errors import CutOffError, PoolDownError, UnavailableError

T = TypeVar("T")
_log = structlog.get_logger(__name__)


def add_retry(
    backend: Backend,
    *,
    tries: int = 3,
    deaths: int = 8,
    first_seconds: float = 0.2,
    sleep: Callable[[float], None] = time.sleep,
    jitter: Callable[[float, float], float] = random.uniform,
) -> Backend:
    """Repeat a verb that raised `UnavailableError`, up to `tries` calls in all.

    The pause doubles from `first_seconds` and is drawn from its upper half, so that many callers do
    not come back together. Every verb may be repeated (the contract says so). A full storage is
    transient too, but not within seconds: `NoSpaceError` goes to the caller at once.

    A helper process that died (`CutOffError`) says nothing about the storage, as the death of the service
    itself does not: up to `deaths` calls are repeated at once, and count for none. One more and the verb
    itself may be what kills it.
    """

    def around(verb: str, call: Callable[[], T]) -> T:
        died, failed = 0, 0
        while True:
            try:
                return call()
            except PoolDownError:
                raise  # a fraction of a second changes nothing
            except CutOffError as error:
                died += 1
                if died > deaths or tries < 2:
                    raise
                _log.warning("retry", backend=backend.name, verb=verb, died=died, error=str(error))
            except UnavailableError as error:
                failed += 1
                if failed >= tries:
                    raise
                pause = first_seconds * 2 ** (failed - 1)
                _log.warning("retry", backend=backend.name, verb=verb, failed=failed, error=str(error))
                sleep(jitter(pause / 2, pause))

    return Proxy(backend, around)
