"""VHDX, the disk format of Hyper-V: fixed, dynamic and differencing images.

Source: [MS-VHDX], Virtual Hard Disk v2 file format. What `breezeblock.images.layer.Format` asks for.
"""

from msgspec.structs import replace

from breezeblock.errors import InvalidInputError
from breezeblock.images.file import File
from breezeblock.images.layer import Layer, Options
from breezeblock.images.vhdx import create as creation
from breezeblock.images.vhdx import locator
from breezeblock.images.vhdx.disk import NAME, Vhdx
from breezeblock.images.vhdx.layout import SIGNATURE

__all__ = ["NAME", "Vhdx", "create", "create_child", "open_layer", "recognises"]


def recognises(head: bytes, tail: bytes) -> bool:  # noqa: ARG001 - other formats look at the tail
    """Tell by the first bytes whether a file claims to be a VHDX."""
    return head.startswith(SIGNATURE)


def open_layer(file: File) -> Vhdx:
    """Read headers, region table and metadata. Raises CorruptError. Follows no name; writes nothing."""
    return Vhdx(file)


def create(file: File, virtual_bytes: int, options: Options) -> None:
    """Write an image of zeros into an empty file that nobody can see yet; the caller flushes."""
    creation.write(file, creation.blank(virtual_bytes, options))


def create_child(file: File, parent: Layer, name: str, options: Options) -> None:
    """Write an image that holds nothing, above `parent` (in the same directory under `name`)."""
    if not isinstance(parent, Vhdx):
        raise InvalidInputError(f"The parent of a VHDX must be a VHDX, not {parent.format}.")
    above = parent.image.metadata
    if options.fixed:
        raise InvalidInputError("A VHDX with a parent cannot be fixed.")
    block_bytes = options.block_bytes or creation.CHILD_BLOCK_BYTES
    options = Options(block_bytes=block_bytes, sector_bytes=above.logical_sector)
    linked = locator.make(name, parent.image.header.data_write)
    new = creation.blank(above.virtual_bytes, options, above.disk_id)
    new = replace(new, physical_sector=above.physical_sector, locator=linked)
    creation.write(file, new)
