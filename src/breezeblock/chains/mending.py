"""What is there of a volume whose `.info` and images do not agree, and which `.info` would fit."""

import json
from collections.abc import Collection
from pathlib import Path

from breezeblock.chains import users
from breezeblock.chains.chain import walk
from breezeblock.chains.families import above, layer
from breezeblock.chains.info import Info
from breezeblock.chains.layers import Layer
from breezeblock.chains.naming import Naming
from breezeblock.errors import BreezeblockError

MAX_TOLD = 40
"""Images named in one advice."""


def advice(
    directory: Path,
    naming: Naming,
    volume_id: str,
    base_format: str,
    names: Collection[str],
    snapshot_ids: Collection[str],
) -> str:
    """Say which images there are, what each rests on, and the `.info` that fits them, if there is one."""
    images = sorted(name for name in names if naming.is_image(volume_id, name))
    if not images:
        return "No image of it is left: restore its files from a copy, or delete the volume."
    looked = {name: _look(directory, naming, volume_id, name, base_format) for name in images}
    told = "; ".join(_tell(naming, volume_id, name, looked[name]) for name in images[:MAX_TOLD])
    more = f"; and {len(images) - MAX_TOLD} more" if len(images) > MAX_TOLD else ""
    info = fitting(directory, naming, volume_id, base_format, names, snapshot_ids)
    if info is None:
        return f"Images here: {told}{more}. {_unfitting(naming, volume_id, looked)}"
    table = {"active": info.active, **info.snapshots, **({"parent": info.parent} if info.parent else {})}
    content = json.dumps(table, sort_keys=True)
    return (
        f"Images here: {told}{more}. This fits them as {naming.info(volume_id)}, if nothing uses the volume: "
        f"{content}"
    )


def _look(directory: Path, naming: Naming, volume_id: str, name: str, base_format: str) -> Layer | None:
    try:
        return layer(directory, name, base_format if name == naming.volume(volume_id) else above(base_format))
    except (BreezeblockError, OSError):
        return None


def _tell(naming: Naming, volume_id: str, name: str, found: Layer | None) -> str:
    if found is None:
        return f"{name} (cannot be read)"
    if found.backing is None:
        return f"{name} (rests on nothing)"
    # What a header says is not repeated unless it is one of our own names.
    own = naming.is_image(volume_id, found.backing)
    return f"{name} (rests on {found.backing if own else 'something that is no image of this volume'})"


def fitting(
    directory: Path,
    naming: Naming,
    volume_id: str,
    base_format: str,
    names: Collection[str],
    snapshot_ids: Collection[str],
) -> Info | None:
    """Return the one `.info` under which all images and the catalogue's snapshots agree, if there is one."""
    images = [name for name in names if naming.is_image(volume_id, name)]
    looked = {name: _look(directory, naming, volume_id, name, base_format) for name in images}
    below = {found.backing for found in looked.values() if found is not None}
    chains = []
    parent = _parent(directory, naming, volume_id, base_format)
    for top in looked.keys() - below:
        try:
            chains.append(walk(directory, naming, volume_id, top, base_format, parent))
        except (BreezeblockError, OSError):
            continue
    whole = [chain for chain in chains if _snapshots(naming, chain).keys() == set(snapshot_ids)]
    if len(whole) != 1:
        return None
    return Info(whole[0][0].name, _snapshots(naming, whole[0]), parent)


def _unfitting(naming: Naming, volume_id: str, looked: dict[str, Layer | None]) -> str:
    below = {found.backing for found in looked.values() if found is not None}
    missing = sorted(name for name in below if name and name not in looked)
    named = [name for name in missing if naming.is_image(volume_id, name)]
    return (
        f"No .info fits them: {', '.join(named)} is missing. Restore it from a copy."
        if named
        else "No .info fits both them and the catalogue's snapshots. Restore them from a copy."
    )


def _parent(directory: Path, naming: Naming, volume_id: str, base_format: str) -> str | None:
    """Return the image that the volume was cloned from, if both ends of the link say so."""
    try:
        backing = layer(directory, naming.volume(volume_id), base_format).backing
        source = naming.owner(backing) if backing else None
        said = users.of(directory, naming.like(backing or ""), source).get(volume_id) if source else None
    except (BreezeblockError, OSError):
        return None
    return backing if said == backing else None


def _snapshots(naming: Naming, chain: tuple[Layer, ...]) -> dict[str, str]:
    """Return the snapshots that a chain's names tell of: each overlay is called after its snapshot."""
    volume_id = naming.owner(chain[0].name)
    parsed = ((naming.parse(one.name), one.name) for one in chain if naming.owner(one.name) == volume_id)
    return {found[2]: name for found, name in parsed if found and found[2]}
