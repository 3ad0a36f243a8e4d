"""File SRs as they are on storage: each image a VHD file, children naming their parents, by `images/`."""

from pathlib import Path

from breezeblock import images
from breezeblock.errors import UnsupportedError
from xenserver.blocks import BLOCK, Blocks
from xenserver.engines import Node, TreeEngine
from xenserver.failures import Failure

VHD_BLOCK = 2 << 20
PER_BLOCK = VHD_BLOCK // BLOCK


class VhdBlocks(Blocks):
    """One VHD file. Reading looks through its parents, as whoever opens it does."""

    def __init__(self, path: Path, virtual_bytes: int, parent: Path | None) -> None:
        self.path = path
        self.written: set[int] = set()
        # XenServer's own are a multiple of 2 MiB; tests of steps have smaller disks.
        options = images.Options(creator=None if virtual_bytes % VHD_BLOCK else "xen")
        if parent:
            images.create_child(path, parent, "vhd", "vhd", options)
        else:
            images.create(path, "vhd", virtual_bytes, options)
        self.measure()

    def measure(self) -> None:
        """See how long the file is."""
        self._bytes = self.path.stat().st_size

    def read(self, number: int) -> bytes:
        """Return one block as it is read here."""
        return self.read_range(number * BLOCK, BLOCK)

    def read_range(self, offset: int, length: int) -> bytes:
        """Return bytes as they are read here."""
        return b"".join(images.read(self.path, offset, length, "vhd"))

    def write_range(self, offset: int, data: bytes) -> None:
        """Write bytes anywhere."""
        images.write(self.path, offset, [data], "vhd")
        self.written.update(range(offset // BLOCK, -(-(offset + len(data)) // BLOCK)))
        self.measure()

    def remove(self) -> None:
        """Delete the file."""
        self.path.unlink()

    @property
    def used_bytes(self) -> int:
        """Return the file's length."""
        return self._bytes


class VhdEngine(TreeEngine):
    """Thin leaves over hidden bases, each a VHD."""

    def blocks(self, path: Path, size: int, parent: Node | None) -> Blocks:
        """Make a file."""
        return VhdBlocks(path, size, parent.blocks.path if parent else None)

    def read(self, uuid: str, offset: int, length: int) -> bytes:
        """Return bytes as a consumer reads them."""
        return _vhd(self.node(uuid)).read_range(offset, length)

    def write(self, uuid: str, offset: int, data: bytes) -> None:
        """Write bytes as a consumer does."""
        node = self.node(uuid)
        if offset + len(data) > node.virtual_bytes:
            raise Failure("VDI_IO_ERROR", "beyond the end of the device")
        touched = range(offset // VHD_BLOCK, -(-(offset + len(data)) // VHD_BLOCK))
        held = {number // PER_BLOCK for number in node.blocks.written}
        self.need(VHD_BLOCK * sum(one not in held for one in touched))
        if data:
            _vhd(node).write_range(offset, data)

    def resize(self, uuid: str, wanted: int) -> int:
        """Grow an image."""
        size = super().resize(uuid, wanted)
        images.grow(self.node(uuid).blocks.path, size, "vhd")
        return size

    def merge_needs(self, base: Node, child: Node) -> int:
        """Return what the base grows by."""
        held = {number // PER_BLOCK for number in base.blocks.written}
        return VHD_BLOCK * len({number // PER_BLOCK for number in child.blocks.written} - held)

    def merge(self, base: Node, child: Node) -> None:
        """Write the child into its base, which then takes the child's place and name."""
        try:
            images.merge(child.blocks.path, "vhd", replace_child=True)
        except UnsupportedError:  # the base has grown with another child of it that is gone
            images.flatten(child.blocks.path, "vhd")
            child.blocks.written = child.data()
            child.parent = None
            base.blocks.remove()
        else:
            child.blocks.written |= base.blocks.written
            child.parent = base.parent
        _vhd(child).measure()
        del self.nodes[base.uuid]


def _vhd(node: Node) -> VhdBlocks:
    assert isinstance(node.blocks, VhdBlocks)
    return node.blocks
