"""Programs that are not ours, to judge images by."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any


def qemu(path: Path, image_format: str) -> bytes:
    """What qemu-img reads. Never for a differencing VHD: it would be read wrong, without a word."""
    target = path.with_suffix(".by-qemu")
    argv = ["qemu-img", "convert", "-f", image_format, "-O", "raw", str(path), str(target)]
    run = subprocess.run(argv, capture_output=True, check=False)
    if run.returncode:
        raise AssertionError(f"qemu-img refuses {path.name}: {run.stderr.decode(errors='replace')[-400:]}")
    data = target.read_bytes()
    target.unlink()
    return data


def libvhdi(*paths: Path) -> bytes:
    """What libvhdi reads of a chain, the topmost first."""
    import pyvhdi

    files: list[Any] = []
    for path in paths:
        file = pyvhdi.file()
        file.open(str(path))
        files.append(file)
    for child, parent in pairwise(files):
        child.set_parent(parent)
    data = bytes(files[0].read_buffer_at_offset(files[0].get_media_size(), 0))
    for file in files:
        file.close()
    return data


# FATtools follows Windows paths; its chains lie in one directory, so the last component is enough.
_FATTOOLS = r"""
import os, sys
from FATtools import utils, vhdutils
exists, plain = os.path.exists, utils.myfile
class Local(plain):
    def __init__(self, name, *rest):
        super().__init__(name.replace("\\", "/").removeprefix("./"), *rest)
vhdutils.myfile = Local
os.path.exists = lambda path: exists(path.replace("\\", "/"))
verb, name, *rest = sys.argv[1:]
out, sys.stdout = sys.stdout.buffer, sys.stderr  # it prints what it thinks of gaps between blocks
if verb == "dynamic":
    vhdutils.mk_dynamic(name, int(rest[0]))
elif verb == "child":
    vhdutils.mk_diff(name, rest[0])
elif verb == "write":
    image = vhdutils.Image(name, "r+b")
    image.seek(int(rest[0]))
    image.write(bytearray(sys.stdin.buffer.read()))
    image.close()
else:
    image = vhdutils.Image(name, "rb")
    left = image.size
    while left:
        data = image.read(min(left, 1 << 20))
        out.write(bytes(data))
        left -= len(data)
    out.flush()
"""


def fattools(verb: str, path: Path, *arguments: object, data: bytes = b"") -> bytes:
    """Run FATtools, the one other writer of differencing VHD that can be installed: read, write, make."""
    argv = [sys.executable, "-c", _FATTOOLS, verb, path.name, *(str(one) for one in arguments)]
    run = subprocess.run(argv, cwd=path.parent, input=data, capture_output=True, check=False)
    if run.returncode:
        raise AssertionError(f"FATtools {verb} {path.name}: {run.stderr.decode(errors='replace')[-400:]}")
    return run.stdout
