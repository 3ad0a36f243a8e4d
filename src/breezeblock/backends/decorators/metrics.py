"""How often, how long and how well each verb goes."""

import time
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry, Counter, Histogram

from breezeblock.backends.contract import Backend
from breezeblock.backends.proxy import Proxy

T = TypeVar("T")
_Series = tuple[Histogram, Counter]
_series: WeakKeyDictionary[CollectorRegistry, _Series] = WeakKeyDictionary()

BUCKETS_SECONDS = (0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60, 600)


def add_metrics(backend: Backend, *, registry: CollectorRegistry) -> Backend:
    """Count every call in `registry`, by back end and verb; failures also by the error's class."""
    seconds, failures = _series_of(registry)

    def around(verb: str, call: Callable[[], T]) -> T:
        begun = time.perf_counter()
        try:
            return call()
        except Exception as error:
            failures.labels(backend.name, verb, type(error).__name__).inc()
            raise
        finally:
            seconds.labels(backend.name, verb).observe(time.perf_counter() - begun)

    return Proxy(backend, around)


def _series_of(registry: CollectorRegistry) -> _Series:
    # A registry takes each name once, and several back ends share it.
    if registry not in _series:
        _series[registry] = (
            Histogram(
                "breezeblock_backend_seconds",
                "Time that a back end's verb took.",
                ("backend", "verb"),
                registry=registry,
                buckets=BUCKETS_SECONDS,
            ),
            Counter(
                "breezeblock_backend_failures",
                "Calls of a back end's verb that raised.",
                ("backend", "verb", "error"),
                registry=registry,
            ),
        )
    return _series[registry]
