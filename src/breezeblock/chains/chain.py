"""One volume as it lies in its directory: a linear chain of images, and which snapshot is where.

The chain of a linked clone goes on below its own first image with images of the volume that it was cloned
from. Those are crossed into only where `.info` and the header of the first image name the same image.

The format of the image at the bottom is what the volume was created with and never changes; the caller
remembers it. That of the images above follows from it. A layer's recorded backing format must agree, and
nothing is ever probed: a raw volume in which a guest wrote a qcow2 header stays raw.
"""

from dataclasses import dataclass
from pathlib import Path

from breezeblock.chains.families import above, family, layer
from breezeblock.chains.info import DOCTOR, Info, read_info
from breezeblock.chains.layers import Layer
from breezeblock.chains.naming import Naming
from breezeblock.errors import CorruptError, NotFoundError
from breezeblock.shares import files

_LOOKS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """The layers of a volume, the active one first, and the overlay of each snapshot."""

    layers: tuple[Layer, ...]
    own: tuple[Layer, ...]
    """The first of them, which are the volume's; the rest belongs to what it was cloned from."""
    info: Info | None
    """None while no snapshot was ever taken."""

    @property
    def active(self) -> Layer:
        """The image that a consumer opens."""
        return self.layers[0]

    @property
    def names(self) -> tuple[str, ...]:
        """The layers' file names, the active one first."""
        return tuple(layer.name for layer in self.layers)

    @property
    def snapshots(self) -> dict[str, str]:
        """Per snapshot id the overlay made when it was taken."""
        return dict(self.info.snapshots) if self.info else {}

    @property
    def hidden(self) -> tuple[Layer, ...]:
        """Return the volume's overlays that belong to no snapshot: kept, or made, for clones."""
        recorded = set(self.snapshots.values())
        return tuple(layer for layer in self.own[:-1] if layer.name not in recorded)

    def below(self, name: str) -> tuple[Layer, ...]:
        """Return the layers under the named one."""
        return self.layers[self.names.index(name) + 1 :]

    def data(self, snapshot_id: str) -> tuple[Layer, ...]:
        """Return the layers that hold a snapshot's content, topmost first. Raises NotFoundError."""
        overlay = self.snapshots.get(snapshot_id)
        if overlay is None:
            raise NotFoundError(f"Snapshot {snapshot_id} is not recorded with its volume.", remedy=DOCTOR)
        return self.below(overlay)


def walk(
    directory: Path, naming: Naming, volume_id: str, name: str, base_format: str, parent: str | None = None
) -> tuple[Layer, ...]:
    """Follow the chain from the named image to its bottom; `parent` is what `.info` says of it.

    Raises CorruptError for a missing layer, a foreign name, a cycle, or too many layers.
    """
    most = family(base_format).MAX_LAYERS
    layers: list[Layer] = []
    seen: set[str] = set()
    owner = volume_id
    expected: str | None = None
    current: str | None = name
    while current is not None:
        if current in seen:
            raise CorruptError(f"Volume {volume_id}: {current} is its own ancestor.", remedy=DOCTOR)
        if len(layers) == most:
            raise CorruptError(f"Volume {volume_id}: more than {most} layers.", remedy=DOCTOR)
        if layers and layers[-1].name == naming.volume(owner):
            if owner != volume_id:
                described = read_info(directory, naming, owner)
                parent = described.parent if described else None
            if current == parent:
                owner, naming = naming.owner(current) or owner, naming.like(current)
        if not naming.is_image(owner, current):
            raise CorruptError(
                f"Volume {volume_id}: {layers[-1].name if layers else '.info'} refers to {current}, "
                "which is no image of this volume.",
                remedy=DOCTOR,
            )
        seen.add(current)
        own = base_format if owner == volume_id else expected or base_format
        own = own if current == naming.volume(owner) else above(own)
        if expected is not None and expected != own:
            raise CorruptError(
                f"Volume {volume_id}: {layers[-1].name} records {current} as {expected}, but it is {own}.",
                remedy=DOCTOR,
            )
        try:
            layers.append(layer(directory, current, own))
        except FileNotFoundError as error:
            raise CorruptError(f"Volume {volume_id}: image {current} is missing.", remedy=DOCTOR) from error
        current, expected = layers[-1].backing, layers[-1].backing_format
    return tuple(layers)


def load(directory: Path, naming: Naming, volume_id: str, base_format: str, depth: int = 0) -> Chain:
    """Read the whole volume. `depth` = how many layers it had when a verb last told, 0 if not known.

    A volume without `.info` that is known to have one layer is taken for whole; where that is not known,
    the directory is listed for overlays. Raises NotFoundError if nothing of it is there, CorruptError if
    it is not consistent.
    """
    chain = _chain(directory, naming, volume_id, base_format, depth)
    for snapshot_id, overlay in chain.snapshots.items():
        if overlay not in chain.names or not chain.below(overlay):
            raise CorruptError(
                f"Volume {volume_id}: overlay {overlay} of snapshot {snapshot_id} is not in the chain "
                "or has nothing below it.",
                remedy=DOCTOR,
            )
    return chain


def _chain(directory: Path, naming: Naming, volume_id: str, base_format: str, depth: int) -> Chain:
    info = read_info(directory, naming, volume_id)
    if info is None:
        _require_alone(directory, naming, volume_id, depth)
    elif info.deleted is not None:
        raise NotFoundError(f"Volume {volume_id} was deleted; clones use what is left of it.", remedy=DOCTOR)
    top = info.active if info else naming.volume(volume_id)
    layers = walk(directory, naming, volume_id, top, base_format, info.parent if info else None)
    own = tuple(layer for layer in layers if naming.is_image(volume_id, layer.name))
    return Chain(layers=layers, own=own, info=info)


def _require_alone(directory: Path, naming: Naming, volume_id: str, depth: int) -> None:
    """See that a volume without `.info` is there, and had none."""
    there = files.exists(directory / naming.volume(volume_id))
    if depth == 0 or (depth > 1 and not there):
        present = naming.of_volume(volume_id, files.listing(directory))
        lost = any(kind == "overlay" for _name, kind in present)
    else:
        lost = depth > 1
    if lost:
        raise CorruptError(
            f"Volume {volume_id} has snapshot overlays but no {naming.info(volume_id)}.", remedy=DOCTOR
        )
    if not there:
        raise NotFoundError(f"Volume {volume_id} is not in {directory}.", remedy=DOCTOR)


def active(
    directory: Path, naming: Naming, volume_id: str, base_format: str, depth: int = 0
) -> tuple[str, str]:
    """Return (file name, format) of the image that a consumer opens. May run beside any verb."""
    with files.storage_errors(f"Volume {volume_id}"):
        for _look in range(_LOOKS - 1):
            before = read_info(directory, naming, volume_id)
            try:
                return _active(directory, naming, volume_id, base_format, depth)
            except CorruptError:
                # A verb may have re-linked the chain between two reads; it then changed one of these.
                if read_info(directory, naming, volume_id) == before and not files.exists(
                    directory / naming.intent(volume_id)
                ):
                    raise
        return _active(directory, naming, volume_id, base_format, depth)


def _active(directory: Path, naming: Naming, volume_id: str, base_format: str, depth: int) -> tuple[str, str]:
    top = _chain(directory, naming, volume_id, base_format, depth).active
    return top.name, top.format
