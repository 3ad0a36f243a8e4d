"""Which formats there are. The only list of them."""

from breezeblock.errors import InvalidInputError
from breezeblock.images import qcow2_image, raw_image, vhd, vhdx
from breezeblock.images.file import File
from breezeblock.images.layer import Format, Layer

_ALL: tuple[Format, ...] = (raw_image, qcow2_image, vhd, vhdx)
FORMATS: dict[str, Format] = {one.NAME: one for one in _ALL}
_LOOK_BYTES = 512


def named(name: str) -> Format:
    """Return the format of that name. Raises InvalidInputError."""
    try:
        return FORMATS[name]
    except KeyError:
        raise InvalidInputError(f"Image format {name[:40]!a} is none of {', '.join(FORMATS)}.") from None


def open_layer(file: File, name: str) -> Layer:
    """Open an image whose format is known. Raises CorruptError."""
    return named(name).open_layer(file)


def guess(file: File) -> str:
    """Return the format that the file claims to be, `raw` if none: two bounded reads, no name followed.

    For a person at a terminal. What a guest could write to must never be judged by it.
    """
    head = file.peek(0, _LOOK_BYTES)
    tail = file.peek(max(0, file.size() - _LOOK_BYTES), _LOOK_BYTES)
    return next((one.NAME for one in _ALL if one.recognises(head, tail)), raw_image.NAME)
