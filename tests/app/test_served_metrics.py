"""Metrics of endpoints, and of volumes that this host serves to itself."""

import tempfile
from pathlib import Path
from uuid import uuid4

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest

from breezeblock.app import attaching
from breezeblock.app.served_metrics import Served
from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Volume
from breezeblock.backends.rest import open_rest
from breezeblock.config import Config, ServiceSection


def test_a_served_volume_and_its_endpoint_are_shown() -> None:
    with tempfile.TemporaryDirectory(prefix="b", dir="/dev/shm") as place:
        (Path(place) / "store").mkdir()
        section = {
            "kind": "rest",
            "run_dir": f"{place}/run",
            "journal_dir": f"{place}/journals",
            "pools": {"gold": {"store": "directory", "urls": [f"{place}/store"]}},
        }
        config = Config(service=ServiceSection(state_dir=f"{place}/state"), backends={"cloud": section})
        backend = open_rest("cloud", attaching.rest_config(config, "cloud"), Path(place) / "state")
        registry = CollectorRegistry()
        registry.register(Served(config))
        assert "cloud" not in generate_latest(registry).decode()
        volume = Volume(id=str(uuid4()), virtual_bytes=64 << 20, pool="gold")
        backend.create(volume, Attempt(operation_id=str(uuid4()), token=uuid4().hex))
        data = backend.connection_info(volume, {}).data
        connector = attaching.connector(config, Path(place) / "records")
        connector.attach(data)
        try:
            labels = {"backend": "cloud", "volume": data["export"]}
            assert registry.get_sample_value("breezeblock_served_length", labels) == 64 << 20
            assert registry.get_sample_value("breezeblock_served_up", labels) == 1
            labels["endpoint"] = f"{place}/store"
            assert registry.get_sample_value("breezeblock_served_endpoint_up", labels) == 1
            assert registry.get_sample_value("breezeblock_served_endpoint_asked_total", labels)
            assert registry.get_sample_value("breezeblock_served_endpoint_write_seconds", labels)
            served = registry.get_sample_value("breezeblock_served_endpoint_bytes_written_total", labels)
            (endpoint,) = backend.stats()[0].health.endpoints
            assert (endpoint.url, endpoint.state, endpoint.bytes_written) == (
                labels["endpoint"],
                "up",
                served,
            )
            assert served
        finally:
            connector.detach(data)
        assert "cloud" not in generate_latest(registry).decode()

        seen = {"backend": "cloud", "pool": "gold", "endpoint": f"{place}/store"}
        assert backend.stats()[0].up
        assert REGISTRY.get_sample_value("breezeblock_endpoint_up", seen) == 1
        (Path(place) / "store").rename(Path(place) / "away")
        (lost,) = backend.stats()
        assert not lost.up
        assert [(one.url, one.state) for one in lost.health.endpoints] == [(f"{place}/store", "down")]
        assert REGISTRY.get_sample_value("breezeblock_endpoint_up", seen) == 0
