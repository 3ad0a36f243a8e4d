"""Snapshots: list, create, show, update, delete, actions."""

import re
from typing import Any

from breezeblock.api import filters, inputs, pages
from breezeblock.api.http import Reply, Request, reply
from breezeblock.api.routing import Endpoint
from breezeblock.api.views import snapshots as views
from breezeblock.api.volume_actions import one_action
from breezeblock.api.volumes import DESCRIPTION, all_projects, changes, described
from breezeblock.errors import InvalidInputError, NotFoundError
from breezeblock.service import details, lists, managing
from breezeblock.service import snapshots as service

SORTABLE = {
    **{key: key for key in ("id", "status", "volume_id", "size", "created_at", "updated_at", "user_id")},
    "volume_size": "size",
    "display_name": "name",
    "project_id": "project_id",
}


def index(request: Request) -> Reply:
    """List snapshots, nearly with everything."""
    return _list(request, detail=False)


def detail(request: Request) -> Reply:
    """List snapshots with everything."""
    return _list(request, detail=True)


def show(request: Request) -> Reply:
    """Show one snapshot."""
    row = service.get(request.service, request.caller, request.params["id"])
    return reply({"snapshot": views.detailed(request, row)})


def create(request: Request) -> Reply:
    """Promise a snapshot."""
    wanted = request.member("snapshot")
    force = inputs.flag("force", wanted["force"]) if wanted.get("force") is not None else False
    if request.at_least(66):
        if wanted.get("force") is not None and not force:
            raise InvalidInputError(
                "Since microversion 3.66 the option 'force' is accepted only when it is true."
            )
        force = True
    if "volume_id" in wanted and wanted["volume_id"] is None:
        raise NotFoundError("Volume None could not be found.")
    if request.at_least(53):
        inputs.only(wanted, (*DESCRIPTION, "volume_id", "force"))
    snapshot_id = service.create(
        request.service,
        request.caller,
        service.NewSnapshot(
            volume_id=inputs.identifier("volume_id", wanted.get("volume_id")),
            force=force,
            **described(wanted),
        ),
    )
    row = service.get(request.service, request.caller, snapshot_id)
    made = views.detailed(request, row, extended=False)
    made.status = "creating"  # a quick worker may be done by now, but this is what was promised
    return reply({"snapshot": made}, 202)


def update(request: Request) -> Reply:
    """Change what is said about a snapshot."""
    values = changes(request.member("snapshot"))
    snapshot_id = request.params["id"]
    details.update(request.service, request.caller, "snapshot", snapshot_id, values)
    row = service.get(request.service, request.caller, snapshot_id)
    return reply({"snapshot": views.detailed(request, row, extended=False)})


def delete(request: Request) -> Reply:
    """Promise that a snapshot will be gone."""
    service.delete(request.service, request.caller, request.params["id"])
    return Reply(202)


def act(request: Request) -> Reply:
    """Run the action that the body's one key names."""
    name, argument = one_action(request)
    snapshot_id = request.params["id"]
    if name == "os-reset_status":
        status = inputs.name("status", argument.get("status"), required=True) or ""
        service.reset_status(request.service, request.caller, snapshot_id, status)
    elif name == "os-update_snapshot_status":
        details.report_snapshot(
            request.service,
            request.caller,
            snapshot_id,
            status=inputs.name("status", argument.get("status"), required=True) or "",
            progress=_progress(argument.get("progress")),
        )
    elif name == "os-unmanage":
        managing.unmanage_snapshot(request.service, request.caller, snapshot_id)
    elif name == "os-force_delete":
        service.force_delete(request.service, request.caller, snapshot_id)
    else:
        raise InvalidInputError(f"There is no such action: {name[:64]}.")
    return Reply(202)


def _progress(value: object) -> str | None:
    text = inputs.name("progress", value)
    if text is not None and not re.fullmatch(r"(100|[1-9]?[0-9])%", text, re.ASCII):
        raise inputs.refuse("progress", value, "It must be a percentage such as '80%'.")
    return text


def _list(request: Request, *, detail: bool) -> Reply:
    sortable = {**SORTABLE, "name": "name"} if request.at_least(30) else SORTABLE
    shown = pages.page(request, sortable)
    found = lists.snapshots(
        request.service,
        request.caller,
        filters.conditions(request, "snapshot"),
        shown,
        all_projects=all_projects(request),
        count=pages.wants_count(request),
    )
    content: dict[str, Any] = {"snapshots": views.listed(request, found.rows, detail=detail)}
    if found.count is not None:
        content["count"] = found.count
    content.update(pages.next_links(request, "snapshots_links", shown, found.rows))
    return reply(content)


ENDPOINTS = (
    Endpoint("GET", "/snapshots", index),
    Endpoint("POST", "/snapshots", create),
    Endpoint("GET", "/snapshots/detail", detail),
    Endpoint("GET", "/snapshots/{id}", show),
    Endpoint("PUT", "/snapshots/{id}", update),
    Endpoint("DELETE", "/snapshots/{id}", delete),
    Endpoint("POST", "/snapshots/{id}/action", act),
)
