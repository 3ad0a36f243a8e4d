"""Quota sets: what a project may have, and what it has."""

from collections.abc import Mapping

import msgspec
import sqlalchemy as sa

from breezeblock.catalog import quotas, types
from breezeblock.errors import ForbiddenError, InvalidInputError
from breezeblock.service.core import Caller, Service

RESOURCES = (
    "volumes",
    "snapshots",
    "gigabytes",
    "per_volume_gigabytes",
    "backups",
    "backup_gigabytes",
    "groups",
)
PER_TYPE = ("volumes", "snapshots", "gigabytes")
MAX_LIMIT = 2**31 - 1


class Quota(msgspec.Struct, frozen=True):
    """One resource of a project; `limit` -1 is no limit."""

    limit: int
    in_use: int = 0
    reserved: int = 0
    """Always 0: what is promised counts as used at once."""


def get(service: Service, caller: Caller, project_id: str) -> dict[str, Quota]:
    """Return every resource of a project: one's own, or any for an admin."""
    _require_visible(caller, project_id)
    with service.database.read() as connection:
        limits = quotas.limits(connection, project_id, service.settings.quota)
        usages = quotas.usages(connection, project_id)
        return {
            resource: Quota(limits.get(resource, -1), usages.get(resource, 0))
            for resource in _resources(connection)
        }


def defaults(service: Service) -> dict[str, int]:
    """Return what a project has that nothing else was set for."""
    with service.database.read() as connection:
        limits = quotas.limits(connection, quotas.DEFAULT_CLASS, service.settings.quota)
        return {resource: limits.get(resource, -1) for resource in _resources(connection)}


def update(service: Service, caller: Caller, project_id: str, limits: Mapping[str, int]) -> dict[str, int]:
    """Set limits of a project (admin); return all of them."""
    caller.require_admin("volume_extension:quotas:update")
    with service.database.write() as connection:
        _require_known(connection, limits)
        quotas.set_limits(connection, project_id, limits)
    return {resource: quota.limit for resource, quota in get(service, caller, project_id).items()}


def update_defaults(service: Service, caller: Caller, limits: Mapping[str, int]) -> dict[str, int]:
    """Set what projects have that nothing else was set for (admin); return all of it."""
    caller.require_admin("volume_extension:quota_classes:update")
    with service.database.write() as connection:
        _require_known(connection, limits)
        quotas.set_limits(connection, quotas.DEFAULT_CLASS, limits)
    return defaults(service)


def reset(service: Service, caller: Caller, project_id: str) -> None:
    """Let a project have the defaults again (admin)."""
    caller.require_admin("volume_extension:quotas:delete")
    with service.database.write() as connection:
        quotas.delete_limits(connection, project_id)


def _resources(connection: sa.Connection) -> list[str]:
    per_type = [f"{resource}_{name}" for name in types.names(connection) for resource in PER_TYPE]
    return [*RESOURCES, *per_type]


def _require_known(connection: sa.Connection, limits: Mapping[str, int]) -> None:
    unknown = sorted(set(limits) - set(_resources(connection)))
    if unknown:
        listed = ", ".join(repr(name[:64]) for name in unknown[:8])
        raise InvalidInputError(f"Bad key(s) in quota set: {listed}.")


def _require_visible(caller: Caller, project_id: str) -> None:
    if not caller.is_admin and caller.project_id != project_id:
        raise ForbiddenError("Policy doesn't allow volume_extension:quotas:show to be performed.")
