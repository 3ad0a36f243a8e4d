"""Merging: an overlay goes into the image below, the chain is re-linked, the overlay removed.

Several files change, so the intent is recorded first, and every later verb on the volume finishes it
before anything else. Each step finds out whether it was done already; what no consumer can read any more
is removed last, when the chain has been seen to stand without it.
"""

import os
from dataclasses import replace
from pathlib import Path

import msgspec

from breezeblock.attempt import Attempt
from breezeblock.chains.chain import Layer, layer, walk
from breezeblock.chains.info import DOCTOR, Intent, read_info, write_info
from breezeblock.chains.naming import Naming
from breezeblock.errors import CorruptError
from breezeblock.images import clusters, qcow2, qemu_img, raw
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
    if resumed and base.format == "qcow2":
        qemu_img.repair_leaks(directory / base.name, attempt)
    below = layers[place + 2].virtual_bytes if place + 2 < len(layers) else 0
    grow(directory, base, top.virtual_bytes, below, attempt)
    _commit(directory, top, base, attempt)
    if place == 0:
        return base.name
    relink(directory, layers[place - 1], base, attempt)
    return names[0]


def _commit(directory: Path, top: Layer, base: Layer, attempt: Attempt) -> None:
    with files.opened(directory / top.name) as fd:
        header = qcow2.parse(fd)
        if clusters.is_empty(fd, header):
            return
        if base.format == "raw" and not clusters.has_compressed(fd, header):
            with files.opened(directory / base.name, os.O_RDWR) as target:
                clusters.commit_to_raw(fd, header, target, attempt)
                os.fsync(target)
            return
    qemu_img.commit(directory / top.name, attempt)
    files.sync_file(directory / base.name)


def grow(directory: Path, image: Layer, virtual_bytes: int, below_bytes: int, attempt: Attempt) -> None:
    """Let an image be at least `virtual_bytes` long; the new bytes are zeros.

    `below_bytes` is how long its backing file is: what that holds beyond the image must not show.
    """
    if image.virtual_bytes >= virtual_bytes:
        return
    path = directory / image.name
    with files.opened(path, os.O_RDWR) as fd:
        if image.format == "raw":
            raw.grow(fd, virtual_bytes)
            os.fsync(fd)
            return
        if below_bytes <= image.virtual_bytes and qcow2.grow(fd, qcow2.parse(fd), virtual_bytes):
            return
    qemu_img.resize(path, image.format, virtual_bytes, attempt)
    files.sync_file(path)


def relink(directory: Path, child: Layer, backing: Layer, attempt: Attempt) -> None:
    """Give `child` another backing file that reads the same."""
    path = directory / child.name
    with files.opened(path, os.O_RDWR) as fd:
        if qcow2.reparent(fd, qcow2.parse(fd), backing.name, backing.format):
            return
    qemu_img.relink(path, backing.name, backing.format, attempt)
    files.sync_file(path)
    if layer(directory, child.name, "qcow2").backing != backing.name:
        raise CorruptError(f"{child.name} was not re-linked to {backing.name}.", remedy=DOCTOR)
