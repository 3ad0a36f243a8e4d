"""What the deployment is made of: its pools and its processes."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from breezeblock.catalog import families, infrastructure
from breezeblock.catalog import pools as pool_rows
from breezeblock.service.core import Caller, Service

Row = sa.Row[Any]

WORKER = "breezeblock-worker"


def pools(service: Service, caller: Caller) -> Sequence[Row]:
    """Return every pool (admin)."""
    caller.require_admin("scheduler_extension:scheduler_stats:get_pools")
    with service.database.read() as connection:
        return pool_rows.all_pools(connection)


def chains(service: Service, caller: Caller) -> dict[tuple[str, str], families.Chains]:
    """Return how the chains of each (back end, pool) are (admin)."""
    caller.require_admin("scheduler_extension:scheduler_stats:get_pools")
    with service.database.read() as connection:
        return families.of_pools(connection)


def services(service: Service, caller: Caller) -> list[tuple[Row, str]]:
    """Return the processes that have reported, each with a name (admin).

    A worker is there once for every back end that it serves, as `host@backend`: what stands before the #
    in the host of a volume leads to it.
    """
    caller.require_admin("volume_extension:services:index")
    with service.database.read() as connection:
        processes = infrastructure.list_services(connection)
        found = pool_rows.all_pools(connection)
    named: list[tuple[Row, str]] = []
    for row in processes:
        backends = sorted({pool.backend for pool in found if pool.host == row.host})
        if row.binary == WORKER and backends:
            named += [(row, f"{service.settings.host}@{backend}") for backend in backends]
        else:
            named.append((row, row.host))
    return named
