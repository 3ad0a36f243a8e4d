"""Images that somebody else wrote into a chain: what they are, told by what no guest can have written.

The format of an image without a name of its own in a header above it is never probed: a guest may have
written a QCOW2 header onto its raw disk. It follows from the file's length, which no guest can change;
where that leaves a doubt, the caller must say it. An extension that our own names would have says it.
"""

import os
import re
from dataclasses import replace
from pathlib import Path

from breezeblock.chains import differencing, plain
from breezeblock.chains.families import FORMATS, above, family
from breezeblock.chains.info import DOCTOR
from breezeblock.chains.layers import Layer
from breezeblock.chains.naming import Naming
from breezeblock.errors import ConflictError, CorruptError
from breezeblock.images import qcow2
from breezeblock.shares import files

_GIB = 1 << 30
_CINDER_DIRECTORY = re.compile(r"/(?:[^/]+/)*[0-9a-f]{32,64}\Z")


def walk(
    directory: Path, naming: Naming, volume_id: str, top: str, said: str
) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """Follow the chain as `chain.walk` does, accepting headers that can be mended; say what must be, too."""
    layers: list[Layer] = []
    edits: list[str] = []
    current: str | None = top
    recorded: str | None = None
    overlays = above(naming.extension) if naming.extension in FORMATS else "qcow2"
    while current is not None:
        if len(layers) == family(overlays).MAX_LAYERS or any(one.name == current for one in layers):
            raise CorruptError(f"Volume {volume_id}: its chain comes back to {current}.", remedy=DOCTOR)
        if not naming.is_image(volume_id, current):
            raise CorruptError(
                f"Volume {volume_id}: {layers[-1].name} rests on {current}, which is no image of it.",
                remedy=DOCTOR,
            )
        try:
            with files.opened(directory / current) as fd:
                require_free(fd, current)
                if current == naming.volume(volume_id) and overlays not in differencing.ABOVE:
                    kind = recorded or _evidence(fd, current, said)
                else:
                    kind = overlays
                if recorded not in {None, kind}:
                    raise _disagreement(volume_id, layers[-1].name, current, recorded, kind)
                found, told = layer(fd, current, kind)
        except FileNotFoundError as error:
            raise CorruptError(f"Volume {volume_id}: image {current} is missing.", remedy=DOCTOR) from error
        if layers and recorded is None:
            edits.append(f"{layers[-1].name} is told that {current} is {kind}")
            layers[-1] = replace(layers[-1], backing_format=kind)
        if found.backing != told:
            edits.append(f"{current} is told that its backing file {found.backing} is in its own directory")
        if layers and overlays in differencing.ABOVE:
            differencing.require_parent(directory, layers[-1], found)
        layers.append(found)
        current, recorded = found.backing, found.backing_format
    return tuple(layers), tuple(edits)


def _disagreement(volume_id: str, above: str, name: str, recorded: str | None, kind: str) -> CorruptError:
    return CorruptError(
        f"Volume {volume_id}: {above} records {name} as {recorded}, but it is {kind}.", remedy=DOCTOR
    )


def layer(fd: int, name: str, image_format: str) -> tuple[Layer, str | None]:
    """Describe an image; return how it names the one below, too."""
    if image_format in differencing.ABOVE:
        return differencing.describe_foreign(fd, name, image_format)
    if image_format == "raw":
        return plain.describe(fd, name, image_format), None
    header = qcow2.parse(fd, foreign=True, name=name)
    found = Layer(
        name=name,
        format="qcow2",
        virtual_bytes=header.virtual_bytes,
        allocated_bytes=os.fstat(fd).st_blocks * 512,
        backing=_in_own_directory(name, header.backing),
        backing_format=header.backing_format,
    )
    return found, header.backing


def _in_own_directory(name: str, backing: str | None) -> str | None:
    """Return a backing file's bare name; a path must be one that Cinder gave to a share."""
    if backing is None or "/" not in backing:
        return backing
    parent, _slash, bare = backing.rpartition("/")
    if not _CINDER_DIRECTORY.match(parent):
        raise CorruptError(
            f"{name} rests on {backing[:200]!a}, which is outside its directory.",
            remedy="Only the path of the same share below Cinder's mount base (…/<hash of the share>/) is "
            "taken for the file beside it. If it is, `qemu-img rebase -u -F FORMAT -b NAME` says so.",
        )
    return bare


def _evidence(fd: int, name: str, said: str) -> str:
    """Tell raw from qcow2 by what no guest can have written; where that does not tell, by what was said.

    Cinder and we make raw volumes of whole GiB, so an image of another length is none.
    """
    if os.pread(fd, 4, 0) != qcow2.MAGIC:
        return "raw"
    if os.fstat(fd).st_size % _GIB:
        return "qcow2"
    return said or doubt(name)


def doubt(name: str) -> str:
    """Raise ConflictError: what the image is must be said."""
    raise ConflictError(
        f"{name} begins like a QCOW2 image, but may be a raw disk onto which a guest wrote that.",
        remedy="Say which it is (`--format raw` or `--format qcow2`; `format` in the API's reference).",
    )


def require_free(fd: int, name: str) -> None:
    """Raise ConflictError if a program that locks its images has this one open."""
    if files.held(fd):
        raise ConflictError(
            f"{name} is open in another program (QEMU's lock is on it).",
            remedy="Detach the volume, or stop its guest; then repeat.",
        )
