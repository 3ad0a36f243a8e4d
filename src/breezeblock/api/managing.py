"""Managing what is on storage already: list it, take it in, let it go (admins)."""

from collections.abc import Callable
from typing import Any

from breezeblock.api import inputs
from breezeblock.api.http import Reply, Request, reply
from breezeblock.api.routing import Endpoint
from breezeblock.api.views import snapshots as snapshot_views
from breezeblock.api.views import volumes as views
from breezeblock.api.volumes import described
from breezeblock.operations.managing import Manageable
from breezeblock.service import lists, snapshots
from breezeblock.service import managing as service
from breezeblock.service.core import GIB

FORMATS = ("", "raw", "qcow2", "vhd", "vhdx")
_PAGE = 1000


def manage(request: Request) -> Reply:
    """Promise that something on storage becomes a volume."""
    wanted = request.member("volume")
    host = inputs.name("host", wanted.get("host"), required=True) or ""
    reference = inputs.member(wanted, "ref")
    inputs.only(reference, ("source-name", "source-id", "format"))
    image_format = reference.get("format") or ""
    if image_format not in FORMATS:
        raise inputs.refuse("ref.format", image_format, "It must be raw, qcow2, vhd or vhdx.")
    if reference.get("source-id") is not None:
        name = f"volume-{inputs.identifier('source-id', reference['source-id'])}"
    else:
        name = inputs.name("source-name", reference.get("source-name"), required=True) or ""
    volume_id = service.manage(
        request.service,
        request.caller,
        service.NewManaged(
            host=host,
            reference=service.Reference(name=name, format=image_format),
            volume_type=inputs.name("volume_type", wanted.get("volume_type")) or None,
            bootable=inputs.flag("bootable", wanted.get("bootable") or False),
            **described(wanted),
        ),
    )
    row, attached = lists.volume(request.service, request.caller, volume_id)
    made = views.one(request, row, attached, extended=False)
    made.status = "managing"
    return reply({"volume": made}, 202)


def manage_snapshot(request: Request) -> Reply:
    """Promise that the catalog knows a snapshot which a managed volume has on storage."""
    wanted = request.member("snapshot")
    reference = inputs.member(wanted, "ref")
    named = reference.get("source-id") or reference.get("source-name")
    snapshot_id = inputs.identifier("ref", named)
    volume_id = inputs.identifier("volume_id", wanted.get("volume_id"))
    service.manage_snapshot(request.service, request.caller, volume_id, snapshot_id, **described(wanted))
    row = snapshots.get(request.service, request.caller, snapshot_id)
    made = snapshot_views.detailed(request, row, extended=False)
    made.status = "managing"
    return reply({"snapshot": made}, 202)


def index(request: Request) -> Reply:
    """List what could be a volume, briefly."""
    return _list(request, "manageable-volumes", _volume, detail=False)


def detail(request: Request) -> Reply:
    """List what could be a volume."""
    return _list(request, "manageable-volumes", _volume, detail=True)


def snapshot_index(request: Request) -> Reply:
    """List what could be a snapshot, briefly."""
    return _list(request, "manageable-snapshots", _snapshot, detail=False)


def snapshot_detail(request: Request) -> Reply:
    """List what could be a snapshot."""
    return _list(request, "manageable-snapshots", _snapshot, detail=True)


def _list(
    request: Request, key: str, view: Callable[[Manageable, bool], dict[str, Any]], *, detail: bool
) -> Reply:
    query = request.query
    inputs.only(query, ("host", "limit", "offset", "sort", "marker"))
    limit = inputs.whole("limit", query.get("limit", _PAGE), low=0, high=_PAGE)
    offset = inputs.whole("offset", query.get("offset", 0), low=0, high=1 << 31)
    field, _, direction = (query.get("sort") or "reference:asc").partition(":")
    if field not in {"size", "reference"} or direction not in {"", "asc", "desc"}:
        raise inputs.refuse("sort", query.get("sort"), "It must be size or reference, then :asc or :desc.")
    found = service.survey(request.service, request.caller, query.get("host", ""))
    wanted = [one for one in found if (one.snapshot_id is None) == (view is _volume)]
    wanted.sort(
        key=lambda one: (one.virtual_bytes if field == "size" else 0, one.reference),
        reverse=direction == "desc",
    )
    return reply({key: [view(one, detail) for one in wanted[offset : offset + limit]]})


def _volume(found: Manageable, detail: bool) -> dict[str, Any]:
    shown = _brief({"source-name": found.reference}, found)
    return {**shown, **_more(found, "; ".join(found.edits) or None)} if detail else shown


def _snapshot(found: Manageable, detail: bool) -> dict[str, Any]:
    shown = _brief({"source-id": found.reference}, found)
    shown["source_reference"] = {"source-name": f"volume-{found.volume_id}", "source-id": found.volume_id}
    return {**shown, **_more(found, None)} if detail else shown


def _brief(reference: dict[str, Any], found: Manageable) -> dict[str, Any]:
    return {
        "reference": reference,
        "size": -(-found.virtual_bytes // GIB),
        "safe_to_manage": found.safe,
    }


def _more(found: Manageable, extra: str | None) -> dict[str, Any]:
    return {"reason_not_safe": found.reason, "cinder_id": found.cinder_id, "extra_info": extra}


ENDPOINTS = (
    Endpoint("GET", "/manageable_volumes", index, since=8, waits=True),
    Endpoint("GET", "/manageable_volumes/detail", detail, since=8, waits=True),
    Endpoint("POST", "/manageable_volumes", manage, since=8),
    Endpoint("GET", "/manageable_snapshots", snapshot_index, since=8, waits=True),
    Endpoint("GET", "/manageable_snapshots/detail", snapshot_detail, since=8, waits=True),
    Endpoint("POST", "/manageable_snapshots", manage_snapshot, since=8),
    Endpoint("GET", "/os-volume-manage", index, waits=True),
    Endpoint("GET", "/os-volume-manage/detail", detail, waits=True),
    Endpoint("POST", "/os-volume-manage", manage),
    Endpoint("GET", "/os-snapshot-manage", snapshot_index, waits=True),
    Endpoint("GET", "/os-snapshot-manage/detail", snapshot_detail, waits=True),
    Endpoint("POST", "/os-snapshot-manage", manage_snapshot),
)
