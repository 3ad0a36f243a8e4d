from pathlib import Path

import pytest
from life_cycle import Story, tell

from breezeblock.backends.registry import open_backend, read_config


@pytest.mark.parametrize(
    ("options", "other"),
    [
        ({}, {"format": "qcow2"}),
        ({"format": "qcow2"}, {"format": "raw"}),
        ({"provisioning": "thick"}, {"provisioning": "thick", "format": "qcow2"}),
    ],
    ids=["raw", "qcow2", "thick"],
)
def test_the_whole_life_of_a_volume(tmp_path: Path, options: dict[str, str], other: dict[str, str]) -> None:
    pool = tmp_path / "pool"
    backend = open_backend("here", read_config({"kind": "local", "path": str(pool)}, "test"), tmp_path)
    backend.start()
    tell(Story(backend, "here", pool, tmp_path, print), options, other)
