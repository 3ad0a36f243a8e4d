"""Images: files that hold a disk's bytes, in raw, qcow2, VHD and VHDX, with chains of children.

    from pathlib import Path
    from breezeblock import images

    images.create(Path("base.vhd"), "vhd", 10 << 30)
    images.create_child(Path("child.vhd"), Path("base.vhd"))
    images.write(Path("child.vhd"), 4096, [b"hello"])
    for layer in images.chain(Path("child.vhd")):
        print(layer.name, layer.format, layer.virtual_bytes)
    images.merge(Path("child.vhd"))

All sizes and offsets are bytes. Failures are `breezeblock.errors` (CorruptError says what is wrong in a
file, and at which offset) or the kernel's OSError. A format is what you say it is; without that it is
what the file claims to be, which must not be relied on where somebody else could write to it.

This room knows formats and bytes, nothing of volumes.
"""

from breezeblock.images.layer import Options
from breezeblock.images.verbs import (
    convert,
    create,
    create_child,
    flatten,
    grow,
    merge,
    read,
    repair,
    reparent,
    write,
)
from breezeblock.images.views import Found, Info, Mapped, chain, check, compare, extents, info, probe

__all__ = [
    "Found",
    "Info",
    "Mapped",
    "Options",
    "chain",
    "check",
    "compare",
    "convert",
    "create",
    "create_child",
    "extents",
    "flatten",
    "grow",
    "info",
    "merge",
    "probe",
    "read",
    "repair",
    "reparent",
    "write",
]
