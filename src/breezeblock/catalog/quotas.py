"""Quota: taken and given back by guarded UPDATEs inside the caller's transaction.

There is no reservations table: the operation's row is the reservation. What a project uses is counted
per resource and, as Cinder does, again per volume type (`volumes_<type>` …).
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from breezeblock.catalog.tables import quota_limits, quota_usages
from breezeblock.errors import OverQuotaError

DEFAULT_CLASS = "class:default"


def limits(connection: sa.Connection, project_id: str, defaults: Mapping[str, int]) -> dict[str, int]:
    """Return every hard limit that applies: the configuration's, the default class's, the project's."""
    rows = connection.execute(
        sa.select(quota_limits).where(quota_limits.c.scope.in_((DEFAULT_CLASS, project_id)))
    ).all()
    found = dict(defaults)
    for scope in (DEFAULT_CLASS, project_id):
        found.update({row.resource: row.hard_limit for row in rows if row.scope == scope})
    return found


def usages(connection: sa.Connection, project_id: str) -> dict[str, int]:
    """Return what a project uses, by resource."""
    rows = connection.execute(sa.select(quota_usages).where(quota_usages.c.project_id == project_id))
    return {row.resource: row.in_use for row in rows}


def take(
    connection: sa.Connection,
    project_id: str,
    amounts: Mapping[str, int],
    defaults: Mapping[str, int],
) -> None:
    """Add `amounts` to what the project uses, or raise OverQuotaError and change nothing.

    Negative amounts give back, and are never refused.
    """
    allowed = limits(connection, project_id, defaults) if any(n > 0 for n in amounts.values()) else {}
    # In one order always, so that two transactions cannot wait for each other.
    for resource, amount in sorted(amounts.items()):
        if amount and not _add(connection, project_id, resource, amount, allowed.get(resource, -1)):
            used = usages(connection, project_id).get(resource, 0)
            raise OverQuotaError(_refusal(resource, amount, used, allowed[resource]))


def count(connection: sa.Connection, project_id: str, amounts: Mapping[str, int]) -> None:
    """Add what the project has already, whatever its limits: it was there before we knew of it."""
    for resource, amount in sorted(amounts.items()):
        if amount:
            _add(connection, project_id, resource, amount, -1)


def _add(connection: sa.Connection, project_id: str, resource: str, amount: int, limit: int) -> bool:
    if amount > 0 and 0 <= limit < amount:
        return False
    values = {
        "project_id": project_id,
        "resource": resource,
        "in_use": max(amount, 0),
        "amount": amount,
        "most": (1 << 62) if amount < 0 or limit < 0 else limit,
    }
    # RETURNING, because the count of an INSERT's rows is not told by every driver.
    return connection.execute(_adding(connection.dialect.name), values).one_or_none() is not None


@cache
def _adding(dialect_name: str) -> Any:
    """Build the one statement that all quota goes through, once: every volume passes it six times."""
    dialect = postgresql if dialect_name == "postgresql" else sqlite
    statement = dialect.insert(quota_usages).values(
        project_id=sa.bindparam("project_id"),
        resource=sa.bindparam("resource"),
        in_use=sa.bindparam("in_use"),
    )
    total = quota_usages.c.in_use + sa.bindparam("amount", type_=sa.BigInteger)
    return statement.on_conflict_do_update(
        index_elements=["project_id", "resource"],
        set_={"in_use": sa.case((total < 0, 0), else_=total)},
        where=total <= sa.bindparam("most", type_=sa.BigInteger),
    ).returning(quota_usages.c.in_use)


def _refusal(resource: str, amount: int, used: int, limit: int) -> str:
    if resource.startswith("gigabytes"):
        return (
            "Requested volume or snapshot exceeds allowed gigabytes quota. "
            f"Requested {amount}G, quota is {limit}G and {used}G has been consumed."
        )
    kind = "SnapshotLimitExceeded" if resource.startswith("snapshots") else "VolumeLimitExceeded"
    noun = "snapshots" if resource.startswith("snapshots") else "volumes"
    return f"{kind}: Maximum number of {noun} allowed ({limit}) exceeded for quota '{resource}'."


def set_limits(connection: sa.Connection, scope: str, values: Mapping[str, int]) -> None:
    """Set hard limits of a project or of `DEFAULT_CLASS`, leaving others as they are."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    for resource, hard_limit in sorted(values.items()):
        statement = dialect.insert(quota_limits).values(scope=scope, resource=resource, hard_limit=hard_limit)
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["scope", "resource"], set_={"hard_limit": hard_limit}
            )
        )


def delete_limits(connection: sa.Connection, scope: str) -> None:
    """Let a project have the defaults again."""
    connection.execute(sa.delete(quota_limits).where(quota_limits.c.scope == scope))
