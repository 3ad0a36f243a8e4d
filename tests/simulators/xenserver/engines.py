"""What stands behind an SR: engines that hold real data in files.

`TreeEngine` keeps images over hidden base images: `LvmEngine` with thick leaves, `image_engine` in images;
`ArrayEngine` makes independent copies at once; `LunEngine` has the LUNs it has and lends them out.
"""

import uuid as uuids
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from xenserver.blocks import BLOCK, Blocks
from xenserver.failures import Failure, backend

MIB = 1 << 20
LIMITS = {"vhd": 2040 << 30, "qcow2": 16381 << 30, "raw": 16 << 40}
"""Bytes of the largest disk in each format."""
MAX_CHAIN = 30


@dataclass(eq=False)
class Node:
    """One image."""

    uuid: str
    virtual_bytes: int
    blocks: Blocks
    parent: "Node | None" = None
    hidden: bool = False
    deflated: bool = False
    """Whether a thick SR keeps it without the space that nobody will write to, as it does a snapshot."""
    format: str = "raw"

    def chain(self) -> Iterator["Node"]:
        """Yield it and what is under it."""
        node: Node | None = self
        while node:
            yield node
            node = node.parent

    def block(self, number: int) -> bytes | None:
        """Return what a consumer reads there; None for zeros nobody wrote."""
        for node in self.chain():
            if number in node.blocks.written:
                return node.blocks.read(number)
        return None

    def data(self) -> set[int]:
        """Return the numbers of all blocks with data for a consumer."""
        found: set[int] = set()
        for node in self.chain():
            found |= node.blocks.written
        return {number for number in found if number * BLOCK < self.virtual_bytes}


