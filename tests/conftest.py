"""What all tests share: their order, and a PostgreSQL server."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from postgres_server import NoPostgresError, PostgresServer, running_postgres

SLOWER_AND_SLOWER = ("postgres", "crash", "clients", "uml")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the fast tests first: what fails should fail early."""
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    return max(
        (
            rank
            for rank, marker in enumerate(SLOWER_AND_SLOWER, start=1)
            if item.get_closest_marker(marker) is not None
        ),
        default=0,
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which tests ran where: those on kernel mounts prove nothing on another kernel."""
    summaries = sorted(
        str(value)
        for report in terminalreporter.stats.get("passed", ())
        for name, value in report.user_properties
        if name == "summary"
    )
    if summaries:
        terminalreporter.section("inside a kernel of their own")
        for summary in summaries:
            terminalreporter.write_line(summary)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for the whole run; it starts when the first test wants it."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(running_postgres())
        except NoPostgresError as error:
            pytest.fail(str(error), pytrace=False)
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The SQLAlchemy URL of an empty database of the test's own."""
    with postgres_server.database() as url:
        yield url
