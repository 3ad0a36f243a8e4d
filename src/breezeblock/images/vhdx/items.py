"""Changing metadata items of an existing file, through the log."""

from msgspec.structs import replace

from breezeblock.images.layer import corrupt
from breezeblock.images.vhdx import metadata
from breezeblock.images.vhdx.edit import Edit
from breezeblock.images.vhdx.layout import PARENT_LOCATOR, VIRTUAL_DISK_SIZE
from breezeblock.images.vhdx.locator import Locator
from breezeblock.images.vhdx.locator import encode as encode_locator


def set_locator(edit: Edit, locator: Locator) -> None:
    """Replace the parent locator, durably."""
    edit.announce(data=False)
    edit.publish(edit.patched(_replaced(edit, PARENT_LOCATOR, encode_locator(locator))))
    edit.reload()


def size_change(edit: Edit, virtual_bytes: int) -> dict[int, bytes]:
    """Return what to change in the file for another virtual disk size."""
    return _replaced(edit, VIRTUAL_DISK_SIZE, virtual_bytes.to_bytes(8, "little"))


def _replaced(edit: Edit, guid: bytes, value: bytes) -> dict[int, bytes]:
    image = edit.image
    region, items = image.regions.metadata, image.metadata.items
    old = next(item for item in items if item.guid == guid)
    if old.length == len(value):
        return {region.offset + old.offset: value}
    at = metadata.room(region, (item for item in items if item is not old), len(value))
    if at is None:
        problem = f"the metadata region has no room for an item of {len(value)} bytes"
        raise corrupt(image.file, problem, region.offset)
    new = replace(old, offset=at, length=len(value))
    table = metadata.encode_table(new if item is old else item for item in items)
    return {region.offset: table, region.offset + at: value}
