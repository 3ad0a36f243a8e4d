"""Two processes are never the same executor, whatever the database."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from breezeblock.catalog.database import Database
from breezeblock.engine.lease import Lease
from breezeblock.errors import UnavailableError

HOLD = """
import sys, time
from breezeblock.catalog.database import Database
from breezeblock.engine.lease import Lease
lease = Lease(Database(sys.argv[1]), "worker")
lease.acquire(5)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'catalog.db'}"
    found: str = request.getfixturevalue("postgres_url")
    return found


def test_it_dies_with_its_process(url: str) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, url], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    database = Database(url)
    mine, other = Lease(database, "worker"), Lease(database, "another")
    with pytest.raises(UnavailableError, match="'worker'"):
        mine.acquire(0.2)
    other.acquire(0)  # another executor's is free
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    mine.acquire(5)
    mine.release()
    mine.acquire(0)
    mine.release()
    other.release()
    database.dispose()


@pytest.mark.postgres
def test_a_lost_session_is_told(postgres_url: str) -> None:
    database = Database(postgres_url)
    lease = Lease(database, "worker")
    lease.acquire(1)
    lost: list[float] = []
    lease.watch(lambda: lost.append(time.monotonic()))
    with database.write() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND datname = current_database()"
        )
    end = time.monotonic() + 20
    while not lost and time.monotonic() < end:
        time.sleep(0.05)
    assert lost
    lease.release()
    database.dispose()


def test_the_lease_file_is_private(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'catalog.db'}")
    lease = Lease(database, "worker")
    lease.acquire(0)
    (found,) = tmp_path.glob("*.lease-worker")
    assert found.stat().st_mode & 0o777 == 0o600
    assert not found.is_symlink()
    lease.release()
