"""Images with values that nobody would write, and everything that may be done to them."""

import re
import struct
from collections.abc import Iterable
from pathlib import Path

from breezeblock import images
from breezeblock.errors import CorruptError, InvalidInputError, UnsupportedError
from breezeblock.images.vhd.records import checksum
from breezeblock.images.vhdx import layout

MIB = 1 << 20
FORMATS = ["vhd", "vhdx", "qcow2"]


def samples(where: Path) -> dict[str, Path]:
    """A chain of two with data in both, per format."""
    made = {}
    for name in FORMATS:
        (where / name).mkdir()
        base, child = where / name / f"base.{name}", where / name / f"child.{name}"
        images.create(base, name, 5 * MIB)
        images.write(base, MIB, [b"b" * MIB])
        images.create_child(child, base)
        images.write(child, MIB // 2, [b"c" * MIB])
        made[name] = child
    return made


def mutant(
    name: str, good: bytes, changes: Iterable[tuple[int, int, int]], cut: float | None, *, sealed: bool
) -> bytearray:
    """Return a file with other values: (where, how many bytes, value), cut to a part of its length."""
    data = bytearray(good)
    for at, width, value in changes:
        place = at % max(1, len(data) - 8)
        number = value & ((1 << 8 * width) - 1)
        data[place : place + width] = number.to_bytes(width, "little" if name == "vhdx" else "big")
    if sealed:
        seal(name, data)
    if cut is not None:
        del data[int(cut * len(data)) :]
    return data


def seal(name: str, data: bytearray) -> None:
    """Make all checksums right again, so that what is behind them is reached."""
    if name == "vhd":
        for at, length, field in ((0, 512, 64), (512, 1024, 36), (len(data) - 512, 512, 64)):
            data[at + field : at + field + 4] = bytes(4)
            data[at + field : at + field + 4] = struct.pack(">I", checksum(bytes(data[at : at + length])))
    if name == "vhdx":
        spans = [(at, layout.HEADER_BYTES) for at in layout.HEADER_OFFSETS]
        spans += [(at, layout.REGION_TABLE_BYTES) for at in layout.REGION_TABLE_OFFSETS]
        for at, length in spans:
            data[at : at + length] = layout.seal(data[at : at + length])


def use(path: Path, image_format: str) -> None:
    """Do everything that reads, then write; anything but our own errors is a failure."""
    for act in (
        lambda: images.probe(path, image_format),
        lambda: images.chain(path, image_format),
        lambda: images.check(path, image_format),
        lambda: list(images.extents(path, image_format)),
        lambda: [None for _ in images.read(path, 0, 5 * MIB, image_format)],
        lambda: images.write(path, 3 * MIB - 100, [b"w" * 9000], image_format),
        lambda: images.repair(path, image_format),
    ):
        try:
            act()
        except InvalidInputError:
            pass  # the disk became shorter than what was asked for
        except UnsupportedError:
            pass  # sound, but of a kind that is not taken
        except CorruptError as error:
            if not re.search(r"at byte \d+", error.message):
                raise AssertionError(f"does not say where: {error}") from error
