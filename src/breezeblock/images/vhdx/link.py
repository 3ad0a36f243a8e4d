"""Parents: re-linking a child, and what a merge into the parent changes ([MS-VHDX] 2.2.2, 2.6.2.6).

A child knows its parent by the parent's DataWriteGuid, which changes with the parent's content. So that
the two fit together at any moment, the child is told of the new GUID first (as `parent_linkage2`), and
the parent takes it afterwards.
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
    locator = locator_of(child.image)
    guid = parent.image.header.data_write
    if guid == locator.linkage:  # else an earlier merge came this far already
        guid = uuid4()
        items.set_locator(child, locators.with_linkage2(locator, guid))
    parent.keep_data_guid(guid)


def adopt(parent: Edit, child: Edit) -> None:
    """Let the parent be what the child was, for those that were made for the child."""
    guid = child.image.header.data_write
    current = parent.image.header.data_write
    if current != guid:
        # Until it is replaced the child must go on fitting, before and after the parent takes the GUID.
        pairs = {**locator_of(child.image).pairs, locators.LINKAGE: f"{{{current}}}"}
        items.set_locator(child, locators.with_linkage2(Locator(pairs, current), guid))
    parent.keep_data_guid(guid)
