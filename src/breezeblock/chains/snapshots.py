"""Verbs on a volume's snapshots. The rules for verbs are those of `backends.contract`.

`format` is always that of the image the volume began with, and is what every verb returns: it never
changes, so a caller that was killed before it could note anything still passes the right one.
"""

from pathlib import Path

import msgspec

from breezeblock.attempt import Attempt
from breezeblock.chains import users
from breezeblock.chains.begin import begun
from breezeblock.chains.chain import Chain, load
from breezeblock.chains.families import above, family, layer
from breezeblock.chains.info import DOCTOR, Info, Intent, write_info, write_intent
from breezeblock.chains.layers import Layer
from breezeblock.chains.merge import finish
from breezeblock.chains.naming import Naming
from breezeblock.errors import ConflictError, CorruptError
from breezeblock.images.raw import check_cancelled
from breezeblock.shares import files


def snapshot(
    directory: Path,
    naming: Naming,
    volume_id: str,
    snapshot_id: str,
    virtual_bytes: int,
    attempt: Attempt,
    *,
    format: str,  # noqa: A002 - what the catalogue calls it
    depth: int = 0,
) -> str:
    """Fix the volume's content of now: from here on an empty overlay takes what is written."""
    overlay = naming.overlay(volume_id, snapshot_id)
    with begun(directory, naming, volume_id, attempt, format):
        chain = load(directory, naming, volume_id, format, depth)
        if snapshot_id in chain.snapshots:
            return format
        require_room(volume_id, chain.layers)
        check_cancelled(attempt)
        virtual_bytes = max(virtual_bytes, chain.active.virtual_bytes)
        put_on_top(directory, naming, volume_id, chain, overlay, virtual_bytes, attempt, snapshot_id)
        return format


def require_room(volume_id: str, below: tuple[Layer, ...]) -> None:
    """Raise ConflictError if a volume can rest on no more layers than these: its chain could not be read."""
    if len(below) >= (most := family(below[0].format).MAX_LAYERS):
        raise ConflictError(
            f"Volume {volume_id} would rest on {len(below)} layers; the limit is {most} with its own.",
            remedy="Delete snapshots below it, or flatten what it rests on, first.",
        )


def put_on_top(
    directory: Path,
    naming: Naming,
    volume_id: str,
    chain: Chain,
    overlay: str,
    virtual_bytes: int,
    attempt: Attempt,
    snapshot_id: str | None = None,
) -> None:
    """Make an empty overlay the active image, as the snapshot's or as nobody's."""
    family(chain.active.format).settle(directory, chain.active)
    if overlay in chain.names or files.exists(directory / overlay):
        check_leftover(directory, chain, overlay)
    info = chain.info or Info(chain.active.name, {})
    if chain.info is None:
        # So that overlays without .info always mean that it was lost.
        write_info(directory, naming, volume_id, info, attempt)
    publish_overlay(directory, naming, overlay, virtual_bytes, chain.active, attempt)
    recorded = {**info.snapshots, snapshot_id: overlay} if snapshot_id else info.snapshots
    info = msgspec.structs.replace(info, active=overlay, snapshots=recorded)
    write_info(directory, naming, volume_id, info, attempt)


def publish_overlay(
    directory: Path,
    naming: Naming,
    name: str,
    virtual_bytes: int,
    backing: Layer,
    attempt: Attempt,
) -> None:
    """Write an overlay without data under its final name."""
    temp = directory / attempt.temp_name
    with files.fresh(temp, naming.mode) as fd:
        family(backing.format).put_above(fd, directory, backing, virtual_bytes)
        files.publish(fd, temp, directory / name)


def check_leftover(directory: Path, chain: Chain, overlay: str) -> None:
    """Accept an overlay outside the chain only if it is what a killed `snapshot` leaves: empty, linked."""
    image_format = above(chain.active.format)
    found = layer(directory, overlay, image_format)
    empty = family(image_format).is_empty(directory / overlay, image_format)
    if overlay in chain.names or overlay in chain.snapshots.values():
        raise CorruptError(f"{overlay} stands for another snapshot already.", remedy=DOCTOR)
    if not empty or found.backing not in chain.names:
        raise CorruptError(f"{overlay} holds data but is not in the chain.", remedy=DOCTOR)


def delete_snapshot(
    directory: Path,
    naming: Naming,
    volume_id: str,
    snapshot_id: str,
    attempt: Attempt,
    *,
    format: str,  # noqa: A002 - what the catalogue calls it
    depth: int = 0,
) -> str:
    """Forget a snapshot: what was written since it was taken moves into the image below."""
    overlay = naming.overlay(volume_id, snapshot_id)
    with begun(directory, naming, volume_id, attempt, format):
        if not any(files.exists(directory / name) for name in _signs(naming, volume_id)):
            return format
        chain = load(directory, naming, volume_id, format, depth)
        if snapshot_id not in chain.snapshots:
            if overlay not in chain.names and files.exists(directory / overlay):
                check_leftover(directory, chain, overlay)
                files.remove(directory / overlay)
            return format
        check_cancelled(attempt)
        base = chain.data(snapshot_id)[0]
        top = chain.layers[chain.names.index(base.name) - 1]
        if base.name in users.frozen(directory, naming, volume_id, chain):
            # Clones rest on the image below, so nothing may move into it: the overlay stays, as nobody's.
            assert chain.info is not None  # noqa: S101 - it recorded the snapshot
            rest = {key: name for key, name in chain.snapshots.items() if key != snapshot_id}
            left = msgspec.structs.replace(chain.info, snapshots=rest)
            write_info(directory, naming, volume_id, left, attempt)
            return format
        # Once recorded, a merge must be finished: what would stop it is looked for before.
        family(base.format).require_mergeable(directory, top, base)
        intent = Intent(snapshot=snapshot_id, top=top.name, base=base.name)
        write_intent(directory, naming, volume_id, intent, attempt)
        finish(directory, naming, volume_id, intent, attempt, base_format=format)
        return format


def _signs(naming: Naming, volume_id: str) -> tuple[str, str]:
    return naming.volume(volume_id), naming.info(volume_id)


def revert(
    directory: Path,
    naming: Naming,
    volume_id: str,
    snapshot_id: str,
    virtual_bytes: int,
    attempt: Attempt,
    *,
    format: str,  # noqa: A002 - what the catalogue calls it
    depth: int = 0,
) -> str:
    """Give the volume the content of any of its snapshots; all snapshots stay.

    The new content is built as another overlay on the active image's backing file, and renamed over the
    active image. For the newest snapshot that overlay is empty; for an older one it holds whatever
    changed between the two.
    """
    with begun(directory, naming, volume_id, attempt, format):
        chain = load(directory, naming, volume_id, format, depth)
        data, under = chain.data(snapshot_id)[0], chain.layers[1]
        virtual_bytes = max(virtual_bytes, chain.active.virtual_bytes)
        check_cancelled(attempt)
        final = directory / chain.active.name
        if data.name == under.name:
            publish_overlay(directory, naming, final.name, virtual_bytes, under, attempt)
            return format
        temp = directory / attempt.temp_name
        with files.fresh(temp, naming.mode) as fd:
            below = chain.data(snapshot_id)
            family(under.format).rebuild(fd, temp, chain.layers[1:], below, virtual_bytes, attempt)
            check_cancelled(attempt)
            files.publish(fd, temp, final)
        return format
