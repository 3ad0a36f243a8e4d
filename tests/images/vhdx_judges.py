"""Programs that are not ours and read VHDX, and the few things that tests do to files all the time."""

import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pyvhdi

from breezeblock.images import vhdx
from breezeblock.images.file import File, opened
from breezeblock.images.layer import Kind, Layer, Options
from breezeblock.images.vhdx import Vhdx
from sevenzip import seven_zip

MIB = 1 << 20

# FATtools takes a locator's backslashes for letters of a file name and misses optional paths.
_FATTOOLS = """
import sys
from FATtools import vhdxutils
def parse(self, real=vhdxutils.ParentLocator.parse):
    real(self)
    self.entries = {key: value.replace("\\\\", "/") for key, value in self.entries.items()}
    for key in ("relative_path", "volume_path", "absolute_win32_path"):
        self.entries.setdefault(key, "")
vhdxutils.ParentLocator.parse = parse
"""


def _run(*command: str, cwd: Path) -> bytes:
    done = subprocess.run(command, cwd=cwd, capture_output=True, check=False)
    assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr.decode(errors="replace"))
    return done.stdout


def qemu(path: Path) -> bytes:
    """What qemu-img reads; it refuses differencing images. It must find nothing wrong, too."""
    _run("qemu-img", "check", "-f", "vhdx", path.name, cwd=path.parent)
    raw = path.with_suffix(".qemu.raw")
    _run("qemu-img", "convert", "-f", "vhdx", "-O", "raw", path.name, raw.name, cwd=path.parent)
    try:
        return raw.read_bytes()
    finally:
        raw.unlink()


def libvhdi(*chain: Path) -> bytes:
    """What libvhdi reads; the topmost file first."""
    files = []
    for path in chain:
        file = pyvhdi.file()
        file.open(str(path))
        files.append(file)
    for child, parent in pairwise(files):
        assert child.get_parent_identifier() == parent.get_identifier()
        child.set_parent(parent)
    data: bytes = files[0].read_buffer_at_offset(files[0].get_media_size(), 0)
    for file in files:
        file.close()
    return data


def fattools(path: Path) -> bytes:
    """What FATtools reads; more than a little at a time it reads short at the end."""
    code = f"""{_FATTOOLS}
image = vhdxutils.Image({path.name!r}, 'r+b')
for offset in range(0, image.size, 65536):
    image.seek(offset)
    sys.stdout.buffer.write(image.read(min(65536, image.size - offset)))
"""
    return _run(sys.executable, "-c", code, cwd=path.parent)


def fattools_make(directory: Path, script: str) -> None:
    """Let FATtools make files in a directory."""
    _run(sys.executable, "-c", _FATTOOLS + script, cwd=directory)


def make(path: Path, virtual_bytes: int, options: Options | None = None) -> Path:
    path.touch(exist_ok=False)
    with opened(path, write=True) as file:
        vhdx.create(file, virtual_bytes, options or Options())
        file.flush()
    return path


def make_child(path: Path, parent: Path, options: Options | None = None) -> Path:
    path.touch(exist_ok=False)
    with opened(path, write=True) as file, opened(parent) as parent_file:
        vhdx.create_child(file, vhdx.open_layer(parent_file), parent.name, options or Options())
        file.flush()
    return path


def put(layer: Layer, offset: int, data: bytes) -> None:
    """Place and write; the caller commits."""
    done = 0
    for at, length in layer.place(offset, len(data)):
        layer.file.write(at, data[done : done + length])
        done += length
    assert done == len(data)


def change(path: Path, *changes: tuple[int, bytes | int]) -> None:
    """Write bytes, or that many zeros, then commit once."""
    with opened(path, write=True) as file:
        layer = vhdx.open_layer(file)
        for offset, what in changes:
            if isinstance(what, int):
                layer.zero(offset, what)
            else:
                put(layer, offset, what)
        layer.commit()
        assert [problem for problem in layer.check() if not problem.repairable] == []


def read_layers(layers: list[Vhdx], offset: int, length: int) -> bytes:
    """What a chain reads as, the topmost layer first."""
    parts = []
    for extent in layers[0].extents(offset, length):
        if extent.kind is Kind.DATA:
            parts.append(layers[0].file.read(extent.at, extent.length))
        elif extent.kind is Kind.ZERO or len(layers) == 1:
            parts.append(bytes(extent.length))
        else:
            inside = max(0, min(extent.end, layers[1].virtual_bytes) - extent.offset)
            below = read_layers(layers[1:], extent.offset, inside) if inside else b""
            parts.append(below.ljust(extent.length, b"\0"))
    return b"".join(parts)


def ours(*chain: Path, file_type: Callable[[int, str], File] = File) -> bytes:
    """What we read; the topmost file first. The parents must fit."""
    with ExitStack() as stack:
        layers = []
        for path in chain:
            fd = stack.enter_context(opened(path)).fd
            layers.append(vhdx.open_layer(file_type(fd, path.name)))
        for child, parent in pairwise(layers):
            child.verify_parent(parent)
        assert layers[-1].parent is None
        return read_layers(layers, 0, layers[0].virtual_bytes)


def merge(child: Layer, parent: Layer) -> None:
    """Put what the child holds into its parent."""
    parent.receive(child)
    if parent.virtual_bytes < child.virtual_bytes:
        parent.grow(child.virtual_bytes)
    for extent in child.extents(0, child.virtual_bytes):
        if extent.kind is Kind.DATA:
            put(parent, extent.offset, child.file.read(extent.at, extent.length))
        elif extent.kind is Kind.ZERO:
            parent.zero(extent.offset, extent.length)
    parent.commit()


def agree(expected: bytes, *chain: Path, by: Iterable[str] = ("seven_zip", "libvhdi")) -> None:
    """Every judge reads the same, and so do we."""
    readings = {"ours": ours(*chain)}
    judges: dict[str, Callable[[], bytes]] = {
        "qemu": lambda: qemu(chain[0]),
        "seven_zip": lambda: seven_zip(chain[0]),
        "libvhdi": lambda: libvhdi(*chain),
        "fattools": lambda: fattools(chain[0]),
    }
    for name in [*by, *(["qemu"] if len(chain) == 1 else [])]:
        readings[name] = judges[name]()
    wrong = {name: first_difference(expected, got) for name, got in readings.items() if got != expected}
    assert not wrong, f"who differs, and where first: {wrong}"


def first_difference(expected: bytes, got: bytes) -> str:
    if len(expected) != len(got):
        return f"{len(got)} bytes instead of {len(expected)}"
    at = next(at for at in range(0, len(got), 512) if expected[at : at + 512] != got[at : at + 512])
    return f"at {at}: {got[at : at + 8].hex()} instead of {expected[at : at + 8].hex()}"


def pattern(seed: int, length: int) -> bytes:
    """Bytes that are all different from sector to sector and never zero."""
    return b"".join((f"<{seed}:{number}>".encode() * 128)[:512] for number in range(-(-length // 512)))[
        :length
    ]


def splice(data: bytearray, offset: int, what: bytes | int) -> None:
    content = bytes(what) if isinstance(what, int) else what
    data[offset : offset + len(content)] = content


def blocks_on_disk(path: Path) -> int:
    return path.stat().st_blocks * 512
