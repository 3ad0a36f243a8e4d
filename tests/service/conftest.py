from collections.abc import Iterator
from pathlib import Path

import pytest
from running import Running, running


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path) as service:
        yield service
