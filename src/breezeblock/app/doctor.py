"""The doctor: compares what the catalog says with itself and with storage. It changes nothing.

It may run beside a working service, so everything is looked at twice where the first look found
something: what an operation has in hand, or changed meanwhile, is no finding. It opens the back ends as
the service does, which may mount a share that is not mounted.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec
from sqlalchemy.engine import make_url

from breezeblock.app import compose, gateway
from breezeblock.backends.contract import Backend, Finding, Found, Snapshot, Volume
from breezeblock.catalog import families, image_cache, infrastructure, invariants, migrate, operations, survey
from breezeblock.catalog.clock import later
from breezeblock.catalog.database import Database
from breezeblock.config import Config
from breezeblock.errors import BreezeblockError, ConfigError

T = TypeVar("T")

SETTLE_S = 0.3
"""Seconds between two looks at running counts, which a transaction may be about to change."""
MANY_ATTEMPTS = 5
SILENT_S = 60
"""Seconds without a heartbeat after which a worker counts as dead, as in the API."""
THREADS = 8
NEAR_LIMIT = 0.8
"""Of a pool's limit to chains: from here on the doctor warns."""

# Nothing has to be on storage for these: the verb that made them so takes back or finishes its work
# when the volume is deleted.
UNSETTLED = frozenset({"error", "error_deleting", "creating", "deleting"})


class Report(msgspec.Struct, frozen=True):
    """What the doctor found, and how much it looked at."""

    findings: list[Finding]
    looked_at: dict[str, int]


def examine(config: Config) -> Report:
    """Look at everything. Raises ConfigError or UnavailableError when there is nothing to look at."""
    database = _open(config)
    try:
        backends, _policies = compose.open_backends(config)
        findings = [*_counts(database), *_rows(database), *_operations(config, database)]
        with database.read() as connection:
            believed = {found.volume.id: found for found in survey.all_volumes(connection)}
        findings += _chains(database)
        kept, of_images = _images(database)
        findings += of_images
        findings += _homeless(config, believed.values())
        looked_at = {
            "volumes": len(believed),
            "snapshots": sum(len(found.snapshots) for found in believed.values()),
            "images kept in pools": kept,
            "left out because an operation is at work": sum(found.busy for found in believed.values()),
            "files and other things on storage": 0,
        }
        with gateway.lent(config):
            for name, backend in backends.items():
                theirs = {id_: found for id_, found in believed.items() if found.volume.backend == name}
                seen, of_backend = _storage(database, name, backend, theirs)
                findings += of_backend
                looked_at["files and other things on storage"] += seen
        return Report(findings, looked_at)
    finally:
        database.dispose()


def _open(config: Config) -> Database:
    url = make_url(config.database.url)  # opening a database makes one
    path = url.database
    if url.get_backend_name() == "sqlite" and not Path(str(path)).is_file():
        raise ConfigError(
            f"there is no database {path}",
            remedy="Name the right configuration with --config; the first start makes a new database.",
        )
    database = Database(config.database.url)
    migrate.require_current(database)
    return database


# ── the catalog by itself ────────────────────────────────────────────────────────────────────────────


def _counts(database: Database) -> list[Finding]:
    def look() -> list[tuple[str, int, int]]:
        with database.read() as connection:
            return invariants.miscounts(connection)

    return [
        Finding(
            subject=what,
            problem=f"{counted} is written down, but the sum of what it stands for is {summed}",
            remedy="Report this as a bug. Until it is mended, limits are a little too tight or too wide.",
        )
        for what, counted, summed in _lasting(look)
    ]


def _rows(database: Database) -> list[Finding]:
    def look() -> list[invariants.Orphan]:
        with database.read() as connection:
            return invariants.orphans(connection)

    return [
        Finding(
            subject=f"{orphan.resource} {orphan.id}",
            problem=f"its status is {orphan.status}, but no operation is at work on it",
            remedy="Restart a worker: it gives such a row, at its start, the status of a failure. "
            "Then delete it, or set its status once you know the data is good.",
        )
        for orphan in _lasting(look)
    ]


