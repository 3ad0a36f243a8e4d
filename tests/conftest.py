"""What all tests share: their order, and a PostgreSQL server."""

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from postgres_server import NoPostgresError, PostgresServer, running_postgres

SLOWER_AND_SLOWER = ("postgres", "crash", "clients", "uml")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the fast tests first: what fails should fail early."""
    items.sort(key=_rank)
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        items[:] = _shared_out(items, workers)


def _shared_out(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """Let workers begin with the slow tests: the last two with the slowest, the first with the others.

    xdist gives each worker one stretch of equal length, and who is done takes from the ends of others'. Were
    the slow ones at the ends, or all in one stretch, the other workers would wait for the last of them.
    """
    starts, left = [0], len(items)
    for worker in range(workers, 1, -1):
        left -= left // worker
        starts.append(len(items) - left)
    slow = [item for item in items if _rank(item)]
    slowest = [item for item in slow if _rank(item) == len(SLOWER_AND_SLOWER)]
    del slow[len(slow) - len(slowest) :]
    ordered = [item for item in items if not _rank(item)]
    begins: dict[int, list[pytest.Item]] = {start: [] for start in starts}
    begins[starts[-1]] += slowest[::2]
    begins[starts[-2]] += slowest[1::2]
    begins[starts[0]] += slow
    for start, some in begins.items():
        ordered[start:start] = some
    return ordered


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
