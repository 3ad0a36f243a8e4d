"""What Prometheus is told of the endpoints of object stores, as the service saw them last."""

from collections.abc import Sequence

from prometheus_client import Gauge

from breezeblock.objects.mirrors.status import EndpointStatus

_LABELS = ("backend", "pool", "endpoint")
_UP = Gauge("breezeblock_endpoint_up", "1 while the endpoint of an object store can be used.", _LABELS)
_SECONDS = Gauge("breezeblock_endpoint_seconds", "What a read from the endpoint took, lately.", _LABELS)


def show(backend: str, pool: str, endpoints: Sequence[EndpointStatus], known: set[str]) -> None:
    """Show a pool's endpoints; of those `known` from earlier times, forget what is none any more."""
    for url in known - {one.url for one in endpoints}:
        for gauge in (_UP, _SECONDS):
            gauge.remove(backend, pool, url)
    known.clear()
    for one in endpoints:
        known.add(one.url)
        _UP.labels(backend, pool, one.url).set(one.state == "up")
        _SECONDS.labels(backend, pool, one.url).set(one.read_ms / 1000)


def show_lost(backend: str, pool: str, known: set[str]) -> None:
    """Show that none of the endpoints could be used."""
    for url in known:
        _UP.labels(backend, pool, url).set(0)
