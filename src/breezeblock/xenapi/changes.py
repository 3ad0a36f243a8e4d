"""What changed between two snapshots of one disk, for copies of only that (changed block tracking)."""

import base64
import binascii
from collections.abc import Iterator

from breezeblock.errors import CorruptError
from breezeblock.xenapi.session import Session

BLOCK_BYTES = 64 << 10


def changed(session: Session, older: str, newer: str, virtual_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of what differs, in order. Raises XenApiError where tracking was not on."""
    yield from parse(session.call("VDI.list_changed_blocks", older, newer), virtual_bytes)


def parse(text: str, virtual_bytes: int) -> Iterator[tuple[int, int]]:
    """Read a bitmap: a bit for each 64 KiB, the most significant bit first. Raises CorruptError."""
    try:
        bits = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise CorruptError("The list of changed blocks is no base64.") from error
    blocks = -(-virtual_bytes // BLOCK_BYTES)
    if len(bits) * 8 < blocks:  # what is not in the list would silently not be copied
        raise CorruptError(f"The list of changed blocks covers {len(bits) * 8} of {blocks} blocks.")
    start = None
    for block in range(blocks + 1):
        on = block < blocks and bool(bits[block // 8] & (0x80 >> block % 8))
        if on and start is None:
            start = block * BLOCK_BYTES
        elif not on and start is not None:
            yield start, min(block * BLOCK_BYTES, virtual_bytes) - start
            start = None
