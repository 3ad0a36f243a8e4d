"""`/healthz` for whoever restarts us and `/metrics` for Prometheus; both need no token."""

from collections import Counter
from collections.abc import Iterator

import sqlalchemy as sa
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from breezeblock.catalog import families, image_cache, invariants, pools, tables
from breezeblock.catalog.database import Database
from breezeblock.errors import BreezeblockError


def routes(database: Database) -> list[Route]:
    """Return the two routes, and let Prometheus count what the catalog holds."""
    REGISTRY.register(_Catalog(database))

    def look() -> tuple[int, dict[str, object]]:
        try:
            with database.read() as connection:
                down = [f"{p.backend}#{p.name}" for p in pools.all_pools(connection) if not p.up]
                orphans = len(invariants.orphans(connection))
        except BreezeblockError as error:
            return 503, {"status": "error", "reason": str(error)}
        # A pool that is down is the storage's trouble: restarting us would not mend it.
        return 200, {"status": "ok", "pools_down": down, "rows_without_operation": orphans}

    async def healthz(_request: Request) -> Response:
        status, body = await run_in_threadpool(look)
        return JSONResponse(body, status_code=status)

    async def metrics(_request: Request) -> Response:
        body = await run_in_threadpool(generate_latest)
        return Response(body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    return [Route("/healthz", healthz), Route("/metrics", metrics)]


class _Catalog(Collector):
    """Gauges read from the catalog when Prometheus asks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def describe(self) -> list[Metric]:
        """Describe nothing ahead, so that registering does not read the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield pools, volumes by status, operations by state."""
        with self._database.read() as connection:
            found = pools.all_pools(connection)
            chains = families.of_pools(connection)
            images = image_cache.all_images(connection)
            volumes = _count(connection, tables.volumes.c.status)
            snapshots = _count(connection, tables.snapshots.c.status)
            operations = _count(connection, tables.operations.c.state)
            orphans = len(invariants.orphans(connection))
        for name, text in (
            ("total_bytes", "Bytes of the pool's storage."),
            ("free_bytes", "Bytes free on the pool's storage."),
            ("provisioned_bytes", "Virtual bytes promised to volumes."),
            ("up", "1 while the pool can be used."),
        ):
            gauge = GaugeMetricFamily(f"breezeblock_pool_{name}", text, labels=["backend", "pool"])
            for pool in found:
                value = getattr(pool, name)
                if value is not None:
                    gauge.add_metric([pool.backend, pool.name], float(value))
            yield gauge
        for name, text in (
            ("deepest_chain", "Most images that a volume of the pool is read through."),
            ("hidden_layers", "Images that belong to no snapshot: made or kept for clones."),
            ("reclaimable_bytes", "What those take on storage: the most that shortening could give back."),
        ):
            gauge = GaugeMetricFamily(f"breezeblock_pool_{name}", text, labels=["backend", "pool"])
            for (backend, pool_name), facts in chains.items():
                gauge.add_metric([backend, pool_name], float(getattr(facts, name)))
            yield gauge
        gauge = GaugeMetricFamily(
            "breezeblock_pool_images", "Images kept to make volumes from.", labels=["backend", "pool"]
        )
        for place, number in Counter((image.backend, image.pool) for image in images).items():
            gauge.add_metric(place, float(number))
        yield gauge
        for name, text, counts in (
            ("volumes", "Volumes by status.", volumes),
            ("snapshots", "Snapshots by status.", snapshots),
            ("operations", "Operations by state.", operations),
        ):
            gauge = GaugeMetricFamily(f"breezeblock_{name}", text, labels=["status"])
            for status, number in counts.items():
                gauge.add_metric([status], float(number))
            yield gauge
        yield GaugeMetricFamily(
            "breezeblock_rows_without_operation",
            "Rows in the hands of no live operation; anything but 0 is a bug.",
            value=float(orphans),
        )


def _count(connection: sa.Connection, column: sa.Column[str]) -> dict[str, int]:
    rows = connection.execute(sa.select(column, sa.func.count()).group_by(column))
    return {row[0]: row[1] for row in rows}
