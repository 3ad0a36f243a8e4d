"""What a volume type may ask of volumes that are files, and what is done where it does not ask."""

from typing import Literal

import msgspec

from breezeblock import chains
from breezeblock.backends.contract import Volume
from breezeblock.errors import InvalidInputError

Format = Literal["raw", "qcow2", "vhd", "vhdx"]
EXTENSIONS = ("vhd", "vhdx")
"""Formats that programs know by the name's extension; Cinder's NFS driver gave none to the others."""
Provisioning = Literal["thin", "thick"]
Cloning = Literal["linked", "full"]

ALLOWED = {
    "format": chains.FORMATS,
    "provisioning": ("thin", "thick"),
    "clone": ("linked", "full"),
}

_ALIKE = frozenset({"vhd"})
"""Windows has an error for chains of them with several lengths, ERROR_VHD_CHILD_PARENT_SIZE_MISMATCH."""


class Defaults(msgspec.Struct, frozen=True, kw_only=True):
    """For volumes whose type does not ask."""

    format: Format = "raw"
    provisioning: Provisioning = "thin"
    clone: Cloning = "linked"


def check(volume: Volume) -> None:
    """Raise InvalidInputError for a volume that is to be made, if it asks for what there is not."""
    check_bytes(volume.virtual_bytes)
    for key, value in volume.options.items():
        if value not in ALLOWED.get(key, ()):
            choices = ", ".join(ALLOWED.get(key, ())) or f"only the options {', '.join(ALLOWED)}"
            raise InvalidInputError(
                f"Volume {volume.id}: the volume type asks for {key} = {value!r}; allowed is {choices}."
            )


def check_bytes(virtual_bytes: int) -> None:
    """Raise InvalidInputError for what no volume can have."""
    if virtual_bytes <= 0 or virtual_bytes % 512 or virtual_bytes >= 1 << 63:
        raise InvalidInputError(
            f"A volume of {virtual_bytes} bytes cannot be made; allowed are multiples of 512 below 2^63."
        )


def format_of(volume: Volume, defaults: Defaults) -> str:
    """Return the format that a new volume is to have, or an existing one began with."""
    return volume.format or volume.options.get("format", defaults.format)


def thick(volume: Volume, defaults: Defaults) -> bool:
    """Tell whether a new volume's space is to be reserved."""
    return volume.options.get("provisioning", defaults.provisioning) == "thick"


def linked(source: Volume, volume: Volume, defaults: Defaults, naming: chains.Naming) -> bool:
    """Say whether a clone shares; by default it does unless what it must be leaves no choice.

    Raises InvalidInputError where it is to share and cannot.
    """
    made = chains.above(format_of(source, defaults))
    asked, kind = volume.options.get("clone"), volume.options.get("format", made)
    problem = ""
    if source.pool != volume.pool:
        problem = f"its source is in pool {source.pool}"
    elif thick(volume, defaults):
        problem = "its space is to be reserved"
    elif kind not in {made, "raw"} or (kind == "raw" and made != "qcow2"):
        problem = f"it is to be {kind}, and what rests on its source is {made}"
    elif naming.of_format(made) != naming.of_format(format_of(source, defaults)):
        problem = f"{made} cannot rest on {format_of(source, defaults)} where names end in the format"
    elif chains.even(made) and volume.virtual_bytes < source.virtual_bytes:
        problem = "it is to be shorter than its source, with which the snapshot's image grew"
    elif asked is None and made in _ALIKE and volume.virtual_bytes != source.virtual_bytes:
        problem = f"a {made} image is as long as what it rests on"
    elif asked is None and kind == "raw":
        problem = "a raw image rests on nothing"
    if asked == "linked" and problem:
        raise InvalidInputError(f"Volume {volume.id} cannot be a linked clone: {problem}.")
    return (asked or defaults.clone) == "linked" and not problem
