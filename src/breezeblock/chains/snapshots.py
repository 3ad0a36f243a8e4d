"""Verbs on a volume's snapshots. The rules for verbs are those of `backends.contract`.

`format` is always that of the image the volume began with, and is what every verb returns: it never
changes, so a caller that was killed before it could note anything still passes the right one.
"""

from pathlib import Path

import msgspec

from breezeblock.attempt import Attempt
from breezeblock.chains import users
from breezeblock.chains.begin import begun
from breezeblock.chains.chain import MAX_DEPTH, Chain, Layer, layer, load
from breezeblock.chains.info import DOCTOR, Info, Intent, write_info, write_intent
from breezeblock.chains.merge import finish, grow
from breezeblock.chains.naming import Naming
from breezeblock.errors import ConflictError, CorruptError
from breezeblock.images import clusters, overlays, qcow2, qemu_img
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
        if len(chain.layers) >= MAX_DEPTH:
            raise ConflictError(
                f"Volume {volume_id} has {MAX_DEPTH} layers, which is the limit.",
                remedy="Delete snapshots of it first.",
            )
        check_cancelled(attempt)
        virtual_bytes = max(virtual_bytes, chain.active.virtual_bytes)
        put_on_top(directory, naming, volume_id, chain, overlay, virtual_bytes, attempt, snapshot_id)
        return format


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
    if overlay in chain.names or files.exists(directory / overlay):
        check_leftover(directory, chain, overlay)
    info = chain.info or Info(chain.active.name, {})
    if chain.info is None:
        # So that overlays without .info always mean that it was lost.
        write_info(directory, naming, volume_id, info, attempt)
    publish_overlay(
        directory, naming, overlay, virtual_bytes, chain.active.name, chain.active.format, attempt
    )
    recorded = {**info.snapshots, snapshot_id: overlay} if snapshot_id else info.snapshots
    info = msgspec.structs.replace(info, active=overlay, snapshots=recorded)
    write_info(directory, naming, volume_id, info, attempt)


def publish_overlay(
    directory: Path,
    naming: Naming,
    name: str,
    virtual_bytes: int,
    backing: str,
    backing_format: str,
    attempt: Attempt,
) -> None:
    """Write an overlay without data under its final name."""
    temp = directory / attempt.temp_name
    with files.fresh(temp, naming.mode) as fd:
        qcow2.create(fd, virtual_bytes, backing=backing, backing_format=backing_format)
        files.publish(fd, temp, directory / name)


def check_leftover(directory: Path, chain: Chain, overlay: str) -> None:
    """Accept an overlay outside the chain only if it is what a killed `snapshot` leaves: empty, linked."""
    found = layer(directory, overlay, "qcow2")
    with files.opened(directory / overlay) as fd:
        empty = clusters.is_empty(fd, qcow2.parse(fd))
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
        top, base = chain.snapshots[snapshot_id], chain.data(snapshot_id)[0]
        if base.name in users.frozen(directory, naming, volume_id, chain):
            # Clones rest on the image below, so nothing may move into it: the overlay stays, as nobody's.
            assert chain.info is not None  # noqa: S101 - it recorded the snapshot
            rest = {key: name for key, name in chain.snapshots.items() if key != snapshot_id}
            left = msgspec.structs.replace(chain.info, snapshots=rest)
            write_info(directory, naming, volume_id, left, attempt)
            return format
        with files.opened(directory / top) as fd:
            # Once recorded, a merge must be finished: damage that would stop it is looked for before.
            clusters.validate(fd, qcow2.parse(fd))
        intent = Intent(snapshot=snapshot_id, top=top, base=base.name)
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
            publish_overlay(directory, naming, final.name, virtual_bytes, under.name, under.format, attempt)
            return format
        temp = directory / attempt.temp_name
        with files.fresh(temp, naming.mode) as fd:
            if not _rebuild(directory, chain, snapshot_id, virtual_bytes, fd, attempt):
                _rebase(directory, temp, fd, data, under, virtual_bytes, attempt)
            check_cancelled(attempt)
            files.publish(fd, temp, final)
        return format


def _rebuild(
    directory: Path, chain: Chain, snapshot_id: str, virtual_bytes: int, fd: int, attempt: Attempt
) -> bool:
    """Write the overlay: whatever a layer between holds differs, all else is the same below.

    False if a layer is compressed, which only qemu-img reads (nothing was written).
    """
    layers = chain.data(snapshot_id)
    between = chain.layers[1 : len(chain.layers) - len(layers)]
    changed: list[tuple[int, int]] = []
    for image in chain.layers[1:]:
        if image.format == "qcow2":
            with files.opened(directory / image.name) as source:
                header = qcow2.parse(source)
                if clusters.has_compressed(source, header):
                    return False
                if image in between:
                    changed += [(run.offset, run.length) for run in clusters.runs(source, header)]
    under = chain.layers[1]
    ranges = overlays.cover(changed, virtual_bytes)
    places = overlays.create(fd, virtual_bytes, under.name, under.format, ranges)
    for image in reversed(layers):
        with files.opened(directory / image.name) as source:
            if image.format == "raw":
                overlays.fill_from_raw(fd, places, source, attempt)
            else:
                overlays.fill_from_layer(fd, places, source, qcow2.parse(source), attempt)
    return True


def _rebase(
    directory: Path, temp: Path, fd: int, data: Layer, under: Layer, virtual_bytes: int, attempt: Attempt
) -> None:
    # As long as the snapshot while qemu-img compares the two; then grown, which hides what the newer
    # backing file holds beyond the snapshot's end.
    qcow2.create(fd, data.virtual_bytes, backing=data.name, backing_format=data.format)
    qemu_img.rebase(temp, under.name, under.format, attempt)
    built = layer(directory, temp.name, "qcow2")
    if (built.backing, built.backing_format) != (under.name, under.format):
        raise CorruptError(f"{temp.name} was not re-based onto {under.name}.")
    grow(directory, built, virtual_bytes, under.virtual_bytes, attempt)
