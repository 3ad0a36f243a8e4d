"""File SRs as they are on storage: each disk a VHD or QCOW2, children naming their parents, by `images/`."""

import subprocess
from pathlib import Path

from breezeblock import images
from breezeblock.errors import UnsupportedError
from xenserver.blocks import BLOCK, Blocks
from xenserver.engines import Node, TreeEngine
from xenserver.failures import Failure

VHD_BLOCK = 2 << 20
UNITS = {"vhd": VHD_BLOCK, "qcow2": 64 << 10, "raw": BLOCK}
"""What a format takes from storage at once."""


class ImageBlocks(Blocks):
    """One image file. Reading looks through its parents, as whoever opens it does."""

    def __init__(self, path: Path, virtual_bytes: int, parent: Path | None, image_format: str) -> None:
        self.path = path
        self.format = image_format
        self.written: set[int] = set()
        options = images.Options()
        if image_format == "vhd" and not virtual_bytes % VHD_BLOCK:
            # XenServer's own are a multiple of 2 MiB; tests of steps have smaller disks.
            options = images.Options(creator="xen")
        if parent:
            images.create_child(path, parent, image_format, image_format, options)
        else:
            images.create(path, image_format, virtual_bytes, options)
        self.measure()

    def measure(self) -> None:
        """See how long the file is."""
        self._bytes = self.path.stat().st_size

    def read(self, number: int) -> bytes:
        """Return one block as it is read here."""
        return self.read_range(number * BLOCK, BLOCK)

    def read_range(self, offset: int, length: int) -> bytes:
        """Return bytes as they are read here."""
        return b"".join(images.read(self.path, offset, length, self.format))

    def write_range(self, offset: int, data: bytes) -> None:
        """Write bytes anywhere."""
        images.write(self.path, offset, [data], self.format)
        self.written.update(range(offset // BLOCK, -(-(offset + len(data)) // BLOCK)))
        self.measure()

    def remove(self) -> None:
        """Delete the file."""
        self.path.unlink()

    @property
    def used_bytes(self) -> int:
        """Return the file's length."""
        return self._bytes


class ImageEngine(TreeEngine):
    """Thin leaves over hidden bases, each an image file."""

    def blocks(self, path: Path, size: int, parent: Node | None, image_format: str) -> Blocks:
        """Make a file."""
        return ImageBlocks(path, size, parent.blocks.path if parent else None, image_format)

    def read(self, uuid: str, offset: int, length: int) -> bytes:
        """Return bytes as a consumer reads them."""
        return _image(self.node(uuid)).read_range(offset, length)

    def write(self, uuid: str, offset: int, data: bytes) -> None:
        """Write bytes as a consumer does."""
        node = self.node(uuid)
        if offset + len(data) > node.virtual_bytes:
            raise Failure("VDI_IO_ERROR", "beyond the end of the device")
        unit = UNITS[node.format]
        touched = range(offset // unit, -(-(offset + len(data)) // unit))
        held = {number // (unit // BLOCK) for number in node.blocks.written}
        self.need(unit * sum(one not in held for one in touched))
        if data:
            _image(node).write_range(offset, data)

    def resize(self, uuid: str, wanted: int) -> int:
        """Grow an image."""
        size = super().resize(uuid, wanted)
        node = self.node(uuid)
        if node.format == "qcow2":  # its first table may have to move
            command = ["qemu-img", "resize", "-q", "-f", "qcow2", str(node.blocks.path), str(size)]
            subprocess.run(command, check=True, timeout=60)
        else:
            images.grow(node.blocks.path, size, node.format)
        return size

    def merge_needs(self, base: Node, child: Node) -> int:
        """Return what the base grows by."""
        per = UNITS[base.format] // BLOCK
        held = {number // per for number in base.blocks.written}
        return UNITS[base.format] * len({number // per for number in child.blocks.written} - held)

    def merge(self, base: Node, child: Node) -> None:
        """Write the child into its base, which then takes the child's place and name."""
        try:
            images.merge(child.blocks.path, child.format, replace_child=True)
        except UnsupportedError:  # the base has grown with another child of it that is gone
            images.flatten(child.blocks.path, child.format)
            child.blocks.written = child.data()
            child.parent = None
            base.blocks.remove()
        else:
            child.blocks.written |= base.blocks.written
            child.parent = base.parent
        _image(child).measure()
        del self.nodes[base.uuid]


def _image(node: Node) -> ImageBlocks:
    assert isinstance(node.blocks, ImageBlocks)
    return node.blocks
