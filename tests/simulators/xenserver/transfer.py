"""Import and export of disks over HTTP, beside the calls."""

import os
import struct
import subprocess
import tempfile
import time
import uuid as uuids
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from xenserver.blocks import BLOCK
from xenserver.calls import Caller
from xenserver.engines import LIMITS, Engine, Node
from xenserver.failures import Failure

CHUNK = 1 << 20
PART = 64 << 10
VHD_BLOCK = 2 << 20
MOST = 256
"""Blocks that are read or written at once."""


def find(caller: Caller, name: str) -> dict[str, Any]:
    """Return a disk's row by reference or uuid."""
    ref = name if name.startswith("OpaqueRef:") else caller.db.find("VDI", name)
    row: dict[str, Any] = caller.db.row("VDI", ref)
    return row


def export_raw(engine: Engine, uuid: str) -> Iterator[bytes]:
    """Yield all bytes of a disk."""
    size = engine.node(uuid).virtual_bytes
    for offset in range(0, size, CHUNK):
        yield engine.read(uuid, offset, min(CHUNK, size - offset))


def import_raw(caller: Caller, engine: Engine, uuid: str, stream: BinaryIO, length: int) -> None:
    """Write a whole stream onto a disk."""
    offset = 0
    while offset < length:
        data = stream.read(min(CHUNK, length - offset))
        if not data:
            raise Failure("VDI_IO_ERROR", "the connection ended early")
        with caller.pool.storage_lock:
            held = engine.node(uuid).data()
            for start in range(0, len(data), PART):
                part = data[start : start + PART]
                first = (offset + start) // BLOCK
                if part.count(0) < len(part) or held.intersection(range(first, first + PART // BLOCK)):
                    engine.write(uuid, offset + start, part)
        offset += len(data)
        caller.pool.provoke("importing", after=False)


def _footer(size: int, kind: int, stamp: int, identity: bytes) -> bytes:
    sectors = size // 512
    cylinders = min(65535, max(1, sectors // (16 * 255)))
    footer = struct.pack(
        ">8sIIQI4sI4sQQHBBI I16sB427x".replace(" ", ""),
        b"conectix",
        2,
        0x00010000,
        512 if kind > 2 else (1 << 64) - 1,
        stamp,
        b"xs  ",
        0x00010000,
        b"Xen\0",
        size,
        size,
        cylinders,
        16,
        255,
        kind,
        0,
        identity,
        0,
    )
    return footer[:64] + struct.pack(">I", ~sum(footer) & 0xFFFFFFFF) + footer[68:]


def export_vhd(engine: Engine, uuid: str, base: str = "") -> tuple[int, Iterator[bytes]]:
    """Return length and bytes of the disk as a dynamic VHD, of what differs from `base` as a child of it."""
    node = engine.node(uuid)
    if node.virtual_bytes > LIMITS["vhd"]:
        raise Failure("VDI_TOO_LARGE", uuid, str(LIMITS["vhd"]))
    per = VHD_BLOCK // BLOCK
    numbers = _differing(engine, node, engine.node(base)) if base else node.data()
    present = sorted({number // per for number in numbers})
    count = -(-node.virtual_bytes // VHD_BLOCK)
    table = -(-count * 4 // 512) * 512
    stamp = int(time.time()) - 946684800
    footer = _footer(node.virtual_bytes, 4 if base else 3, stamp, uuids.UUID(uuid).bytes)
    header = struct.pack(">8sQQIII4x", b"cxsparse", (1 << 64) - 1, 1536, 0x00010000, count, VHD_BLOCK)
    name = f"{base}.vhd".encode("utf-16-be").ljust(512, b"\0") if base else bytes(512)
    parent = uuids.UUID(base).bytes if base else bytes(16)
    header = (header + parent + bytes(8) + name).ljust(1024, b"\0")
    header = header[:36] + struct.pack(">I", ~sum(header) & 0xFFFFFFFF) + header[40:]
    start = (1536 + table) // 512
    sectors = {block: start + index * (1 + VHD_BLOCK // 512) for index, block in enumerate(present)}
    entries = b"".join(struct.pack(">I", sectors.get(block, 0xFFFFFFFF)) for block in range(count))

    def stream() -> Iterator[bytes]:
        yield footer + header + entries.ljust(table, b"\xff")
        for block in present:
            at = block * VHD_BLOCK
            data = engine.read(uuid, at, min(VHD_BLOCK, node.virtual_bytes - at))
            yield b"\xff" * 512 + data.ljust(VHD_BLOCK, b"\0")
        yield footer

    return 1536 + table + len(present) * (512 + VHD_BLOCK) + 512, stream()


def _differing(engine: Engine, new: Node, old: Node) -> set[int]:
    """Return the numbers of the blocks in which two disks differ."""
    per = PART // BLOCK
    found = set()
    for part in {number // per for number in new.data() | old.data()}:
        one, two = (engine.read(node.uuid, part * PART, PART) for node in (new, old))
        for start in range(0, PART, BLOCK):
            if one[start : start + BLOCK] != two[start : start + BLOCK]:
                found.add((part * PART + start) // BLOCK)
    return found


def changed_chunks(engine: Engine, new: str, old: str, chunk_bytes: int) -> set[int]:
    """Return the numbers of the chunks in which two disks differ."""
    per = chunk_bytes // BLOCK
    return {number // per for number in _differing(engine, engine.node(new), engine.node(old))}


def export_qcow2(engine: Engine, uuid: str) -> tuple[int, Iterator[bytes]]:
    """Return length and bytes of the disk as QCOW2, as qemu-img writes it."""
    with tempfile.TemporaryDirectory() as folder:
        raw, made = Path(folder, "raw"), Path(folder, "qcow2")
        node = engine.node(uuid)
        with raw.open("wb") as file:
            file.truncate(node.virtual_bytes)
            for offset, length in runs(node.data()):
                file.seek(offset)
                file.write(engine.read(uuid, offset, min(length, node.virtual_bytes - offset)))
        _convert("raw", raw, "qcow2", made)
        whole = made.read_bytes()
    return len(whole), iter([whole])


def import_qcow2(caller: Caller, engine: Engine, uuid: str, stream: BinaryIO, length: int) -> None:
    """Write a QCOW2 onto a disk, as qemu-img reads it."""
    with tempfile.TemporaryDirectory() as folder:
        given, raw = Path(folder, "qcow2"), Path(folder, "raw")
        given.write_bytes(stream.read(length))
        _convert("qcow2", given, "raw", raw)
        with raw.open("rb") as file, caller.pool.storage_lock:
            for offset, count in runs(engine.node(uuid).data() | _written(file)):
                file.seek(offset)
                engine.write(uuid, offset, file.read(count).ljust(count, b"\0"))


def _written(file: BinaryIO) -> set[int]:
    """Return the numbers of a sparse file's blocks that may hold something."""
    found: set[int] = set()
    end = 0
    with suppress(OSError):  # no data after that
        while True:
            begin = os.lseek(file.fileno(), end, os.SEEK_DATA)
            end = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
            found.update(range(begin // BLOCK, -(-end // BLOCK)))
    return found


def runs(numbers: set[int]) -> Iterator[tuple[int, int]]:
    """Yield offset and length of blocks that follow each other, `MOST` of them at once."""
    held: list[int] = []
    for number in [*sorted(numbers), -1]:
        if held and (number != held[-1] + 1 or len(held) == MOST):
            yield held[0] * BLOCK, len(held) * BLOCK
            held = []
        held.append(number)


def _convert(old: str, source: Path, new: str, target: Path) -> None:
    command = ["qemu-img", "convert", "-f", old, "-O", new, str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failure("VDI_IO_ERROR", done.stderr)


def import_vhd(caller: Caller, engine: Engine, uuid: str, stream: BinaryIO, length: int) -> None:
    """Write a dynamic VHD that stands in one stream onto a disk."""
    data = stream.read(length)
    if len(data) < length or data[:8] != b"conectix" or data[512:520] != b"cxsparse":
        raise Failure("VDI_IO_ERROR", "this is no dynamic VHD")
    table, _version, count, block_bytes = struct.unpack(">QIII", data[528:548])
    size = struct.unpack(">Q", data[48:56])[0]
    if size > engine.node(uuid).virtual_bytes:
        raise Failure("VDI_IO_ERROR", "the image is larger than the disk")
    bitmap = -(-block_bytes // 512 // 8 // 512) * 512
    for block in range(count):
        (sector,) = struct.unpack(">I", data[table + block * 4 : table + block * 4 + 4])
        if sector != 0xFFFFFFFF:
            at = sector * 512 + bitmap
            content = data[at : at + min(block_bytes, size - block * block_bytes)]
            with caller.pool.storage_lock:
                engine.write(uuid, block * block_bytes, content)
