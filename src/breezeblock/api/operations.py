"""Operations: ours, not the Block Storage API's. What is at work, how far it is, and stopping it."""

from typing import Any

from breezeblock.api import inputs, pages
from breezeblock.api.http import Reply, Request, reply
from breezeblock.api.routing import Endpoint
from breezeblock.api.views.others import operation
from breezeblock.api.volume_actions import one_action
from breezeblock.errors import InvalidInputError
from breezeblock.service import operations as service


def index(request: Request) -> Reply:
    """List operations, newest first; `state` may name several, separated by commas."""
    states = tuple(filter(None, request.query.get("state", "").split(",")))
    for state in states:
        if state not in service.STATES:
            raise inputs.refuse("state", state, f"States are {', '.join(service.STATES)}.")
    inputs.only(request.query, ("state", "volume_id", "limit", "marker"))
    shown = pages.page(request, {})
    found = service.list_(
        request.service,
        request.caller,
        states=states,
        volume_id=request.query.get("volume_id"),
        limit=shown.limit,
        marker=shown.marker,
    )
    content: dict[str, Any] = {"operations": [operation(row) for row in found]}
    content.update(pages.next_links(request, "operations_links", shown, found))
    return reply(content)


def show(request: Request) -> Reply:
    """Show one operation."""
    return reply({"operation": operation(service.get(request.service, request.caller, request.params["id"]))})


def act(request: Request) -> Reply:
    """Ask an operation to stop."""
    name, _ = one_action(request)
    if name != "cancel":
        raise InvalidInputError(f"There is no such action: {name[:64]}.")
    service.cancel(request.service, request.caller, request.params["id"])
    return Reply(202)


ENDPOINTS = (
    Endpoint("GET", "/operations", index),
    Endpoint("GET", "/operations/{id}", show),
    Endpoint("POST", "/operations/{id}/action", act),
)
