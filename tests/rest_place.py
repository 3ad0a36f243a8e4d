"""A directory for a pool of an object store, its configuration, and sockets, whose names must be short."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CONFIG = """
[service]
state_dir = "{place}/state"
[backends.rest]
kind = "rest"
run_dir = "{place}/run"
journal_dir = "{place}/journals"
[backends.rest.pools.gold]
"""


@contextmanager
def short_place() -> Iterator[Path]:
    """Make a directory in memory."""
    with tempfile.TemporaryDirectory(prefix="b", dir="/dev/shm") as name:
        yield Path(name)


def configure(place: Path, **pool: str | list[str]) -> None:
    """Write a configuration with one pool."""
    settings = "".join(f"{name} = {json.dumps(value)}\n" for name, value in pool.items())
    (place / "breezeblock.toml").write_text(_CONFIG.format(place=place) + settings)
