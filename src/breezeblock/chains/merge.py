"""Merging: an overlay goes into the image below, the chain is re-linked, the overlay removed.

Several files change, so the intent is recorded first, and every later verb on the volume finishes it
before anything else. Each step finds out whether it was done already; what no consumer can read any more
is removed last, when the chain has been seen to stand without it.
"""

from dataclasses import replace
from pathlib import Path

import msgspec

from breezeblock.attempt import Attempt
from breezeblock.chains.chain import walk
from breezeblock.chains.families import family, layer
from breezeblock.chains.info import DOCTOR, Intent, read_info, write_info
from breezeblock.chains.layers import Layer
from breezeblock.chains.naming import Naming
from breezeblock.errors import CorruptError
from breezeblock.shares import files


def finish(
    directory: Path,
    naming: Naming,
    volume_id: str,
    intent: Intent,
    attempt: Attempt,
    *,
    base_format: str,
    resumed: bool = False,
) -> None:
    """Carry out a recorded merge from wherever it stopped. It cannot be cancelled: only forward is right."""
    attempt = replace(attempt, cancelled=lambda: False)
    info = read_info(directory, naming, volume_id)
    if info is None:
        raise CorruptError(f"Volume {volume_id} is being merged but has no .info.", remedy=DOCTOR)
    layers = walk(directory, naming, volume_id, info.active, base_format, info.parent)
    there = intent.top in {one.name for one in layers}
    if there if intent.verb == "shorten" else info.snapshots.get(intent.snapshot) == intent.top:
        active = _merge(directory, layers, intent, attempt, resumed=resumed) if there else info.active
        rest = {key: name for key, name in info.snapshots.items() if key != intent.snapshot}
        merged = msgspec.structs.replace(info, active=active, snapshots=rest)
        if merged != info:
            write_info(directory, naming, volume_id, merged, attempt)
        layers = walk(directory, naming, volume_id, active, base_format, info.parent)
    if intent.top in {one.name for one in layers}:
        raise CorruptError(f"Volume {volume_id} still uses {intent.top} after its merge.", remedy=DOCTOR)
    if linked := next((one for one in layers if one.backing == intent.base), None):
        family(linked.format).complete(directory, linked)
    (directory / intent.top).unlink(missing_ok=True)
    # The overlay's absence must be durable before the record that it should be absent goes.
    files.sync_directory(directory)
    # If a crash brings the record back, finishing it again changes nothing.
    (directory / naming.intent(volume_id)).unlink(missing_ok=True)


def _merge(
    directory: Path, layers: tuple[Layer, ...], intent: Intent, attempt: Attempt, *, resumed: bool
) -> str:
    """Bring the overlay's content into the image below and take the overlay out; return the active name."""
    names = [one.name for one in layers]
    place = names.index(intent.top)
    if names[place + 1 : place + 2] != [intent.base]:
        raise CorruptError(f"{intent.top} is no longer backed by {intent.base}.", remedy=DOCTOR)
    top, base = layers[place], layers[place + 1]
    below = layers[place + 2].virtual_bytes if place + 2 < len(layers) else 0
    kind = family(base.format)
    kind.merge(directory, top, base, below, attempt, resumed=resumed)
    if place == 0:
        return base.name
    kind.relink(directory, layers[place - 1], layer(directory, base.name, base.format), attempt)
    return names[0]
