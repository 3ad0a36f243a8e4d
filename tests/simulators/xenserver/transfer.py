"""Import and export of disks over HTTP, beside the calls."""

import struct
import time
import uuid as uuids
from collections.abc import Iterator
from typing import Any, BinaryIO

from xenserver.blocks import BLOCK
from xenserver.calls import Caller
from xenserver.engines import MAX_VHD, Engine
from xenserver.failures import Failure

CHUNK = 1 << 20
VHD_BLOCK = 2 << 20


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
            for start in range(0, len(data), BLOCK):
                part = data[start : start + BLOCK]
                node = engine.node(uuid)
                if any(part) or node.block((offset + start) // BLOCK) is not None:
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
        512 if kind == 3 else (1 << 64) - 1,
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


def export_vhd(engine: Engine, uuid: str) -> tuple[int, Iterator[bytes]]:
    """Return length and bytes of the disk as a dynamic VHD."""
    node = engine.node(uuid)
    if node.virtual_bytes > MAX_VHD:
        raise Failure("VDI_TOO_LARGE", uuid, str(MAX_VHD))
    per = VHD_BLOCK // BLOCK
    present = sorted({number // per for number in node.data()})
    count = -(-node.virtual_bytes // VHD_BLOCK)
    table = -(-count * 4 // 512) * 512
    footer = _footer(node.virtual_bytes, 3, int(time.time()) - 946684800, uuids.UUID(uuid).bytes)
    header = struct.pack(">8sQQIII", b"cxsparse", (1 << 64) - 1, 1536, 0x00010000, count, VHD_BLOCK) + bytes(
        4 + 984
    )
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
