"""Volume types, their extra specs, and which projects may use private ones."""

import re
from typing import Any

from breezeblock.api import filters, inputs, pages
from breezeblock.api.http import Reply, Request, reply
from breezeblock.api.routing import Endpoint
from breezeblock.api.views.others import specs, volume_type
from breezeblock.api.volume_actions import one_action
from breezeblock.catalog.listing import Condition
from breezeblock.errors import InvalidInputError, NotFoundError
from breezeblock.service import volume_types as service

SORTABLE = {key: key for key in ("id", "name", "created_at", "updated_at", "is_public", "description")}
_SPEC_KEY = re.compile(r"[A-Za-z0-9_.:\- ]{1,255}", re.ASCII)


def index(request: Request) -> Reply:
    """List the types that the caller may use."""
    conditions: list[Condition] = []
    public = request.query.get("is_public")
    if request.caller.is_admin:
        if public is None:
            conditions.append(Condition("is_public", value=True))
        elif public.lower() != "none":
            conditions.append(Condition("is_public", inputs.flag("is_public", public)))
    if request.at_least(52) and "extra_specs" in request.query:
        wanted = filters.entries("extra_specs", request.query["extra_specs"])
        conditions.append(Condition("extra_specs", wanted, "has"))
    shown = pages.page(request, SORTABLE)
    found = service.list_(request.service, request.caller, conditions, shown)
    content: dict[str, Any] = {"volume_types": [volume_type(request, row) for row in found.rows]}
    content.update(pages.next_links(request, "volume_type_links", shown, found.rows))
    return reply(content)


def show(request: Request) -> Reply:
    """Show one type, or the default one."""
    if request.params["id"] == "default":
        row = service.default(request.service, request.caller)
    else:
        row = service.get(request.service, request.caller, request.params["id"])
    return reply({"volume_type": volume_type(request, row)})


def create(request: Request) -> Reply:
    """Add a type."""
    wanted = request.member("volume_type")
    public = wanted.get("os-volume-type-access:is_public")
    row = service.create(
        request.service,
        request.caller,
        name=inputs.name("name", wanted.get("name"), required=True) or "",
        description=inputs.prose("description", wanted.get("description")),
        is_public=True if public is None else inputs.flag("os-volume-type-access:is_public", public),
        extra_specs=_specs(wanted.get("extra_specs")),
    )
    return reply({"volume_type": volume_type(request, row, qos=False)})


def update(request: Request) -> Reply:
    """Change a type."""
    wanted = request.member("volume_type")
    values: dict[str, Any] = {}
    if wanted.get("name") is not None:
        values["name"] = inputs.name("name", wanted["name"], required=True)
    if "description" in wanted:
        values["description"] = inputs.prose("description", wanted["description"])
    if wanted.get("is_public") is not None:
        values["is_public"] = inputs.flag("is_public", wanted["is_public"])
    if not values:
        raise InvalidInputError("Specify volume type name, description, is_public or a combination thereof.")
    row = service.update(request.service, request.caller, request.params["id"], values)
    return reply({"volume_type": volume_type(request, row, access=False, qos=False)})


def delete(request: Request) -> Reply:
    """Remove a type."""
    service.delete(request.service, request.caller, request.params["id"])
    return Reply(202)


def show_specs(request: Request) -> Reply:
    """Show the extra specs."""
    row = service.get(request.service, request.caller, request.params["id"])
    return reply({"extra_specs": specs(request, row)})


def add_specs(request: Request) -> Reply:
    """Set some extra specs."""
    given = _specs(inputs.member(request.json(), "extra_specs"))
    service.change_specs(request.service, request.caller, request.params["id"], put=given)
    return reply({"extra_specs": given})


def show_spec(request: Request) -> Reply:
    """Show one extra spec."""
    key = request.params["key"]
    found = specs(request, service.get(request.service, request.caller, request.params["id"]))
    if key not in found:
        raise NotFoundError(f"Volume Type {request.params['id']} has no extra specs with key {key}.")
    return reply({key: found[key]})


def put_spec(request: Request) -> Reply:
    """Set one extra spec."""
    key = request.params["key"]
    given = request.json()
    if key not in given:
        raise InvalidInputError("Request body and URI mismatch.")
    if len(given) > 1:
        raise InvalidInputError("Request body contains too many items.")
    service.change_specs(request.service, request.caller, request.params["id"], put=_specs(given))
    return reply(given)


def delete_spec(request: Request) -> Reply:
    """Remove one extra spec."""
    service.change_specs(request.service, request.caller, request.params["id"], remove=request.params["key"])
    return Reply(202)


def show_access(request: Request) -> Reply:
    """List the projects that may use a private type."""
    type_id, projects = service.access(request.service, request.caller, request.params["id"])
    return reply(
        {
            "volume_type_access": [
                {"volume_type_id": type_id, "project_id": project_id} for project_id in projects
            ]
        }
    )


def act(request: Request) -> Reply:
    """Give a private type to a project, or take it away."""
    name, argument = one_action(request)
    if name not in {"addProjectAccess", "removeProjectAccess"}:
        raise InvalidInputError(f"There is no such action: {name[:64]}.")
    project_id = inputs.name("project", argument.get("project"), required=True) or ""
    change = service.add_access if name == "addProjectAccess" else service.remove_access
    change(request.service, request.caller, request.params["id"], project_id)
    return Reply(202)


def _specs(value: object) -> dict[str, str]:
    found = inputs.pairs("extra_specs", value)
    for key in found:
        if not _SPEC_KEY.fullmatch(key):
            raise inputs.refuse(
                "extra_specs key", key, "Only letters, digits, spaces and _ - : . are allowed."
            )
    return found


ENDPOINTS = (
    Endpoint("GET", "/types", index),
    Endpoint("POST", "/types", create),
    Endpoint("GET", "/types/{id}", show),
    Endpoint("PUT", "/types/{id}", update),
    Endpoint("DELETE", "/types/{id}", delete),
    Endpoint("POST", "/types/{id}/action", act),
    Endpoint("GET", "/types/{id}/extra_specs", show_specs),
    Endpoint("POST", "/types/{id}/extra_specs", add_specs),
    Endpoint("GET", "/types/{id}/extra_specs/{key}", show_spec),
    Endpoint("PUT", "/types/{id}/extra_specs/{key}", put_spec),
    Endpoint("DELETE", "/types/{id}/extra_specs/{key}", delete_spec),
    Endpoint("GET", "/types/{id}/os-volume-type-access", show_access),
)