def _operations(config: Config, database: Database) -> list[Finding]:
    with database.read() as connection:
        live = operations.live(connection)
        workers = infrastructure.list_services(connection, binary="breezeblock-worker")
    alive = {worker.host for worker in workers if worker.heartbeat_at >= later(-SILENT_S)}
    findings = []
    for row in live:
        subject = f"operation {row.id} ({row.kind} of {row.resource_type} {row.resource_id})"
        if row.backend not in config.backends:
            findings.append(
                Finding(
                    subject=subject,
                    problem=f"it is {row.state} for the back end {row.backend}, which is not configured here",
                    remedy=f"Put [backends.{row.backend}] back, or run the doctor where its worker runs.",
                )
            )
        elif not (row.executor in alive if row.state == "running" else alive):
            findings.append(
                Finding(
                    subject=subject,
                    problem=f"it is {row.state}, but worker {row.executor} has not been heard of for "
                    f"{SILENT_S} s"
                    if row.state == "running"
                    else "it is queued, but no worker is running",
                    remedy="Start the service: the operation goes on from where it was.",
                    severity="warning",
                )
            )
        if row.attempts >= MANY_ATTEMPTS:
            findings.append(
                Finding(
                    subject=subject,
                    problem=f"it was begun {row.attempts} times and has not ended",
                    remedy=f"Look for its id in the worker's log; `breezeblock operation cancel {row.id}` "
                    "makes it take back what it did.",
                    severity="warning",
                )
            )
    return findings


def _lasting(look: Callable[[], list[T]]) -> list[T]:
    found = look()
    if not found:
        return found
    time.sleep(SETTLE_S)
    again = look()
    return [item for item in found if item in again]


def _homeless(config: Config, believed: Iterable[survey.Believed]) -> list[Finding]:
    of: dict[str, int] = {}
    for found in believed:
        of[found.volume.backend] = of.get(found.volume.backend, 0) + 1
    return [
        Finding(
            subject=f"back end {name}",
            problem=f"{count} volumes are on it, but it is not configured here",
            remedy=f"Put [backends.{name}] back, or run the doctor where its worker runs.",
        )
        for name, count in of.items()
        if name not in config.backends
    ]


# ── the catalog and storage ──────────────────────────────────────────────────────────────────────────


def _storage(
    database: Database, name: str, backend: Backend, believed: Mapping[str, survey.Believed]
) -> tuple[int, list[Finding]]:
    """Return how many things were seen on a back end, and the findings."""
    try:
        backend.start()
        pools = backend.stats()
        down = {pool.name: pool.reason for pool in pools if not pool.up}
        findings = [_pool_down(name, pool, reason, believed.values()) for pool, reason in down.items()]
        findings += [finding for pool in pools for finding in pool.findings]
        settled = [
            found
            for found in believed.values()
            if not found.busy and found.volume.pool not in down and found.volume.status not in UNSETTLED
        ]
        with ThreadPoolExecutor(THREADS) as threads:
            checked = list(threads.map(lambda found: _check(database, backend, found), settled))
        present = list(backend.inventory())
    except BreezeblockError as error:
        return 0, [_unexaminable(f"back end {name}", error)]
    finally:
        backend.stop()
    findings += [finding for of_volume in checked for finding in of_volume]
    faulty = {found.volume.id for found, of_volume in zip(settled, checked, strict=True) if of_volume}
    # Of a volume that Cinder merged upwards under a guest, only a file named after a snapshot is left.
    here = {item.volume_id for item in present if item.kind in {"volume", "snapshot"}}
    for found in settled:
        missing = found.volume.id not in here and found.volume.id not in faulty
        if missing and _unchanged(database, found):
            findings.append(_missing(name, found))
    findings += _strangers(database, name, present)
    return len(present), findings


def _check(database: Database, backend: Backend, found: survey.Believed) -> list[Finding]:
    try:
        findings = backend.check(*as_volume(found))
    except BreezeblockError as error:
        findings = [_unexaminable(f"volume {found.volume.id}", error)]
    return findings if findings and _unchanged(database, found) else []


def as_volume(found: survey.Believed) -> tuple[Volume, tuple[Snapshot, ...]]:
    """Return what a back end is told of a volume, with those snapshots that must be on storage."""
    row = found.volume
    volume = Volume(
        id=row.id,
        virtual_bytes=row.virtual_bytes,
        pool=row.pool,
        locator=row.locator,
        format=row.format,
        depth=row.depth,
    )
    snapshots = tuple(
        Snapshot(id=s.id, volume_id=s.volume_id, virtual_bytes=s.virtual_bytes, locator=s.locator)
        for s in found.snapshots
        if s.status not in UNSETTLED
    )
    return volume, snapshots


