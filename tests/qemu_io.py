"""Images as a consumer sees them: through qemu-io, and by the header that the QCOW2 specification has."""

import hashlib
import os
import subprocess
import tempfile
import threading
from pathlib import Path

_KNOWN_BYTES = 64 << 20


def image_format(image: Path) -> str:
    """Tell raw from qcow2 where nobody writes headers onto raw disks."""
    with image.open("rb") as file:
        return "qcow2" if file.read(4) == b"QFI\xfb" else "raw"


def backing_name(path: Path) -> str:
    """Return the name of the image below: its offset and length are at bytes 8 and 16."""
    with path.open("rb") as file:
        header = file.read(4096)
    offset, length = int.from_bytes(header[8:16], "big"), int.from_bytes(header[16:20], "big")
    return header[offset : offset + length].decode()


class QemuIo:
    """One qemu-io for all tests: to start one for each reading and writing would take most of their time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._known: dict[str, bytes] = {}

    def read(self, path: Path) -> bytes:
        """Return all that a qcow2 image reads as, with the images below it."""
        # Of the same bytes it would tell the same again, and most images are read again after each verb.
        found = _digest(path)
        if found not in self._known:
            if sum(map(len, self._known.values())) > _KNOWN_BYTES:
                self._known.clear()
            self._known[found] = self._read(path)
        return self._known[found]

    def _read(self, path: Path) -> bytes:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(32)[24:], "big")  # QCOW2 specification, byte 24: virtual bytes
        (said,) = self._tell(path, "qcow2", f"read -v 0 {length}")
        # "00000ff0:  ed 72 ... e6  .r.A............\n": offset, sixteen bytes, the same as text
        rows = range(0, length // 16 * 77, 77)
        content = bytes.fromhex(b"".join(said[row + 11 : row + 58] for row in rows).decode())
        assert len(content) == length, said[-300:]
        return content

    def write(self, path: Path, image_format: str, offset: int, data: bytes) -> None:
        with tempfile.NamedTemporaryFile() as source:
            source.write(data)
            source.flush()
            (said,) = self.tell(path, image_format, f"write -s {source.name} {offset} {len(data)}")
        assert said.startswith("wrote "), said

    def tell(self, path: Path, image_format: str, *commands: str) -> list[str]:
        """Open the image, give the commands, close it; return what was said to each."""
        return [said.decode() for said in self._tell(path, image_format, *commands)]

    def _tell(self, path: Path, image_format: str, *commands: str) -> list[bytes]:
        with self._lock:
            if self._process is None:
                pipe = subprocess.PIPE
                self._process = subprocess.Popen(
                    ["qemu-io"], stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT
                )
                self._answer()
            opened = self._ask(f"open -o driver={image_format} {path}")
            assert not opened, opened
            said = [self._ask(command) for command in commands]
            self._ask("close")
            return said

    def _ask(self, command: str) -> bytes:
        # One at a time: it looks for the next line only when the pipe becomes readable again.
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n".encode())
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        said = bytearray()
        while not said.endswith(b"qemu-io> "):
            part = os.read(self._process.stdout.fileno(), 1 << 16)
            assert part, f"qemu-io ended: {said!r}"
            said += part
        return bytes(said.removesuffix(b"qemu-io> "))


def _digest(path: Path) -> str:
    """Return what is the same only for the same bytes in an image and in those that it rests on."""
    found = hashlib.blake2b()
    while True:
        found.update(hashlib.blake2b(path.read_bytes()).digest())
        if image_format(path) != "qcow2" or not (below := backing_name(path)):
            return found.hexdigest()
        path = path.parent / below


QEMU_IO = QemuIo()