class Engine:
    """What all engines share."""

    round_bytes = 2 * MIB
    formats: tuple[str, ...] = ("vhd", "raw")
    """What images can be, the first if nothing is asked for."""
    lazy = False
    """Whether work is left for the garbage collector."""

    def __init__(self, folder: Path, capacity: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.capacity = capacity
        self.nodes: dict[str, Node] = {}

    def node(self, uuid: str) -> Node:
        """Return an image by uuid."""
        try:
            return self.nodes[uuid]
        except KeyError:
            raise backend(46, f"VDI {uuid} not found") from None

    def used(self) -> int:
        """Return the bytes in use."""
        return sum(self.cost(node) for node in self.nodes.values())

    def cost(self, node: Node) -> int:
        """Return the bytes that an image takes."""
        return node.blocks.used_bytes

    def need(self, count: int) -> None:
        """Raise failure 44 if that many bytes are not free."""
        if self.used() + count > self.capacity:
            raise backend(44, f"need {count}, have {self.capacity - self.used()}")

    def size(self, wanted: int, image_format: str) -> int:
        """Return the size a new image will have."""
        rounded = -(-wanted // self.round_bytes) * self.round_bytes
        if wanted <= 0 or rounded > LIMITS[image_format]:
            raise backend(79, f"{wanted} is not in 1..{LIMITS[image_format]}")
        return rounded

    def format_of_new(self, wanted: int, sm_config: dict[str, str]) -> str:
        """Return what a new image will be: QCOW2 also where a VHD would end too soon."""
        asked = sm_config.get("image-format") or sm_config.get("type") or self.formats[0]
        if asked not in self.formats:
            raise backend(78, f"image-format {asked} is not among {self.formats}")
        if "image-format" not in sm_config and wanted > LIMITS[asked] and "qcow2" in self.formats:
            return "qcow2"
        return asked

    def create(self, wanted: int, sm_config: dict[str, str]) -> Node:
        """Make an empty image."""
        image_format = self.format_of_new(wanted, sm_config)
        size = self.size(wanted, image_format)
        self.need(self.cost_of_new(size))
        return self.new(size, image_format=image_format)

    def cost_of_new(self, size: int) -> int:
        """Return the bytes a new image takes."""
        del size
        return 0

    def new(self, size: int, *, parent: Node | None = None, image_format: str) -> Node:
        """Make an image on disk."""
        uuid = str(uuids.uuid4())
        blocks = self.blocks(self.path(uuid, image_format), size, parent, image_format)
        node = self.nodes[uuid] = Node(uuid, size, blocks, parent, format=image_format)
        return node

    def blocks(self, path: Path, size: int, parent: Node | None, image_format: str) -> Blocks:
        """Make the file of an image."""
        del size, parent, image_format
        return Blocks(path)

    def path(self, uuid: str, image_format: str) -> Path:
        """Return where an image is kept."""
        return self.folder / f"{uuid}.{image_format}"

    def delete(self, uuid: str) -> None:
        """Remove an image."""
        self.nodes.pop(uuid).blocks.remove()

    def snapshot(self, uuid: str) -> Node:
        """Fix an image's content of now in a new one."""
        raise Failure("SR_OPERATION_NOT_SUPPORTED", uuid)

    def clone(self, uuid: str) -> Node:
        """Make a new image with the content of another."""
        return self.snapshot(uuid)

    def revert(self, uuid: str, snapshot: str) -> None:
        """Give an image a snapshot's content."""
        node, old = self.node(uuid), self.node(snapshot)
        for number in sorted(old.data() | node.data()):
            self.write(uuid, number * BLOCK, old.block(number) or bytes(BLOCK))

    def resize(self, uuid: str, wanted: int) -> int:
        """Grow an image."""
        node = self.node(uuid)
        size = self.size(wanted, node.format)
        if size < node.virtual_bytes:
            raise backend(79, "shrinking is not allowed")
        self.need(self.cost_of_new(size) - self.cost_of_new(node.virtual_bytes))
        node.virtual_bytes = size
        return size

    def read(self, uuid: str, offset: int, length: int) -> bytes:
        """Return bytes as a consumer reads them."""
        held = bytearray(length)
        for node in reversed(list(self.node(uuid).chain())):
            for number in node.blocks.written:
                at = number * BLOCK - offset
                if -BLOCK < at < length:
                    data = node.blocks.read(number)[max(0, -at) : length - at]
                    held[max(0, at) : max(0, at) + len(data)] = data
        return bytes(held)

    def write(self, uuid: str, offset: int, data: bytes) -> None:
        """Write bytes as a consumer does."""
        node = self.node(uuid)
        if offset + len(data) > node.virtual_bytes:
            raise Failure("VDI_IO_ERROR", "beyond the end of the device")
        while data:
            number, start = divmod(offset, BLOCK)
            part = data[: BLOCK - start]
            if len(part) < BLOCK:
                old = node.block(number) or bytes(BLOCK)
                part = old[:start] + part + old[start + len(part) :]
            if number not in node.blocks.written:
                self.need(BLOCK if self.grows else 0)
            node.blocks.write(number, part)
            used = BLOCK - start
            data, offset = data[used:], offset + used

    grows = True
    """Whether a write may need space that was not set aside."""

    def collect(self, *, leaves: bool = True) -> bool:
        """Do what was left for later; say whether there was the space for it."""
        del leaves
        return True

    def depth(self, uuid: str) -> int:
        """Return how many images a chain has."""
        return len(list(self.node(uuid).chain()))


class TreeEngine(Engine):
    """Leaves over hidden bases: a snapshot makes two new nodes, and the collector takes them away again."""

    lazy = True

    def delete(self, uuid: str) -> None:
        """Hide the image if others stand on it, else remove it."""
        if any(node.parent is self.nodes[uuid] for node in self.nodes.values()):
            self.nodes[uuid].hidden = True
            return
        super().delete(uuid)

    def snapshot(self, uuid: str) -> Node:
        """Turn the image into a hidden base with two children: itself, and the new one."""
        node = self.node(uuid)
        if node.format == "raw":
            raise Failure("SR_OPERATION_NOT_SUPPORTED", uuid)
        if self.depth(uuid) >= MAX_CHAIN:
            raise backend(109, f"{self.depth(uuid)}")
        self.need(self.cost_of_new(node.virtual_bytes))
        if not node.blocks.written and node.parent:
            return self.new(node.virtual_bytes, parent=node.parent, image_format=node.format)
        base_uuid = str(uuids.uuid4())
        node.blocks.rename(self.path(base_uuid, node.format))
        base = Node(base_uuid, node.virtual_bytes, node.blocks, node.parent, hidden=True, format=node.format)
        self.nodes[base_uuid] = base
        path = self.path(uuid, node.format)
        node.parent, node.blocks = base, self.blocks(path, node.virtual_bytes, base, node.format)
        return self.new(node.virtual_bytes, parent=base, image_format=node.format)

    def collect(self, *, leaves: bool = True) -> bool:
        """Remove hidden images without children; merge those with one child into it, if there is room."""
        enough = True
        starved: set[Node] = set()
        while True:
            children: dict[Node, list[Node]] = {}
            for node in self.nodes.values():
                if node.parent:
                    children.setdefault(node.parent, []).append(node)
            hidden = (node for node in self.nodes.values() if node.hidden and node not in starved)
            base = next((node for node in hidden if len(children.get(node, ())) < 2), None)
            if base is None:
                return enough
            only = children.get(base)
            if only is None:
                Engine.delete(self, base.uuid)
            elif not leaves and not only[0].hidden:
                starved.add(base)
            elif self.used() + self.merge_needs(base, only[0]) > self.capacity:
                starved.add(base)
                enough = False
            else:
                self.merge(base, only[0])

    def merge_needs(self, base: Node, child: Node) -> int:
        """Return the bytes that merging takes before it gives any back."""
        return len(child.blocks.written - base.blocks.written) * BLOCK

    def merge(self, base: Node, child: Node) -> None:
        """Write the child into its base, which then takes the child's place."""
        base.blocks.absorb(child.blocks)
        base.blocks.trim(child.virtual_bytes)
        child.blocks.remove()
        base.blocks.rename(self.path(child.uuid, child.format))
        child.blocks, child.parent = base.blocks, base.parent
        del self.nodes[base.uuid]


class LvmEngine(TreeEngine):
    """Thick leaves: every writable image has its whole size set aside, and snapshots need it again."""

    grows = False

    def path(self, uuid: str, image_format: str) -> Path:
        """Return the logical volume's name."""
        return self.folder / f"{image_format.upper()}-{uuid}"

    def cost(self, node: Node) -> int:
        """Return the whole size for a leaf, the data for a base or a snapshot."""
        return node.blocks.used_bytes if node.hidden or node.deflated else node.virtual_bytes

    def snapshot(self, uuid: str) -> Node:
        """Take a snapshot, and deflate it."""
        made = super().snapshot(uuid)
        made.deflated = True
        return made

    def clone(self, uuid: str) -> Node:
        """Clone an image: a leaf of the whole size."""
        return super().snapshot(uuid)

    def cost_of_new(self, size: int) -> int:
        """Return the whole size."""
        return size

    def merge_needs(self, base: Node, child: Node) -> int:
        """Return what the base lacks of the whole size, if it becomes a leaf."""
        if child.hidden or child.deflated:
            return super().merge_needs(base, child)
        return child.virtual_bytes - base.blocks.used_bytes


class ArrayEngine(Engine):
    """An array that copies at once, shares blocks by itself, and has no chains."""

    round_bytes = MIB
    formats = ("raw",)

    def path(self, uuid: str, image_format: str) -> Path:
        """Return the array volume's name."""
        del image_format
        return self.folder / f"volume-{uuid}"

    def snapshot(self, uuid: str) -> Node:
        """Copy the image."""
        node = self.node(uuid)
        copy = self.new(node.virtual_bytes, image_format="raw")
        copy.blocks.absorb(node.blocks)
        return copy


class LunEngine(Engine):
    """LUNs that somebody else made. Creating claims the smallest free one that fits; its data stays."""

    def __init__(self, folder: Path, luns: list[int]) -> None:
        super().__init__(folder, sum(luns))
        self.grows = False
        self.claimed: set[str] = set()
        for number, size in enumerate(luns):
            node = self.new(size, image_format="raw")
            node.blocks.written = set()
            for block in range(min(4, size // BLOCK)):  # what the last user left
                node.blocks.write(block, f"LUN {number} ".encode().ljust(BLOCK, b"x"))

    def path(self, uuid: str, image_format: str) -> Path:
        """Return the LUN's device."""
        del image_format
        return self.folder / f"lun-{uuid}"

    def cost(self, node: Node) -> int:
        """Return the LUN's size if it is lent out."""
        return node.virtual_bytes if node.uuid in self.claimed else 0

    def create(self, wanted: int, sm_config: dict[str, str]) -> Node:
        """Claim the smallest free LUN that is large enough."""
        del sm_config
        if wanted <= 0:
            raise backend(79, str(wanted))
        free = [n for n in self.nodes.values() if n.uuid not in self.claimed and n.virtual_bytes >= wanted]
        if not free:
            raise backend(44, f"no free LUN of {wanted} bytes")
        node = min(free, key=lambda one: one.virtual_bytes)
        self.claimed.add(node.uuid)
        return node

    def delete(self, uuid: str) -> None:
        """Give the LUN back, with what is on it."""
        self.claimed.discard(self.node(uuid).uuid)

    def resize(self, uuid: str, wanted: int) -> int:
        """Refuse: the LUN is as large as it is."""
        raise Failure("SR_OPERATION_NOT_SUPPORTED", uuid)
