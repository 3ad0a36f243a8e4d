"""How a differencing VHD names its parent: the locators' payloads.

Windows follows `W2ru`, a relative Windows path in UTF-16LE; XenServer follows `MacX`, a URL in UTF-8. No
`W2ku` (absolute) is written: Windows 11 declares a disk damaged when one is there and wrong.
"""

from functools import lru_cache
from urllib.parse import quote, unquote

from breezeblock.images.file import File
from breezeblock.images.layer import Parent, corrupt
from breezeblock.images.vhd.records import Header, Locator

MAX_PAYLOAD = 4096
SLOT_BYTES = 4096
"""What both payloads together have room in; an image of ours has two such slots, one in use."""
_SPACE = SLOT_BYTES // 2
_KEPT_BYTES = 2048
_ORDER = (b"W2ru", b"MacX", b"W2ku")


def payload(name: str, offset: int) -> tuple[bytes, tuple[Locator, ...]]:
    """Return the bytes of one slot, to be written at `offset`, and the locators that describe them."""
    windows = f".\\{name}".encode("utf-16-le")
    url = f"file://./{quote(name)}".encode()
    raw = windows.ljust(_SPACE, b"\0") + url.ljust(_SPACE, b"\0")
    return raw, (
        Locator(b"W2ru", _SPACE, len(windows), offset),
        Locator(b"MacX", _SPACE, len(url), offset + _SPACE),
    )


def recorded(file: File, header: Header, head: bytes = b"") -> Parent:
    """Return what is recorded of the parent. Raises CorruptError.

    `head`: the file's first bytes, as far as they were read already.
    """
    found, total = [], 0
    for one in header.locators:
        if one.code in _ORDER:
            end = one.offset + one.length
            if one.length > MAX_PAYLOAD or (end > len(head) and end > file.size()):
                raise corrupt(file, f"a parent locator of {one.length} bytes at {one.offset}", one.offset)
            raw = head[one.offset : end] if end <= len(head) else file.read(one.offset, one.length)
            found.append((one.code, raw))
            total += one.length
    # Large ones are not kept: a file from outside may have them, and many such files may come.
    return (_parent if total <= _KEPT_BYTES else _parent.__wrapped__)(
        header.parent_id, header.parent_name, *found
    )


@lru_cache(1024)
def _parent(identity: bytes, name: str, *payloads: tuple[bytes, bytes]) -> Parent:
    """Decode it: the paths to prefer come first. An id of zeros means a raw parent (XenServer)."""
    known = sorted(payloads, key=_rank)
    paths = dict.fromkeys([_decode(code, raw) for code, raw in known] + ([name] if name else []))
    if identity == bytes(16):
        return Parent(tuple(paths), "", "raw")
    return Parent(tuple(paths), identity.hex(), "vhd")


def _rank(one: tuple[bytes, bytes]) -> int:
    return _ORDER.index(one[0])


def _decode(code: bytes, raw: bytes) -> str:
    if code == b"MacX":
        return unquote(raw.decode("utf-8", "replace").partition("\0")[0])
    text = raw[: len(raw) // 2 * 2].decode("utf-16-le", "surrogatepass")
    return text.partition("\0")[0]
