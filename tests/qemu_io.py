"""Images as a consumer sees them: through qemu-io, and by the header that the QCOW2 specification has."""

import os
import subprocess
import tempfile
import threading
from pathlib import Path


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

    def read(self, path: Path) -> bytes:
        """Return all that a qcow2 image reads as, with the images below it."""
        with path.open("rb") as file:
            length = int.from_bytes(file.read(32)[24:], "big")  # QCOW2 specification, byte 24: virtual bytes
        lines = self._on(path, "qcow2", f"read -v 0 {length}")
        # "00000ff0:  ed 72 ... e6  .r.A............": offset, sixteen bytes, the same as text
        rows = (line.split("  ")[1] for line in lines if line[8:9] == ":")
        content = b"".join(bytes.fromhex(row) for row in rows)
        assert len(content) == length, lines[-3:]
        return content

    def write(self, path: Path, image_format: str, offset: int, data: bytes) -> None:
        with tempfile.NamedTemporaryFile() as source:
            source.write(data)
            source.flush()
            said = self._on(path, image_format, f"write -s {source.name} {offset} {len(data)}")
        assert said[0].startswith("wrote "), said

    def _on(self, path: Path, image_format: str, command: str) -> list[str]:
        """Open the image, give the command, close it; return what was said."""
        (said,) = self.tell(path, image_format, command)
        return said.splitlines()

    def tell(self, path: Path, image_format: str, *commands: str) -> list[str]:
        """Open the image, give the commands, close it; return what was said to each."""
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

    def _ask(self, command: str) -> str:
        # One at a time: it looks for the next line only when the pipe becomes readable again.
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n".encode())
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        said = b""
        while not said.endswith(b"qemu-io> "):
            part = os.read(self._process.stdout.fileno(), 1 << 16)
            assert part, f"qemu-io ended: {said!r}"
            said += part
        return said.removesuffix(b"qemu-io> ").decode()


QEMU_IO = QemuIo()
