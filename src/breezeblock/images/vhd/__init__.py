"""VHD: fixed, dynamic and differencing, as Windows, Hyper-V, XenServer and QEMU take them."""

from breezeblock.images.vhd.making import create, create_child
from breezeblock.images.vhd.records import COOKIE, SECTOR, Type
from breezeblock.images.vhd.vhd import Vhd, open_layer

NAME = "vhd"


def recognises(head: bytes, tail: bytes) -> bool:
    """Tell whether a footer stands at the end, or a copy of one of an image with a BAT at the start."""
    kind = int.from_bytes(head[60:64], "big")
    return tail[-SECTOR:][:8] == COOKIE or (head[:8] == COOKIE and kind != Type.FIXED)


__all__ = ["NAME", "Vhd", "create", "create_child", "open_layer", "recognises"]
