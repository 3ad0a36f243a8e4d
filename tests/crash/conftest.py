from collections.abc import Iterator
from pathlib import Path

import pytest

from breezeblock.catalog import migrate
from breezeblock.catalog.database import Database
from served import Served


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    """A service that is not started yet."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'catalog.db'}"
    else:
        url = request.getfixturevalue("postgres_url")
        database = Database(url)
        migrate.upgrade(database)
        database.dispose()
    service = Served(tmp_path, url)
    yield service
    service.stop_all()