def _strangers(database: Database, name: str, present: Iterable[Found]) -> list[Finding]:
    with database.read() as connection:
        live = [row.id for row in operations.live(connection)]
    findings = []
    for item in present:
        subject = f"{item.name} in {name}#{item.pool}"
        if item.kind == "foreign":
            findings.append(
                Finding(
                    subject=subject,
                    problem="it is not Breezeblock's",
                    remedy="Nothing here touches it; move it away if it does not belong there.",
                    severity="warning",
                )
            )
        elif item.kind == "temporary":
            if not any(operation in item.name for operation in live):
                findings.append(
                    Finding(
                        subject=subject,
                        problem="it is unfinished work of an operation that has ended",
                        remedy="The next start of a worker removes it.",
                        severity="warning",
                    )
                )
        elif item.kind == "kept" and item.volume_id is not None:
            findings += _unknown_kept(database, subject, item.volume_id)
        elif item.volume_id is not None:
            findings += _unknown(database, subject, item.volume_id)
    return findings


def _unknown(database: Database, subject: str, volume_id: str) -> list[Finding]:
    """Tell of a volume that the catalog lacks. Of one that it has, `check` knows what belongs to it.

    A file may rightly bear the name of a snapshot that is gone: deleting one can merge upwards.
    """
    with database.read() as connection:
        if survey.one(connection, volume_id) is not None:
            return []
    return [
        Finding(
            subject=subject,
            problem=f"it belongs to volume {volume_id}, which the catalog does not know",
            remedy="Is another service using this pool, or was the database restored from an older copy? "
            "`breezeblock pool rebuild` enters what is whole; move the file away only when you are sure "
            "that nobody needs it.",
        )
    ]


def _unknown_kept(database: Database, subject: str, volume_id: str) -> list[Finding]:
    with database.read() as connection:
        if families.one_kept(connection, volume_id) or survey.one(connection, volume_id):
            return []
    return [
        Finding(
            subject=subject,
            problem=f"it is kept of volume {volume_id} for clones, but the catalog knows of no such volume",
            remedy="Do not remove it: clones rest on it. It goes by itself with the last of them.",
            severity="warning",
        )
    ]


def _chains(database: Database) -> list[Finding]:
    """Tell of chains that are near their pool's limit."""
    with database.read() as connection:
        found = families.members(connection)
    return [
        Finding(
            subject=f"volume {one.id}",
            problem=f"it is read through {one.depth} layers, its pool allows {one.max_chain_depth} "
            f"({one.snapshots} snapshots, {one.hidden_layers} layers of none, which hold "
            f"{one.reclaimable_bytes / 2**20:.1f} MiB)",
            remedy="Delete snapshots of it"
            + (", or `breezeblock volume flatten` it." if one.parent_id else ", or its clones."),
            severity="warning",
        )
        for one in found
        if one.max_chain_depth and one.depth >= NEAR_LIMIT * one.max_chain_depth
    ]


def _images(database: Database) -> tuple[int, list[Finding]]:
    """Return how many images pools keep, and tell of those that are of no use."""
    with database.read() as connection:
        found = image_cache.all_images(connection)
    return len(found), [
        Finding(
            subject=f"image {one.volume_id} in {one.backend}#{one.pool} ({one.url})",
            problem=f"it is kept for volumes to be made from, but it is {one.status}",
            remedy=f"`breezeblock pool evict {one.volume_id}` lets it go.",
            severity="warning",
        )
        for one in found
        if one.op_id is None and one.status != "cached"
    ]


def _missing(name: str, found: survey.Believed) -> Finding:
    return Finding(
        subject=f"volume {found.volume.id}",
        problem=f"there is nothing of it in {name}#{found.volume.pool}",
        remedy="Put its files back from a copy, or delete the volume.",
    )


def _pool_down(name: str, pool: str, reason: str, believed: Iterable[survey.Believed]) -> Finding:
    count = sum(found.volume.pool == pool for found in believed)
    return Finding(
        subject=f"pool {name}#{pool}",
        problem=f"it cannot be reached: {reason or 'no reason was given'} ({count} volumes are there)",
        remedy="Bring the storage back; its volumes were not looked at.",
    )


def _unexaminable(subject: str, error: BreezeblockError) -> Finding:
    return Finding(
        subject=subject,
        problem=f"it could not be examined: {error.message}",
        remedy=error.remedy or "See the message.",
    )


def _unchanged(database: Database, found: survey.Believed) -> bool:
    with database.read() as connection:
        return survey.one(connection, found.volume.id) == found
