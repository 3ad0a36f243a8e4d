"""Volumes from images and images from volumes: ours, not the Block Storage API's (that has Glance)."""

from typing import Any

from breezeblock.api import inputs
from breezeblock.api.http import Reply, Request, reply
from breezeblock.api.routing import Endpoint
from breezeblock.api.views import volumes as views
from breezeblock.api.volumes import described
from breezeblock.service import imaging as service
from breezeblock.service import lists
from breezeblock.service.volumes import Image, NewVolume

_IMAGE = ("url", "format", "checksum")
_VOLUME = ("name", "description", "metadata", "size", "volume_type", "availability_zone")


def bring_in(request: Request) -> Reply:
    """Promise a volume with the content of an image."""
    wanted = request.member("volume_import")
    inputs.only(wanted, ("image", "volume"))
    volume = inputs.member(wanted, "volume")
    inputs.only(volume, _VOLUME)
    new = NewVolume(
        image=_image(wanted),
        virtual_bytes=inputs.gibibytes("size", volume.get("size")),
        volume_type=inputs.name("volume_type", volume.get("volume_type")) or None,
        availability_zone=inputs.name("availability_zone", volume.get("availability_zone")) or None,
        **described(volume),
    )
    volume_id = service.bring_in(request.service, request.caller, new)
    row, attached = lists.volume(request.service, request.caller, volume_id)
    made = views.one(request, row, attached, extended=False)
    made.status = "downloading"
    return reply({"volume": made}, 202)


def bring_out(request: Request) -> Reply:
    """Promise that a volume is written as an image."""
    wanted = request.member("volume_export")
    inputs.only(wanted, ("image", "volume_id"))
    volume_id = inputs.identifier("volume_id", wanted.get("volume_id"))
    operation_id = service.bring_out(request.service, request.caller, volume_id, _image(wanted))
    return reply({"volume_export": {"volume_id": volume_id, "operation_id": operation_id}}, 202)


def cached(request: Request) -> Reply:
    """List the images that pools hold for volumes to be made from (admin)."""
    return reply({"cached_images": service.cached(request.service, request.caller)})


def evict(request: Request) -> Reply:
    """Let an image go (admin)."""
    service.evict(request.service, request.caller, inputs.identifier("id", request.params["id"]))
    return Reply(202)


def _image(wanted: dict[str, Any]) -> Image:
    image = inputs.member(wanted, "image")
    inputs.only(image, _IMAGE)
    url = image.get("url")
    if not isinstance(url, str):
        raise inputs.refuse("url", type(url).__name__, "It must be a string.")
    return Image(
        url=url,
        format=inputs.name("format", image.get("format"), required=True) or "",
        checksum=inputs.name("checksum", image.get("checksum")) or "",
    )


ENDPOINTS = (
    Endpoint("POST", "/volume_imports", bring_in),
    Endpoint("POST", "/volume_exports", bring_out),
    Endpoint("GET", "/cached_images", cached),
    Endpoint("DELETE", "/cached_images/{id}", evict),
)
