"""Rows of quota limits, and reading of what is used. Taking and giving back is the engine room's."""

from collections.abc import Mapping

import sqlalchemy as sa

from breezeblock.catalog.tables import quota_limits, quota_usages

CLASS_DEFAULT = "class:default"


def limits(connection: sa.Connection, scope: str) -> dict[str, int]:
    """Return the limits set for a project, or for `CLASS_DEFAULT`."""
    query = sa.select(quota_limits.c.resource, quota_limits.c.hard_limit).where(quota_limits.c.scope == scope)
    return {resource: limit for resource, limit in connection.execute(query)}


def usages(connection: sa.Connection, project_id: str) -> dict[str, int]:
    """Return what a project uses, by resource."""
    query = sa.select(quota_usages.c.resource, quota_usages.c.in_use)
    return {
        resource: used for resource, used in connection.execute(query.where(quota_usages.c.project_id == project_id))
    }


def set_limits(connection: sa.Connection, scope: str, values: Mapping[str, int]) -> None:
    """Set limits, leaving others as they are."""
    for resource, hard_limit in values.items():
        mine = (quota_limits.c.scope == scope, quota_limits.c.resource == resource)
        changed = connection.execute(quota_limits.update().where(*mine).values(hard_limit=hard_limit))
        if changed.rowcount == 0:
            connection.execute(
                quota_limits.insert().values(scope=scope, resource=resource, hard_limit=hard_limit)
            )


def delete_limits(connection: sa.Connection, scope: str) -> None:
    """Let a project have the defaults again."""
    connection.execute(quota_limits.delete().where(quota_limits.c.scope == scope))
