"""Which formats there are. The only list of them."""

from breezeblock.errors import InvalidInputError
from breezeblock.images.file import File
from breezeblock.images.layer import Format, Layer

FORMATS: dict[str, Format] = {}


def named(name: str) -> Format:
    """Return the format of that name. Raises InvalidInputError."""
    try:
        return FORMATS[name]
    except KeyError:
        raise InvalidInputError(f"Image format {name[:40]!a} is none of {', '.join(FORMATS)}.") from None


def open_layer(file: File, name: str) -> Layer:
    """Open an image whose format is known. Raises CorruptError."""
    return named(name).open_layer(file)
