"""Which formats a volume may begin with, and what differs between them: all that chains know of formats.

A family is a module that offers what `Family` asks for. Images of one family rest only on each other.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from breezeblock.attempt import Attempt
from breezeblock.chains import differencing, plain
from breezeblock.chains.layers import Layer
from breezeblock.errors import InvalidInputError
from breezeblock.shares import files


class Family(Protocol):
    """What the verbs need of a format. Paths are absolute; a `Layer` lies in `directory`.

    Functions that write into a file of a chain can be run again from any point, and return when it is
    durable. Functions with a `fd` write a new file, empty and open, which the caller then publishes.
    """

    ABOVE: dict[str, str]
    """The formats, and which one an image has that rests on one of that format."""
    MAX_VIRTUAL_BYTES: dict[str, int]
    MAX_LAYERS: int
    EVEN: bool
    """Whether all images of a volume are to be of one length, because programs disagree about others."""

    def describe(self, fd: int, name: str, image_format: str) -> Layer:
        """Read an image's headers. Raises CorruptError."""
        ...

    def create(
        self, fd: int, path: Path, image_format: str, virtual_bytes: int, attempt: Attempt, *, thick: bool
    ) -> None:
        """Write an image of zeros; `thick` reserves its space."""
        ...

    def put_above(self, fd: int, directory: Path, below: Layer, virtual_bytes: int) -> None:
        """Write an image without data that rests on `below`, and is as long or longer."""
        ...

    def settle(self, directory: Path, image: Layer) -> None:
        """Make an image ready to be rested on. Raises UnavailableError if it is in use and must not be."""
        ...

    def complete(self, directory: Path, image: Layer) -> None:
        """Finish within an image what a stop cut off but readers like ours see done."""
        ...

    def is_empty(self, path: Path, image_format: str) -> bool:
        """Tell whether an image that rests on another one holds nothing itself."""
        ...

    def require_mergeable(self, directory: Path, top: Layer, base: Layer) -> None:
        """Raise what would stop a merge in the middle, changing nothing."""
        ...

    def merge(
        self, directory: Path, top: Layer, base: Layer, below_bytes: int, attempt: Attempt, *, resumed: bool
    ) -> None:
        """Write what `top` holds into `base`, on which it rests; then they read the same.

        `below_bytes` is how long the image under `base` is. `resumed`: an earlier run was cut off.
        """
        ...

    def relink(self, directory: Path, child: Layer, backing: Layer, attempt: Attempt) -> None:
        """Let `child` rest on another image, which reads as the one before."""
        ...

    def grow(
        self, directory: Path, image: Layer, virtual_bytes: int, below_bytes: int, attempt: Attempt
    ) -> None:
        """Let an image be at least so long; the new bytes are zeros. `below_bytes` as in `merge`."""
        ...

    def rebuild(
        self,
        fd: int,
        path: Path,
        layers: tuple[Layer, ...],
        data: tuple[Layer, ...],
        virtual_bytes: int,
        attempt: Attempt,
    ) -> None:
        """Write an image that rests on `layers[0]` and reads as `data`, which are the last of `layers`."""
        ...

    def flatten(self, fd: int, path: Path, image: Layer, attempt: Attempt) -> None:
        """Write an image that can stand in the place of `image` and rests on nothing."""
        ...

    def examine(self, directory: Path, layers: tuple[Layer, ...]) -> Iterator[tuple[str, str, str, bool]]:
        """Yield what is wrong in these images' tables: name, text, remedy, whether it is an error."""
        ...

    def mendable(self, directory: Path, image: Layer) -> str:
        """Say what `mend` would do to an image; empty if nothing, or if more is wrong than can be mended."""
        ...

    def mend(self, directory: Path, image: Layer, attempt: Attempt) -> None:
        """Mend what is wrong within an image without losing anything. Raises UnavailableError if in use."""
        ...


_ALL: tuple[Family, ...] = (plain, differencing)
_FAMILIES: dict[str, Family] = {name: family for family in _ALL for name in family.ABOVE}
FORMATS = tuple(_FAMILIES)


def family(image_format: str) -> Family:
    """Return what knows this format. Raises InvalidInputError."""
    try:
        return _FAMILIES[image_format]
    except KeyError:
        raise InvalidInputError(
            f"Image format {image_format[:40]!a} is none of {', '.join(FORMATS)}."
        ) from None


def above(image_format: str) -> str:
    """Return the format of an image that rests on one of this format."""
    return family(image_format).ABOVE[image_format]


def even(image_format: str) -> bool:
    """Tell whether images grow together with the one that rests on them."""
    return family(image_format).EVEN


def layer(directory: Path, name: str, image_format: str) -> Layer:
    """Look at one image. Raises CorruptError, FileNotFoundError."""
    with files.opened(directory / name) as fd:
        return family(image_format).describe(fd, name, image_format)
