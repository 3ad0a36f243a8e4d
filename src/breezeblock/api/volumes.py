"""Volumes: list, create, show, update, delete, summary."""

from typing import Any

from breezeblock.api import filters, inputs, pages
from breezeblock.api.http import Reply, Request, reply
from breezeblock.api.routing import Endpoint
from breezeblock.api.views import volumes as views
from breezeblock.errors import InvalidInputError, UnsupportedError
from breezeblock.service import details, lists
from breezeblock.service import volumes as service
from breezeblock.service.core import GIB

SORTABLE = {
    **{
        key: key
        for key in (
            "id",
            "name",
            "status",
            "size",
            "availability_zone",
            "bootable",
            "created_at",
            "updated_at",
            "volume_type",
            "user_id",
            "host",
        )
    },
    "display_name": "name",
    "project_id": "project_id",
    "volume_type_id": "volume_type_id",
}

DESCRIPTION = ("name", "description", "display_name", "display_description", "metadata")
_NEW = (
    *DESCRIPTION, "size", "availability_zone", "volume_type", "snapshot_id", "source_volid", "multiattach",
    "consistencygroup_id", "imageRef", "image_id", "group_id", "backup_id",
)  # fmt: skip


def index(request: Request) -> Reply:
    """List volumes by name and id."""
    return _list(request, detail=False)


def detail(request: Request) -> Reply:
    """List volumes with everything."""
    return _list(request, detail=True)


def show(request: Request) -> Reply:
    """Show one volume."""
    row, attached = lists.volume(request.service, request.caller, request.params["id"])
    return reply({"volume": views.one(request, row, attached)})


def create(request: Request) -> Reply:
    """Promise a new volume."""
    body = request.json()
    wanted = request.member("volume")
    if request.at_least(53):
        inputs.only(body, ("volume", "OS-SCH-HNT:scheduler_hints"))
        inputs.only(wanted, _NEW)
    for key in ("imageRef", "image_id", "backup_id", "group_id", "consistencygroup_id"):
        if wanted.get(key):
            raise UnsupportedError(
                f"Invalid input for field/attribute {key}: volumes cannot be made from it here.",
                remedy="Use snapshot_id or source_volid, or leave all of them out.",
            )
    hints = body.get("OS-SCH-HNT:scheduler_hints")
    if hints is not None and not isinstance(hints, dict):
        raise inputs.refuse("OS-SCH-HNT:scheduler_hints", hints, "It must be an object.")
    snapshot_id = inputs.optional_identifier("snapshot_id", wanted.get("snapshot_id"))
    source_volid = inputs.optional_identifier("source_volid", wanted.get("source_volid"))
    size = wanted.get("size")
    if size is None and snapshot_id is None and source_volid is None:
        raise inputs.refuse("size", size, "It is required: the size in GiB.")
    multiattach = inputs.flag("multiattach", wanted.get("multiattach") or False)
    if multiattach and request.at_least(50):
        raise InvalidInputError(
            "multiattach parameter has been removed since 3.50. Use a volume type with the extra spec "
            "multiattach='<is> True'."
        )
    volume_id = service.create(
        request.service,
        request.caller,
        service.NewVolume(
            **described(wanted),
            virtual_bytes=None if size is None else inputs.gibibytes("size", size),
            volume_type=inputs.name("volume_type", wanted.get("volume_type")) or None,
            snapshot_id=snapshot_id,
            source_volid=source_volid,
            availability_zone=inputs.name("availability_zone", wanted.get("availability_zone")) or None,
            hints=hints or {},
            multiattach=multiattach,
        ),
    )
    row, attached = lists.volume(request.service, request.caller, volume_id)
    made = views.one(request, row, attached, extended=False)
    made.status = "creating"  # a quick worker may be done by now, but this is what was promised
    return reply({"volume": made}, 202)


def update(request: Request) -> Reply:
    """Change what is said about a volume."""
    wanted = request.member("volume")
    if request.at_least(53):
        inputs.only(request.json(), ("volume",))
        inputs.only(wanted, DESCRIPTION)
    values = changes(wanted)
    volume_id = request.params["id"]
    details.update(request.service, request.caller, "volume", volume_id, values)
    row, attached = lists.volume(request.service, request.caller, volume_id)
    return reply({"volume": views.one(request, row, attached, extended=False)})


def delete(request: Request) -> Reply:
    """Promise that a volume will be gone."""
    query = request.query
    cascade = inputs.flag("cascade", query["cascade"]) if "cascade" in query else False
    force = request.at_least(23) and "force" in query and inputs.flag("force", query["force"])
    if force:
        request.caller.require_admin("volume:force_delete")
    service.delete(request.service, request.caller, request.params["id"], cascade=cascade, force=force)
    return Reply(202)


def summary(request: Request) -> Reply:
    """Add up the volumes."""
    number, virtual_bytes, pairs = lists.summary(
        request.service, request.caller, all_projects=all_projects(request)
    )
    found: dict[str, Any] = {"total_count": number, "total_size": -(-virtual_bytes // GIB)}
    if request.at_least(36):
        metadata: dict[str, list[str]] = {}
        for key, value in pairs:
            metadata.setdefault(key, []).append(value)
        found["metadata"] = metadata
    return reply({"volume-summary": found})


def all_projects(request: Request) -> bool:
    """Say whether an admin asks for everyone's; what others ask is ignored, as clients always send it."""
    text = request.query.get("all_tenants")
    return text is not None and request.caller.is_admin and (text == "" or inputs.flag("all_tenants", text))


def changes(wanted: dict[str, Any]) -> dict[str, Any]:
    """Read an update of a volume or a snapshot, which must change something."""
    values = described(wanted)
    if not values:
        raise InvalidInputError("Nothing to update: give name, description or metadata.")
    return values


def described(wanted: dict[str, Any]) -> dict[str, Any]:
    """Read what a client says about a volume or a snapshot: name, description, metadata."""
    values: dict[str, Any] = {}
    if "name" in wanted or "display_name" in wanted:
        values["name"] = _name(wanted)
    if "description" in wanted or "display_description" in wanted:
        values["description"] = _description(wanted)
    if "metadata" in wanted:
        values["metadata"] = inputs.pairs("metadata", wanted["metadata"])
    return values


def _list(request: Request, *, detail: bool) -> Reply:
    shown = pages.page(request, SORTABLE)
    found, attached = lists.volumes(
        request.service,
        request.caller,
        filters.conditions(request, "volume", also=frozenset({"glance_metadata"})),
        shown,
        all_projects=all_projects(request),
        count=pages.wants_count(request),
    )
    content: dict[str, Any] = {
        "volumes": views.detailed(request, found.rows, attached)
        if detail
        else views.brief(request, found.rows)
    }
    if found.count is not None:
        content["count"] = found.count
    content.update(pages.next_links(request, "volumes_links", shown, found.rows))
    return reply(content)


def _name(wanted: dict[str, Any]) -> str | None:
    return inputs.name("name", wanted["name"] if "name" in wanted else wanted.get("display_name"))


def _description(wanted: dict[str, Any]) -> str | None:
    key = "description" if "description" in wanted else "display_description"
    return inputs.prose("description", wanted.get(key))


ENDPOINTS = (
    Endpoint("GET", "/volumes", index),
    Endpoint("POST", "/volumes", create),
    Endpoint("GET", "/volumes/detail", detail),
    Endpoint("GET", "/volumes/summary", summary, since=12),
    Endpoint("GET", "/volumes/{id}", show),
    Endpoint("PUT", "/volumes/{id}", update),
    Endpoint("DELETE", "/volumes/{id}", delete),
)
