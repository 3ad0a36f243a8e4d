"""Parents: re-linking a child, and what a merge into the parent changes ([MS-VHDX] 2.2.2, 2.6.2.6).

A child knows its parent by the parent's DataWriteGuid, which changes with the parent's content. So that
the two fit together at any moment, the child is told of the new GUID first (as `parent_linkage2`), then
the parent takes it, then the child forgets the old one.
"""

from uuid import UUID, uuid4

from breezeblock.images.layer import corrupt
from breezeblock.images.vhdx import items
from breezeblock.images.vhdx import locator as locators
from breezeblock.images.vhdx.edit import Edit
from breezeblock.images.vhdx.image import Image
from breezeblock.images.vhdx.layout import HEADER_OFFSETS
from breezeblock.images.vhdx.locator import Locator


def locator_of(image: Image) -> Locator:
    """Return the parent locator. Raises CorruptError for an image without a parent."""
    if image.metadata.locator is None:
        raise corrupt(image.file, "it has no parent", image.regions.metadata.offset)
    return image.metadata.locator


def verify(child: Image, parent: Image) -> None:
    """Raise CorruptError unless `parent` is what the child was made for, and was not changed since."""
    locator, actual = locator_of(child), parent.header.data_write
    if not locator.accepts(actual):
        raise corrupt(
            child.file,
            f"it was made for a parent with the DataWriteGuid {locator.linkage}, but that of"
            f" {parent.file.name} is {actual} (at byte {HEADER_OFFSETS[parent.header.slot] + 32} there)",
            child.regions.metadata.offset,
            remedy="The parent was written to after the child was made, or is another file.",
        )
    if child.metadata.logical_sector != parent.metadata.logical_sector:
        raise corrupt(
            child.file,
            f"its sectors have {child.metadata.logical_sector} bytes, those of its parent"
            f" {parent.file.name} {parent.metadata.logical_sector}",
            child.regions.metadata.offset,
        )


def set_parent(edit: Edit, name: str, data_write: UUID) -> None:
    """Record another parent, in the same directory, that reads the same."""
    wanted = locators.make(name, data_write)
    if locator_of(edit.image).pairs != wanted.pairs:
        items.set_locator(edit, wanted)


def receive(parent: Edit, child: Edit) -> None:
    """Prepare the parent for taking in what the child holds; the child fits before and after."""
    verify(child.image, parent.image)
    if parent.image.header.data_write == locator_of(child.image).linkage:
        _hand_over(parent, child, uuid4())
    else:  # an earlier run was stopped just before its last step
        _settle(child, parent.image.header.data_write)
    parent.keep_data_guid(parent.image.header.data_write)


def _hand_over(parent: Edit, child: Edit, data_write: UUID) -> None:
    """Give the parent another DataWriteGuid; the child fits at any moment.

    In the middle by `parent_linkage2`, which not every program knows: those refuse the chain there.
    """
    items.set_locator(child, locators.with_linkage2(locator_of(child.image), data_write))
    parent.keep_data_guid(data_write)
    _settle(child, data_write)


def _settle(child: Edit, data_write: UUID) -> None:
    """Let the child know its parent by this DataWriteGuid only."""
    pairs = {**locator_of(child.image).pairs, locators.LINKAGE: f"{{{data_write}}}"}
    pairs.pop(locators.LINKAGE2, None)
    items.set_locator(child, Locator(pairs, data_write))


def adopt(parent: Edit, child: Edit) -> None:
    """Let an image be what the child was, for those that were made for the child.

    The image is the child's parent after a merge, or one that reads as the child does (flattened).
    """
    guid = child.image.header.data_write
    current, locator = parent.image.header.data_write, child.image.metadata.locator
    if current != guid and locator and locator.accepts(current):
        _hand_over(parent, child, guid)
    parent.keep_data_guid(guid)
