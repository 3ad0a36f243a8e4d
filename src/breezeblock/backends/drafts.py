"""Images that are read or written beside where they are wanted, for back ends whose volumes are no files.

Drafts lie beside an image as `<name>.flat`; who made the image removes them with it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from breezeblock.backends.contract import Volume
from breezeblock.errors import InvalidInputError
from breezeblock.images import inspection


def check(path: Path, image_format: str, volume: Volume) -> int:
    """Return the virtual bytes of an image that may be read and fits, or raise why it may not."""
    with opened(path, os.O_RDONLY) as fd:
        found = inspection.virtual_bytes(fd, image_format)
    if found > volume.virtual_bytes:
        raise InvalidInputError(
            f"The image has {found} bytes for its consumer, the volume only {volume.virtual_bytes}.",
            remedy="Make the volume larger.",
        )
    return found


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Lend a name for a draft; what is there goes, before and after."""
    draft = path.with_name(f"{path.name}.flat")
    draft.unlink(missing_ok=True)
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """Open a file, which is no link."""
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)
