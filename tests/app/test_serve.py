"""The served process seen from outside: health, metrics, a broken configuration, a port that is taken."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from served import Served


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    service = Served(tmp_path, f"sqlite:///{tmp_path / 'catalog.db'}")
    yield service
    service.stop_all()


def test_health_and_metrics(served: Served) -> None:
    served.start()
    served.volume()
    root = f"http://127.0.0.1:{served.port}"
    health = requests.get(f"{root}/healthz", timeout=10)
    assert (health.status_code, health.json()["status"]) == (200, "ok")
    metrics = requests.get(f"{root}/metrics", timeout=10).text
    for line in (
        'breezeblock_volumes{status="available"} 1.0',
        'breezeblock_operations{status="done"} 1.0',
        'breezeblock_pool_up{backend="local",pool="local"} 1.0',
        'breezeblock_pool_provisioned_bytes{backend="local",pool="local"} 1.073741824e+09',
        "breezeblock_rows_without_operation 0.0",
    ):
        assert line in metrics, metrics[-3000:]


def test_larger_than_any_pool_names_each(served: Served) -> None:
    served.start()
    status, body = served.call("POST", "/volumes", {"volume": {"size": 2_000_000}})
    assert status == 400
    assert "local#local: " in body["badRequest"]["message"]
    assert "may promise" in body["badRequest"]["message"]
    assert served.all("volumes") == []


def test_the_database_is_nobody_elses(served: Served) -> None:
    served.start()
    for path in served.directory.glob("catalog.db*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_port_that_is_taken_ends_the_second(served: Served, tmp_path: Path) -> None:
    served.start()
    other = tmp_path / "other"
    other.mkdir()
    second = Served(other, f"sqlite:///{other / 'catalog.db'}", port=served.port)
    second.start(wait=False)
    assert second.processes["one"].wait(60) == 1
    assert "already in use" in second.log()


def test_a_wrong_configuration_is_one_clear_line(tmp_path: Path) -> None:
    config = tmp_path / "breezeblock.toml"
    config.write_text("[api]\nprot = 1\n")
    done = subprocess.run(
        [sys.executable, "-m", "breezeblock", "serve", "--config", str(config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode != 0
    assert "prot" in done.stderr
    assert "Traceback" not in done.stderr
