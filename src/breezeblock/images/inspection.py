"""Whether an image from outside may be read at all: its format is what was said, and it is self-contained.

Nothing is probed and believed: the caller says the format, and a file whose first bytes say another is
refused (CVE-2024-40767). What names other files, or could not be read without a key, never reaches a tool
(CVE-2015-5163, CVE-2022-47951, CVE-2024-32498).
"""

import os

from breezeblock.errors import CorruptError, InvalidInputError, UnsupportedError
from breezeblock.images import clusters, formats, qcow2
from breezeblock.images.file import File

FORMATS = ("raw", "qcow2", "vhd", "vhdx")
_OURS = ("vhd", "vhdx")
"""Read and written by our own code alone."""
_SIGNS = {
    b"QFI\xfb": "qcow2",
    b"QED\0": "qed",
    b"KDMV": "vmdk",
    b"COWD": "vmdk",
    b"# Disk DescriptorFile": "vmdk",
    b"vhdxfile": "vhdx",
    b"conectix": "vhd",
    b"WithoutFreeSpace": "parallels",
    b"WithouFreSpacExt": "parallels",
    b"LUKS\xba\xbe": "luks",
}
_VDI_OFFSET, _VDI = 64, b"\x7f\x10\xda\xbe"


def virtual_bytes(fd: int, image_format: str) -> int:
    """Return what the image has for its consumer, or raise why it may not be read."""
    if image_format not in FORMATS:
        raise UnsupportedError(
            f"Images of format {image_format[:40]!a} cannot be read or written.",
            remedy=f"Convert it to one of {', '.join(FORMATS)}.",
        )
    found = _seems(fd)
    if found not in {None, image_format}:
        raise InvalidInputError(
            f"The image was said to be {image_format}, but begins like {found}.",
            remedy="Say what it is. A raw image with such a beginning cannot be imported.",
        )
    if image_format == "raw":
        length = os.fstat(fd).st_size
        if not length:
            raise InvalidInputError("The image is empty.")
        return -(-length // 512) * 512
    if image_format in _OURS:
        layer = formats.open_layer(File(fd, "the image"), image_format)
        if layer.parent is not None:
            raise InvalidInputError(
                "The image rests on another file.", remedy="Flatten it before the import."
            )
        return layer.virtual_bytes
    header = qcow2.parse(fd, name="the image")
    if header.backing is not None:
        raise InvalidInputError(
            f"The image rests on another file, {header.backing!a}.", remedy="Flatten it before the import."
        )
    clusters.validate(fd, header)
    if not header.virtual_bytes or header.virtual_bytes % 512:
        raise CorruptError(f"The image has {header.virtual_bytes} virtual bytes.")
    return header.virtual_bytes


def _seems(fd: int) -> str | None:
    return seems(os.pread(fd, 128, 0), os.pread(fd, 8, max(0, os.fstat(fd).st_size - 512)))


def seems(head: bytes, foot: bytes) -> str | None:
    """Return the format that an image with this beginning, and this last sector, is likely of; None: raw."""
    if head[_VDI_OFFSET : _VDI_OFFSET + 4] == _VDI:
        return "vdi"
    if foot.startswith(b"conectix"):
        return "vhd"
    return next((kind for sign, kind in _SIGNS.items() if head.startswith(sign)), None)
