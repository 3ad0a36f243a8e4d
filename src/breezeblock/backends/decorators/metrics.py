"""How often, how long and how well each verb goes, and what `stats` saw beyond what the catalog keeps."""

import time
from collections.abc import Callable
from typing import TypeVar, cast
from weakref import WeakKeyDictionary

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from breezeblock.backends.contract import Backend, Pool
from breezeblock.backends.proxy import Proxy

T = TypeVar("T")
_Series = tuple[Histogram, Counter, tuple[Gauge, ...]]
_series: WeakKeyDictionary[CollectorRegistry, _Series] = WeakKeyDictionary()

BUCKETS_SECONDS = (0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60, 600)


def add_metrics(backend: Backend, *, registry: CollectorRegistry) -> Backend:
    """Count every call in `registry`, by back end and verb; failures also by the error's class."""
    seconds, failures, gauges = _series_of(registry)

    def around(verb: str, call: Callable[[], T]) -> T:
        begun = time.perf_counter()
        try:
            answer = call()
            if verb == "stats":
                _show(gauges, backend.name, cast("list[Pool]", answer))
            return answer  # noqa: TRY300 - what fails in here is counted too
        except Exception as error:
            failures.labels(backend.name, verb, type(error).__name__).inc()
            raise
        finally:
            seconds.labels(backend.name, verb).observe(time.perf_counter() - begun)

    return Proxy(backend, around)


def _show(gauges: tuple[Gauge, ...], backend: str, pools: list[Pool]) -> None:
    for pool in pools:
        if pool.health.deepest_chain is None:
            continue
        told = msgspec.structs.astuple(pool.health)[: len(gauges)]
        for gauge, value in zip(gauges, told, strict=True):
            gauge.labels(backend, pool.name).set(float("nan") if value is None else value)


_GAUGES = {  # for the first fields of Health, in their order; endpoints have series of their own
    "deepest_chain": "The most images that any volume of the pool is read through.",
    "unmerged_images": "Images that wait to be merged by the storage itself.",
    "unmerged_bytes": "At most so much is free when they are.",
    "full_in_seconds": "When the pool is full if it goes on filling as it did; NaN: not foreseeable.",
    "chain_full_in_seconds": "When the deepest chain is as deep as may be; NaN: not foreseeable.",
}


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
            tuple(
                Gauge(f"breezeblock_storage_{name}", text, ("backend", "pool"), registry=registry)
                for name, text in _GAUGES.items()
            ),
        )
    return _series[registry]
