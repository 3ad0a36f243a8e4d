"""A VHDX file as a layer."""

from collections.abc import Iterator, Mapping
from typing import ClassVar

from breezeblock.errors import InvalidInputError
from breezeblock.images.file import File
from breezeblock.images.layer import Extent, Layer, Parent, Problem, corrupt
from breezeblock.images.vhdx import check, extents, grow, image, link
from breezeblock.images.vhdx.edit import Edit
from breezeblock.images.vhdx.place import Placement

NAME = "vhdx"


class Vhdx(Layer):
    """One open VHDX file. It is first written to when it is first changed."""

    format: ClassVar[str] = NAME

    def __init__(self, file: File) -> None:
        super().__init__(file)
        self._image = image.load(file)
        self._edit: Edit | None = None
        self._placement: Placement | None = None

    @property
    def image(self) -> image.Image:
        """What the file says now."""
        return self._image if self._edit is None else self._edit.image

    @property
    def virtual_bytes(self) -> int:
        """How many bytes the disk has."""
        return self.image.metadata.virtual_bytes

    @property
    def sector_bytes(self) -> int:
        """The logical sector: 512 or 4096."""
        return self.image.metadata.logical_sector

    @property
    def identity(self) -> str:
        """The DataWriteGuid."""
        return self.image.header.identity

    @property
    def parent(self) -> Parent | None:
        """What the parent locator says."""
        return self.image.metadata.parent

    @property
    def details(self) -> Mapping[str, object]:
        """What else `info` tells."""
        image = self.image
        return {
            **image.metadata.told,
            "data_write_guid": image.header.identity,
            "log_to_replay": image.view.replay is not None,
        }

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """Divide a range; see `Layer.extents`."""
        return extents.extents(self.image, offset, length)

    def verify_parent(self, parent: Layer) -> None:
        """Raise CorruptError unless `parent` has the DataWriteGuid and the sectors that are needed."""
        link.verify(self.image, _vhdx(parent).image)

    # --- changing it -----------------------------------------------------------------------------

    @property
    def edit(self) -> Edit:
        """The open edit; the first one replays the log."""
        if self._edit is None:
            self._edit = Edit(self._image)
        return self._edit

    @property
    def _places(self) -> Placement:
        if self._placement is None:
            self._placement = Placement(self.edit)
        return self._placement

    def place(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield where bytes go; see `Layer.place`."""
        self._check_range(offset, length)
        return self._places.place(offset, length)

    def zero(self, offset: int, length: int) -> None:
        """Let a range read as zeros after the next commit."""
        self._check_range(offset, length)
        self._places.zero(offset, length)

    def _check_range(self, offset: int, length: int) -> None:
        end, sector = offset + length, self.sector_bytes
        if offset < 0 or length < 0 or end > self.virtual_bytes or offset % sector or end % sector:
            raise InvalidInputError(
                f"{self.file.name}: {length} bytes at {offset} are not whole sectors of {sector} bytes"
                f" inside {self.virtual_bytes}."
            )

    def commit(self) -> None:
        """Flush and publish what was placed, durably."""
        self._places.commit()

    def grow(self, virtual_bytes: int) -> None:
        """Raise the virtual bytes, durably."""
        self._restart()
        grow.grow(self.edit, virtual_bytes)

    def reparent(self, parent: Layer, name: str) -> None:
        """Record another parent that reads the same, durably."""
        self._restart()
        above = _vhdx(parent)
        if above.sector_bytes != self.sector_bytes or above.virtual_bytes > self.virtual_bytes:
            raise InvalidInputError(
                f"{self.file.name}: {name} cannot be its parent: that has {above.virtual_bytes} bytes in"
                f" sectors of {above.sector_bytes}; at most {self.virtual_bytes} bytes in sectors of"
                f" {self.sector_bytes} can be."
            )
        link.set_parent(self.edit, name, above.image.header.data_write)

    def receive(self, child: Layer) -> None:
        """Prepare for a merge: the child and this image agree on this one's next DataWriteGuid."""
        self._restart()
        link.receive(self.edit, _vhdx(child).edit)

    def adopt(self, child: Layer) -> None:
        """Take the child's DataWriteGuid, so that those made for the child accept this image."""
        self._restart()
        link.adopt(self.edit, _vhdx(child).edit)

    def _restart(self) -> None:
        """Publish what was placed; then the tables may change in other ways."""
        if self._placement:
            self._placement.commit()
            self._placement = None

    def check(self) -> Iterator[Problem]:
        """Yield what is wrong with the tables."""
        return check.check(self.image)

    def repair(self) -> list[str]:
        """Replay the log, mend the copies of headers and region table, cut off what nothing refers to."""
        self._restart()
        done = check.repair(self.image)
        self._image, self._edit = image.load(self.file), None
        return done


def _vhdx(layer: Layer) -> Vhdx:
    if isinstance(layer, Vhdx):
        return layer
    raise corrupt(layer.file, f"it must be a VHDX here, not {layer.format}", 0)
