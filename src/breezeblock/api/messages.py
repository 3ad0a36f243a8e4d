"""Messages (3.3): why something that was accepted failed afterwards."""

from typing import Any

from breezeblock.api import filters, pages
from breezeblock.api.http import Reply, Request, reply
from breezeblock.api.routing import Endpoint
from breezeblock.api.views.others import message
from breezeblock.service import lists
from breezeblock.service import messages as service

SORTABLE = {
    "id": "id",
    "created_at": "created_at",
    "guaranteed_until": "expires_at",
    "event_id": "event_id",
    "message_level": "message_level",
    "resource_type": "resource_type",
    "resource_uuid": "resource_uuid",
    "request_id": "request_id",
    "project_id": "project_id",
}


def index(request: Request) -> Reply:
    """List the project's messages."""
    shown = pages.page(request, SORTABLE)
    conditions = filters.conditions(request, "message") if request.at_least(5) else []
    found = lists.messages(request.service, request.caller, conditions, shown)
    content: dict[str, Any] = {"messages": [message(request, row) for row in found.rows]}
    content.update(pages.next_links(request, "messages_links", shown, found.rows))
    return reply(content)


def show(request: Request) -> Reply:
    """Show one message."""
    return reply(
        {"message": message(request, lists.message(request.service, request.caller, request.params["id"]))}
    )


def delete(request: Request) -> Reply:
    """Forget a message."""
    service.delete(request.service, request.caller, request.params["id"])
    return Reply(204)


ENDPOINTS = (
    Endpoint("GET", "/messages", index, since=3),
    Endpoint("GET", "/messages/{id}", show, since=3),
    Endpoint("DELETE", "/messages/{id}", delete, since=3),
)
