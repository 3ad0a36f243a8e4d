"""Attachments (3.27): which host may use a volume, and how it gets there."""

from typing import Any

from breezeblock.api import filters, inputs, pages
from breezeblock.api.http import Reply, Request, reply
from breezeblock.api.routing import Endpoint
from breezeblock.api.views import attachments as views
from breezeblock.api.volume_actions import check_connector, check_mode
from breezeblock.api.volumes import all_projects
from breezeblock.errors import InvalidInputError
from breezeblock.service import attachments as service
from breezeblock.service import lists

SORTABLE = {key: key for key in ("id", "created_at", "updated_at", "volume_id", "status", "instance_id")}


def index(request: Request) -> Reply:
    """List attachments."""
    return _list(request, detail=False)


def detail(request: Request) -> Reply:
    """List attachments with their connections."""
    return _list(request, detail=True)


def show(request: Request) -> Reply:
    """Show one attachment."""
    row = service.get(request.service, request.caller, request.params["id"])
    return reply({"attachment": views.detailed(row)})


def create(request: Request) -> Reply:
    """Reserve a volume and, with a connector, connect it."""
    wanted = request.member("attachment")
    connector = _connector(wanted.get("connector"))
    mode = check_mode(wanted.get("mode")) if request.at_least(54) else None
    if mode is None and connector is not None:
        mode = check_mode(connector.get("mode"))
    attachment_id = service.create(
        request.service,
        request.caller,
        service.NewAttachment(
            volume_id=inputs.identifier("volume_uuid", wanted.get("volume_uuid")),
            instance_id=inputs.optional_identifier("instance_uuid", wanted.get("instance_uuid")),
            connector=connector,
            mode=mode,
        ),
    )
    row = service.get(request.service, request.caller, attachment_id)
    return reply({"attachment": views.detailed(row)})


def update(request: Request) -> Reply:
    """Connect an attachment that was only reserved."""
    wanted = request.member("attachment")
    connector = check_connector(wanted.get("connector"))
    attachment_id = request.params["id"]
    service.connect(
        request.service, request.caller, attachment_id, connector, check_mode(connector.get("mode"))
    )
    row = service.get(request.service, request.caller, attachment_id)
    return reply({"attachment": views.detailed(row)})


def delete(request: Request) -> Reply:
    """Withdraw an attachment; return those that the volume still has."""
    left = service.delete(request.service, request.caller, request.params["id"])
    return reply({"attachments": [views.brief(row) for row in left]})


def act(request: Request) -> Reply:
    """Note that the host has the volume (3.44)."""
    # Clients send nothing, an empty object or the attachment's id under the key.
    if list(body := request.json()) != ["os-complete"]:
        raise InvalidInputError(f"There is no such action: {', '.join(body)[:64]}.")
    service.complete(request.service, request.caller, request.params["id"])
    return Reply(204)


def _connector(value: object) -> dict[str, Any] | None:
    return None if value is None or value == {} else check_connector(value)


def _list(request: Request, *, detail: bool) -> Reply:
    found = lists.attachments(
        request.service,
        request.caller,
        filters.conditions(request, "attachment"),
        pages.page(request, SORTABLE),
        all_projects=all_projects(request),
    )
    view = views.detailed if detail else views.brief
    return reply({"attachments": [view(row) for row in found.rows]})


ENDPOINTS = (
    Endpoint("GET", "/attachments", index, since=27),
    Endpoint("POST", "/attachments", create, since=27, waits=True),
    Endpoint("GET", "/attachments/detail", detail, since=27),
    Endpoint("GET", "/attachments/{id}", show, since=27),
    Endpoint("PUT", "/attachments/{id}", update, since=27, waits=True),
    Endpoint("DELETE", "/attachments/{id}", delete, since=27, waits=True),
    Endpoint("POST", "/attachments/{id}/action", act, since=44),
)
