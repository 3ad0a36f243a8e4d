"""A raw image as a layer: its bytes are the disk's, and its holes are zeros."""

from collections.abc import Iterator

from breezeblock.errors import InvalidInputError
from breezeblock.images.file import File
from breezeblock.images.layer import Extent, Kind, Layer, Options

NAME = "raw"
MAX_VIRTUAL_BYTES = (1 << 63) - 1


class Raw(Layer):
    """One open raw image. Whatever its first bytes look like, it is raw."""

    format = "raw"

    @property
    def virtual_bytes(self) -> int:
        """How many bytes the file has."""
        return self.file.size()

    @property
    def sector_bytes(self) -> int:
        """Every byte can be written by itself."""
        return 1

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """Divide a range into data and holes; all data where the file system cannot tell."""
        for start, size, is_data in self.file.spans(offset, length):
            yield Extent(start, size, Kind.DATA if is_data else Kind.ZERO, start if is_data else 0)

    def place(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield the same place: raw has no other."""
        yield offset, length

    def zero(self, offset: int, length: int) -> None:
        """Punch a hole, or write zeros."""
        self.file.zero(offset, length)

    def commit(self) -> None:
        """Flush."""
        self.file.flush()

    def grow(self, virtual_bytes: int) -> None:
        """Lengthen the file."""
        _within(virtual_bytes)
        if virtual_bytes < self.virtual_bytes:
            raise InvalidInputError(
                f"{self.file.name} has {self.virtual_bytes} bytes; shrinking it is not possible."
            )
        self.file.truncate(virtual_bytes)
        self.file.flush()

    def adopt(self, child: Layer) -> None:
        """Do nothing: raw has no identity. A child's own children record its format, so it must be raw."""
        if child.format != NAME:
            super().adopt(child)


def recognises(_head: bytes, _tail: bytes) -> bool:
    """Claim nothing: raw is what is left, and only who made the file knows."""
    return False


def open_layer(file: File) -> Raw:
    """Take any file as raw."""
    return Raw(file)


def create(file: File, virtual_bytes: int, options: Options) -> None:
    """Make the file that long; `fixed` makes no difference."""
    _within(virtual_bytes)
    if options.block_bytes is not None:
        raise InvalidInputError("A raw image has no blocks.")
    file.truncate(virtual_bytes)


def create_child(_file: File, parent: Layer, _name: str, _options: Options) -> None:
    """Refuse: raw has nowhere to record a parent."""
    raise InvalidInputError(f"A raw image has no parent ({parent.file.name}); use qcow2, vhd or vhdx.")


def _within(virtual_bytes: int) -> None:
    if not 0 <= virtual_bytes <= MAX_VIRTUAL_BYTES:
        raise InvalidInputError(f"A raw image holds up to {MAX_VIRTUAL_BYTES} bytes, not {virtual_bytes}.")
