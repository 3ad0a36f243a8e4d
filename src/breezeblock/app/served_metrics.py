"""What Prometheus is told of the volumes of object stores that this host serves to itself."""

from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from breezeblock.app import attaching
from breezeblock.backends.rest_config import RestConfig
from breezeblock.backends.rest_served import views
from breezeblock.config import Config
from breezeblock.objects.mirrors.status import EndpointStatus

_ANSWER_S = 1.0
_GAUGES = {  # fields of View
    "length": "Bytes of the volume.",
    "connections": "NBD clients.",
    "waiting_segments": "Full segments that the store has not confirmed.",
    "waiting_age_s": "For how long the oldest write has been waiting for the store.",
    "journal_bytes": "What the journal takes on the local disk.",
    "cached_bytes": "What of the store is in memory.",
}
_COUNTERS = {
    "written": "Writes taken.",
    "stored": "Writes in the store.",
    "uploaded_bytes": "Bytes sent off.",
}
_ENDPOINT_GAUGES: dict[str, tuple[str, Callable[[EndpointStatus], float]]] = {
    "up": ("1 while it can be used.", lambda one: one.state == "up"),
    "connections": ("Connections to the endpoint.", lambda one: one.connections),
    "read_seconds": ("What a read from the endpoint took, lately.", lambda one: one.read_ms / 1000),
    "write_seconds": ("What a write to the endpoint took, lately.", lambda one: one.write_ms / 1000),
}
_ENDPOINT = {  # fields of EndpointStatus
    "asked": "Requests to the endpoint.",
    "failed": "Requests to the endpoint that failed.",
    "hedged": "Second requests, sent because another endpoint was late.",
    "bytes_read": "Bytes read from the endpoint.",
    "bytes_written": "Bytes written to the endpoint.",
}


class Served(Collector):
    """Asks the processes that serve volumes when Prometheus asks."""

    def __init__(self, config: Config) -> None:
        """Look where the configuration's back ends have their sockets."""
        kinds = {name: section.get("kind") for name, section in config.backends.items()}
        self._settings: dict[str, RestConfig] = {
            name: attaching.rest_config(config, name) for name, kind in kinds.items() if kind == "rest"
        }

    def describe(self) -> list[Metric]:
        """Describe nothing ahead, so that registering asks nobody."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield what each process tells; one that does not answer in a second is left out."""
        seen = [
            (name, one)
            for name, settings in self._settings.items()
            for one in views(Path(settings.run_dir), timeout_s=_ANSWER_S)
        ]
        for field, text in _GAUGES.items():
            gauge = GaugeMetricFamily(f"breezeblock_served_{field}", text, labels=("backend", "volume"))
            for name, one in seen:
                gauge.add_metric((name, one.volume), float(getattr(one, field)))
            yield gauge
        gauge = GaugeMetricFamily(
            "breezeblock_served_up",
            "1 while the volume can be written, and nothing keeps its store away.",
            labels=("backend", "volume"),
        )
        for name, one in seen:
            gauge.add_metric((name, one.volume), float(not (one.failed or one.trouble)))
        yield gauge
        for field, text in _COUNTERS.items():
            counter = CounterMetricFamily(f"breezeblock_served_{field}", text, labels=("backend", "volume"))
            for name, one in seen:
                counter.add_metric((name, one.volume), float(getattr(one, field)))
            yield counter
        labels = ("backend", "volume", "endpoint")
        for field, (text, of) in _ENDPOINT_GAUGES.items():
            gauge = GaugeMetricFamily(f"breezeblock_served_endpoint_{field}", text, labels=labels)
            for name, one in seen:
                for endpoint in one.mirrors.endpoints:
                    gauge.add_metric((name, one.volume, endpoint.url), float(of(endpoint)))
            yield gauge
        for field, text in _ENDPOINT.items():
            counter = CounterMetricFamily(f"breezeblock_served_endpoint_{field}", text, labels=labels)
            for name, one in seen:
                for endpoint in one.mirrors.endpoints:
                    counter.add_metric((name, one.volume, endpoint.url), float(getattr(endpoint, field)))
            yield counter
