"""`doctor --repair`: what is wrong and can be made right without losing anything, step by step.

It works on a stopped service: it holds this executor's lease, and refuses while another worker is alive,
so that nothing it looks at is in an operation's hands. Every step may be killed and done again, and says
beforehand what it will do. It never removes what it does not know: that is moved aside.
"""

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from breezeblock.app import compose, gateway
from breezeblock.app.doctor import SILENT_S, UNSETTLED, as_volume
from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Backend, Found
from breezeblock.catalog import infrastructure, invariants, operations, survey
from breezeblock.catalog.clock import later, ordered_id
from breezeblock.catalog.database import Database
from breezeblock.config import Config
from breezeblock.engine.lease import Lease
from breezeblock.errors import BreezeblockError, ConflictError

LEASE_WAIT_S = 1.0
USED = frozenset({"reserved", "attaching", "in-use", "detaching", "error_attaching"})
"""A host may have such a volume open, which the locks of an SMB share do not tell (`nobrl`)."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that can be made right."""

    text: str
    """What it does, beginning with a verb."""
    do: Callable[[], object]


@contextmanager
def prepared(config: Config) -> Iterator[Iterator[Step]]:
    """Lend the steps, found one after the other; the service must be stopped, and stays so meanwhile.

    Raises ConflictError or UnavailableError while a worker is alive.
    """
    database = compose.open_database(config)
    lease = Lease(database, config.executor_id)
    lease.acquire(LEASE_WAIT_S)
    backends, _policies = compose.open_backends(config)
    try:
        _require_stopped(config, database)
        with gateway.lent(config):
            for backend in backends.values():
                backend.start()
            yield _steps(database, backends)
    finally:
        for backend in backends.values():
            backend.stop()
        lease.release()
        database.dispose()


def _require_stopped(config: Config, database: Database) -> None:
    with database.read() as connection:
        workers = infrastructure.list_services(connection, binary="breezeblock-worker")
    alive = [
        one.host for one in workers if one.heartbeat_at >= later(-SILENT_S) and one.host != config.executor_id
    ]
    if alive:
        raise ConflictError(
            f"Worker {', '.join(alive)} is alive, or was {SILENT_S} s ago.",
            remedy="Repair works on a stopped service: stop every worker first.",
        )


def _steps(database: Database, backends: dict[str, Backend]) -> Iterator[Step]:
    yield from _rows(database)
    with database.read() as connection:
        live = frozenset(row.id for row in operations.live(connection))
        believed = list(survey.all_volumes(connection))
    for name, backend in backends.items():
        up = {pool.name for pool in backend.stats() if pool.up}
        for found in believed:
            mine = found.volume.backend == name and found.volume.pool in up
            if mine and not found.busy and found.volume.status not in UNSETTLED | USED:
                yield from _volume(backend, found)
        present = [item for item in backend.inventory() if item.pool in up]
        yield from _pool(backend, present, live)


def _rows(database: Database) -> Iterator[Step]:
    with database.read() as connection:
        orphans = invariants.orphans(connection)
        miscounts = invariants.miscounts(connection)
    for orphan in orphans:
        text = (
            f"give {orphan.resource} {orphan.id}, on which no operation is at work, the status of a failure"
        )
        yield Step(text, lambda: _mend_rows(database))
    for what, counted, summed in miscounts:
        yield Step(f"count anew {what}: {summed}, not {counted}", lambda: _count(database))


def _mend_rows(database: Database) -> None:
    with database.write() as connection:
        invariants.mend_orphans(connection)


def _count(database: Database) -> None:
    with database.write() as connection:
        invariants.mend_miscounts(connection)


def _volume(backend: Backend, found: survey.Believed) -> Iterator[Step]:
    # A back end may find a next thing to mend only after the last one was mended.
    seen: set[str] = set()
    volume, snapshots = as_volume(found)
    while backend.capabilities().repair:
        try:
            mends = [one for one in backend.mends(volume, snapshots) if one.text not in seen]
        except BreezeblockError:
            return  # what cannot be looked at is not repaired; the examination says why
        if not mends:
            return
        one = mends[0]
        seen.add(one.text)
        attempt = Attempt(operation_id=ordered_id(), token=secrets.token_hex(4))
        yield Step(one.text, lambda: backend.mend(volume, snapshots, one, attempt))  # noqa: B023 - used at once


def _pool(backend: Backend, present: list[Found], live: frozenset[str]) -> Iterator[Step]:
    unfinished = [
        item.name
        for item in present
        if item.kind == "temporary" and not any(id_ in item.name for id_ in live)
    ]
    if unfinished:
        text = f"remove the unfinished work of operations that have ended: {', '.join(unfinished)}"
        yield Step(text, lambda: backend.sweep(live))
    for item in present:
        # Hidden files are the file server's own affair (.nfs…, .snapshot).
        if item.kind == "foreign" and not Path(item.name).name.startswith("."):
            text = f"move {item.name} of {backend.name}#{item.pool}, which is not Breezeblock's, aside"
            yield Step(text, lambda: backend.quarantine(item))  # noqa: B023 - used at once
