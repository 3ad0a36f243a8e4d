"""Linked clones, and getting rid of what they leave: flatten, shorten. Rules as in `backends.contract`.

A linked clone is an empty overlay on an image of its source, which is frozen from then on (`users`). Of a
snapshot that image is there already. Of the volume as it is now it is the active image: the source goes
on in a new overlay that belongs to no snapshot, unless nothing was written since the last one.
"""

from pathlib import Path

import msgspec

from breezeblock.attempt import Attempt
from breezeblock.chains import users
from breezeblock.chains.begin import begun
from breezeblock.chains.chain import Chain, load
from breezeblock.chains.families import above, family, layer
from breezeblock.chains.info import DOCTOR, Info, Intent, read_info, write_info, write_intent
from breezeblock.chains.layers import Layer
from breezeblock.chains.merge import finish
from breezeblock.chains.naming import Naming
from breezeblock.chains.snapshots import publish_overlay, put_on_top, require_room
from breezeblock.chains.volumes import check_size
from breezeblock.errors import ConflictError, CorruptError, InvalidInputError
from breezeblock.images.raw import check_cancelled
from breezeblock.shares import files


def clone(
    directory: Path,
    naming: Naming,
    source_id: str,
    snapshot_id: str | None,
    volume_id: str,
    virtual_bytes: int,
    attempt: Attempt,
    *,
    source_format: str,
    source_depth: int = 0,
) -> str:
    """Make a volume that reads as another one, or a snapshot of it, zeros beyond its end, copying nothing.

    The source must be held by the same operation. Everything that can be found later points back: the
    clone's `.info` is first, its image last.
    """
    made = above(source_format)
    check_size(virtual_bytes, made)
    own = naming.of_format(made)
    name = own.volume(volume_id)
    with begun(directory, naming, source_id, attempt, source_format):
        chain = load(directory, naming, source_id, source_format, source_depth)
        info = read_info(directory, own, volume_id)
        if files.exists(directory / name):
            _require_same(layer(directory, name, made), info, naming, source_id, virtual_bytes)
            return made
        if info is not None and (info.parent is None or naming.owner(info.parent) != source_id):
            raise CorruptError(f"{own.info(volume_id)} is there and of something else.", remedy=DOCTOR)
        held = chain.active if snapshot_id is None else chain.data(snapshot_id)[0]
        if held.virtual_bytes > virtual_bytes:
            raise InvalidInputError(
                f"{virtual_bytes} bytes are too few: the source has {held.virtual_bytes}."
            )
        check_cancelled(attempt)
        image = _image(directory, chain, snapshot_id, info)
        # Where that is the active image, it is as many layers as the source will rest on.
        require_room(volume_id, (image, *chain.below(image.name)))
        if info is None:
            write_info(directory, own, volume_id, Info(name, {}, image.name), attempt)
        if image.name == chain.active.name:
            overlay = naming.overlay(source_id, volume_id)
            put_on_top(directory, naming, source_id, chain, overlay, image.virtual_bytes, attempt)
        users.add(directory, naming, image.name, volume_id)
        publish_overlay(directory, own, name, virtual_bytes, image, attempt)
    return made


def _image(directory: Path, chain: Chain, snapshot_id: str | None, info: Info | None) -> Layer:
    """Choose the image to rest on: an earlier attempt's choice, the snapshot's, or that of now."""
    if info is not None:
        chosen = next((one for one in chain.own if one.name == info.parent), None)
        if chosen is None:
            raise CorruptError(f"{info.parent} is no longer in its volume's chain.", remedy=DOCTOR)
        return chosen
    if snapshot_id is not None:
        return chain.data(snapshot_id)[0]
    if len(chain.own) > 1:
        top = chain.active
        if family(top.format).is_empty(directory / top.name, top.format):
            return chain.own[1]
    return chain.active


def _require_same(
    found: Layer, info: Info | None, naming: Naming, source_id: str, virtual_bytes: int
) -> None:
    parent = info.parent if info else None
    ours = parent is not None and naming.owner(parent) == source_id
    if ours and (found.virtual_bytes, found.backing) == (virtual_bytes, parent):
        return
    raise CorruptError(
        f"{found.name} is there already, and is not the new clone of {virtual_bytes} bytes.",
        remedy="Move the foreign files away, then repeat.",
    )


def flatten(
    directory: Path,
    naming: Naming,
    volume_id: str,
    attempt: Attempt,
    *,
    format: str,  # noqa: A002 - what the catalogue calls it
    depth: int = 0,
) -> str:
    """Give the volume a first image of its own that reads as what it rested on; nothing else changes.

    Raises ConflictError while clones rest on the volume: a host may have its images open through them.
    """
    with begun(directory, naming, volume_id, attempt, format):
        chain = load(directory, naming, volume_id, format, depth)
        if chain.info is None or chain.info.parent is None:
            return format
        first = chain.own[-1]
        if first.backing is not None:
            if users.of(directory, naming, volume_id):
                raise ConflictError(
                    f"Volume {volume_id} cannot be flattened: clones rest on it.",
                    remedy="Flatten or delete those first.",
                )
            check_cancelled(attempt)
            temp = directory / attempt.temp_name
            with files.fresh(temp, naming.mode) as fd:
                family(first.format).flatten(fd, temp, first, attempt)
                made = layer(directory, temp.name, first.format)
                if (made.virtual_bytes, made.backing) != (first.virtual_bytes, None):
                    raise CorruptError(f"{temp.name} did not become what {first.name} reads as.")
                check_cancelled(attempt)
                files.publish(fd, temp, directory / first.name)
        users.release(directory, naming, chain.info.parent, volume_id)
        write_info(directory, naming, volume_id, msgspec.structs.replace(chain.info, parent=None), attempt)
    return format


def shorten(
    directory: Path,
    naming: Naming,
    volume_id: str,
    attempt: Attempt,
    *,
    format: str,  # noqa: A002 - what the catalogue calls it
    depth: int = 0,
) -> str:
    """Merge the layers that belong to no snapshot and that no clone rests on, one after the other."""
    with begun(directory, naming, volume_id, attempt, format):
        while True:
            chain = load(directory, naming, volume_id, format, depth)
            pair = removable(directory, naming, volume_id, chain)
            if pair is None:
                return format
            check_cancelled(attempt)
            top, base = pair
            family(base.format).require_mergeable(directory, top, base)
            intent = Intent(verb="shorten", top=top.name, base=base.name)
            write_intent(directory, naming, volume_id, intent, attempt)
            finish(directory, naming, volume_id, intent, attempt, base_format=format)


def removable(directory: Path, naming: Naming, volume_id: str, chain: Chain) -> tuple[Layer, Layer] | None:
    """Return the lowest layer that can be merged and the one below it: so nothing is moved twice."""
    hidden = {one.name for one in chain.hidden}
    if not hidden:
        return None
    frozen = users.frozen(directory, naming, volume_id, chain)
    for top, base in reversed(list(zip(chain.own, chain.own[1:], strict=False))):
        if top.name in hidden and base.name not in frozen:
            return top, base
    return None
