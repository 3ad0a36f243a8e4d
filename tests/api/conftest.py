import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from api_world import Client, Server, World, serving, still_service

from breezeblock.service.core import Service

# The worker that whole flows need is the one the service's own tests run.
sys.path.append(str(Path(__file__).parents[1] / "service"))


@pytest.fixture(scope="session", params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Everything is asked of both databases: each has its own idea of JSON, of order and of text."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            found = still_service(tmp_path_factory.mktemp("catalog"))
        else:
            server = request.getfixturevalue("postgres_server")
            found = still_service(stack.enter_context(server.database()))
        stack.callback(found.database.dispose)
        yield found


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
