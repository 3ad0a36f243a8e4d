"""How large a disk may be: that depends on the format it is in, and on those that the SR's driver offers."""

from breezeblock.backends.contract import Volume
from breezeblock.errors import InvalidInputError
from breezeblock.xenapi import srkinds
from breezeblock.xenapi.mirror import View
from breezeblock.xenapi.records import Sr, Vdi
from breezeblock.xenapi.srkinds import SrKind
from breezeblock.xenapi.transfer import Format

_ENDS = {"vhd": srkinds.VHD_MAX_BYTES, "qcow2": srkinds.QCOW2_MAX_BYTES}


def largest(view: View, kind: SrKind, sr: Sr) -> int:
    """Return the bytes of the largest disk that can be made on an SR."""
    return max(kind.max_bytes, srkinds.QCOW2_MAX_BYTES if "qcow2" in view.formats(sr) else 0)


def check(volume: Volume, virtual_bytes: int) -> None:
    """Raise InvalidInputError for what is no size of a disk anywhere."""
    if virtual_bytes <= 0 or virtual_bytes % 512:
        raise InvalidInputError(f"Volume {volume.id}: {virtual_bytes} is no positive multiple of 512 bytes.")


def of_new(view: View, kind: SrKind, sr: Sr, volume: Volume, virtual_bytes: int) -> dict[str, str]:
    """Return the sm_config of a new disk of that size. Raises InvalidInputError if there can be none."""
    most = largest(view, kind, sr)
    if virtual_bytes > most:
        raise InvalidInputError(
            f"Volume {volume.id}: {virtual_bytes} bytes exceed the {most} of SR {sr.name_label} "
            f"of type {kind.type} ({kind.title}).",
            remedy="Use an SR whose driver offers QCOW2." if most == srkinds.VHD_MAX_BYTES else "",
        )
    return {} if virtual_bytes <= kind.max_bytes else {"image-format": "qcow2"}


def check_growth(kind: SrKind, vdi: Vdi, virtual_bytes: int) -> None:
    """Raise InvalidInputError if a disk cannot get that large: it keeps its format."""
    held = vdi.sm_config.get("image-format", "")
    most = _ENDS.get(held, kind.max_bytes)
    if virtual_bytes > max(most, vdi.virtual_size):
        raise InvalidInputError(
            f"Disk {vdi.uuid} ({vdi.name_label}) is {held or kind.title} and ends at {most} bytes, "
            f"not {virtual_bytes}.",
            remedy="Make a larger volume of it by a full copy (clone = full), where the SR offers QCOW2.",
        )


def streamed(view: View, vdi: Vdi) -> Format:
    """Return the format, best one without zeros, in which a disk of this size comes and goes."""
    if vdi.virtual_size <= srkinds.VHD_MAX_BYTES:
        return "vhd"
    return "qcow2" if "qcow2" in view.formats(view.srs[vdi.SR]) else "raw"
