import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from api_world import Client, Server, World, serving, still_service

from breezeblock.service.core import Service

# The worker that whole flows need is the one the service's own tests run.
sys.path.append(str(Path(__file__).parents[1] / "service"))


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    found = still_service(tmp_path_factory.mktemp("catalog"))
    yield found
    found.database.dispose()


@pytest.fixture(scope="session")
def server(service: Service) -> Iterator[Server]:
    with serving(service) as found:
        yield found


@pytest.fixture
def world(service: Service, server: Server) -> World:
    return World(service.database, server)


@pytest.fixture
def member(world: World) -> Client:
    return world.client("member")


@pytest.fixture
def reader(world: World) -> Client:
    return world.client("reader")


@pytest.fixture
def admin(world: World) -> Client:
    return world.client("admin")
