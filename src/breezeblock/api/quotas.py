"""Quota sets, quota classes and limits."""

from typing import Any

from breezeblock.api import inputs
from breezeblock.api.http import Reply, Request, reply
from breezeblock.api.routing import Endpoint
from breezeblock.errors import InvalidInputError
from breezeblock.service import quota_sets as service

_ABSOLUTE = {
    "maxTotalVolumes": "volumes",
    "maxTotalSnapshots": "snapshots",
    "maxTotalVolumeGigabytes": "gigabytes",
    "maxTotalBackups": "backups",
    "maxTotalBackupGigabytes": "backup_gigabytes",
}
_USED = {
    "totalVolumesUsed": "volumes",
    "totalSnapshotsUsed": "snapshots",
    "totalGigabytesUsed": "gigabytes",
    "totalBackupsUsed": "backups",
    "totalBackupGigabytesUsed": "backup_gigabytes",
}


def show(request: Request) -> Reply:
    """Show a project's limits, with `usage` also what is used."""
    project_id = request.params["project"]
    found = service.get(request.service, request.caller, project_id)
    usage = "usage" in request.query and inputs.flag("usage", request.query["usage"])
    shown: dict[str, Any] = {"id": project_id}
    shown.update({key: quota if usage else quota.limit for key, quota in found.items()})
    return reply({"quota_set": shown})


def update(request: Request) -> Reply:
    """Set limits of a project."""
    limits = _limits(request, "quota_set")
    found = service.update(request.service, request.caller, _project(request), limits)
    return reply({"quota_set": found})


def reset(request: Request) -> Reply:
    """Give a project the defaults again."""
    service.reset(request.service, request.caller, request.params["project"])
    return Reply(200)


def show_defaults(request: Request) -> Reply:
    """Show what projects have that nothing was set for."""
    project_id = request.params["project"]
    return reply({"quota_set": {"id": project_id, **service.defaults(request.service)}})


def show_class(request: Request) -> Reply:
    """Show a quota class; there is one, `default`."""
    request.caller.require_admin("volume_extension:quota_classes:get")
    name = request.params["class"]
    return reply({"quota_class_set": {"id": name, **service.defaults(request.service)}})


def update_class(request: Request) -> Reply:
    """Set the defaults of all projects."""
    request.caller.require_admin("volume_extension:quota_classes:update")
    if request.params["class"] != "default":
        raise InvalidInputError("The only quota class is 'default'.")
    limits = _limits(request, "quota_class_set")
    return reply({"quota_class_set": service.update_defaults(request.service, request.caller, limits)})


def limits(request: Request) -> Reply:
    """Show the caller's absolute limits; an admin may ask for another project's (3.39)."""
    project_id = request.caller.project_id
    if request.at_least(39) and request.caller.is_admin:
        project_id = request.query.get("project_id") or project_id
    found = service.get(request.service, request.caller, project_id)
    absolute = {name: found[resource].limit for name, resource in _ABSOLUTE.items()}
    absolute.update({name: found[resource].in_use for name, resource in _USED.items()})
    return reply({"limits": {"rate": [], "absolute": absolute}})


def _limits(request: Request, key: str) -> dict[str, int]:
    wanted = {name: value for name, value in request.member(key).items() if name not in _NO_LIMITS}
    return {
        name: inputs.whole(name[:255], value, low=-1, high=service.MAX_LIMIT)
        for name, value in wanted.items()
    }


def _project(request: Request) -> str:
    return inputs.name("project", request.params["project"], required=True) or ""


# Clients send these back with the limits.
_NO_LIMITS = frozenset({"id", "tenant_id", "class_name", "force", "skip_validation"})

ENDPOINTS = (
    Endpoint("GET", "/os-quota-sets/{project}", show),
    Endpoint("PUT", "/os-quota-sets/{project}", update),
    Endpoint("DELETE", "/os-quota-sets/{project}", reset),
    Endpoint("GET", "/os-quota-sets/{project}/defaults", show_defaults),
    Endpoint("GET", "/os-quota-class-sets/{class}", show_class),
    Endpoint("PUT", "/os-quota-class-sets/{class}", update_class),
    Endpoint("GET", "/limits", limits),
)
