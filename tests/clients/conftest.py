from collections.abc import Iterator

import pytest
from deployed import Deployed, start


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """A service with nothing in it, and nothing left in it when the module's tests are done."""
    deployed = start(tmp_path_factory.mktemp("service") / "data")
    try:
        yield deployed
    finally:
        code = deployed.stop()
    assert code == 0
    assert sorted(path.name for path in deployed.pool.iterdir()) == []
