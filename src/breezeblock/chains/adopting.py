"""Taking over volumes that somebody else wrote: Cinder's NFS driver, or an operator by hand.

Cinder's chains have our names and our `.info`, but more forms: headers that name the image below by a
path (Windows in capitals, too), or without its format, and lengths that are no whole GiB. `look` reads
all of that, changing nothing; `adopt` edits headers until the chain is one of ours. No data is copied, and
what an edit was cut off in is simply taken over again.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from breezeblock.attempt import Attempt
from breezeblock.chains import differencing, foreign
from breezeblock.chains.begin import begun
from breezeblock.chains.chain import Chain, load
from breezeblock.chains.families import FORMATS, above, family
from breezeblock.chains.info import DOCTOR, Info, read_info, read_intent
from breezeblock.chains.layers import Layer
from breezeblock.chains.naming import Naming
from breezeblock.chains.volumes import grow
from breezeblock.errors import ConflictError, CorruptError, InvalidInputError, NotFoundError
from breezeblock.images import qcow2, qemu_img
from breezeblock.shares import files

GIB = 1 << 30
_BARE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stranger:
    """A volume that can be taken over."""

    format: str
    """Of the image that the volume begins with."""
    virtual_bytes: int
    """What it will have: whole GiB, as the API tells sizes."""
    snapshots: tuple[tuple[str, int], ...]
    """Id and virtual bytes of each, the oldest first."""
    layers: tuple[Layer, ...]
    """The active one first; backing names without their directories."""
    edits: tuple[str, ...]
    """What `adopt` will change, a sentence each; empty for a volume that is as we would have left it."""
    hidden: tuple[Layer, ...] = ()
    """Those of its own layers that belong to no snapshot."""
    ancestors: tuple[tuple[str, bool], ...] = ()
    """Of a linked clone: the ids of the volumes that it looks through, nearest first, and whether each is
    gone but for what its clones need."""


def look(
    directory: Path,
    naming: Naming,
    volume_id: str,
    reference: str,
    *,
    format: str = "",  # noqa: A002 - what the catalogue calls it
    virtual_bytes: int = 0,
) -> Stranger:
    """Say what `adopt` with the same arguments would do; changes nothing.

    Raises NotFoundError, ConflictError where it must not be done now, CorruptError where it cannot.
    """
    if format:
        family(format)
    elif (spelled := naming.like(reference).extension) in FORMATS:
        format = spelled  # noqa: A001 - what the catalogue calls it
    with files.storage_errors(f"{directory}/{reference[:300]}"):
        if reference == naming.volume(volume_id):
            return _look_at_chain(directory, naming, volume_id, format, virtual_bytes)
        if renamed := _renamed(directory, naming, volume_id, reference):
            return _look_at_chain(directory, renamed, volume_id, format, virtual_bytes)
        return _look_at_file(directory, naming, volume_id, reference, format, virtual_bytes)


def _renamed(directory: Path, naming: Naming, volume_id: str, reference: str) -> Naming | None:
    """Return how the file is named if an attempt before this one, killed since, has renamed it already."""
    _require_bare(reference)
    if os.path.lexists(directory / reference):
        return None
    found = (one for one in naming.variants() if files.exists(directory / one.volume(volume_id)))
    return next(found, None)


def adopt(
    directory: Path,
    naming: Naming,
    volume_id: str,
    reference: str,
    attempt: Attempt,
    *,
    format: str = "",  # noqa: A002 - what the catalogue calls it
    virtual_bytes: int = 0,
) -> Stranger:
    """Make the file `reference`, or the chain of that name, the volume; return what it now is.

    `format` decides where the evidence leaves a doubt. `virtual_bytes`: at least so many; whole GiB.
    """
    if reference != naming.volume(volume_id):
        with files.storage_errors(f"Volume {volume_id}"):
            renamed = _renamed(directory, naming, volume_id, reference)
            if renamed:
                naming = renamed
            else:
                found = look(
                    directory, naming, volume_id, reference, format=format, virtual_bytes=virtual_bytes
                )
                _edit(directory, naming, found, attempt)
                naming = naming.of_format(found.format)
                with files.opened(directory / reference) as fd:
                    files.publish(fd, directory / reference, directory / naming.volume(volume_id))
                format = found.format  # noqa: A001 - what the catalogue calls it
    final = naming.volume(volume_id)
    found = look(directory, naming, volume_id, final, format=format, virtual_bytes=virtual_bytes)
    with files.storage_errors(f"Volume {volume_id}"):
        _edit(directory, naming, found, attempt)
        if files.exists(directory / naming.info(volume_id)):
            _own_mode(directory / naming.info(volume_id), naming.mode)
    with begun(directory, naming, volume_id, attempt, found.format):
        chain = load(directory, naming, volume_id, found.format)
        grow(directory, naming, volume_id, chain, found.virtual_bytes, attempt)
    if set(chain.snapshots) != {snapshot_id for snapshot_id, _bytes in found.snapshots}:
        raise CorruptError(f"Volume {volume_id} was changed while it was being taken over.", remedy=DOCTOR)
    return look(directory, naming, volume_id, final, format=found.format, virtual_bytes=virtual_bytes)


def release(
    directory: Path,
    naming: Naming,
    volume_id: str,
    attempt: Attempt,
    *,
    format: str,  # noqa: A002 - what the catalogue calls it
) -> None:
    """Finish an edit that was cut off, so that the files alone tell all; they stay where they are."""
    with begun(directory, naming, volume_id, attempt, format):
        load(directory, naming, volume_id, format)


def _look_at_chain(
    directory: Path, naming: Naming, volume_id: str, said: str, virtual_bytes: int
) -> Stranger:
    info = read_info(directory, naming, volume_id)
    top = info.active if info else naming.volume(volume_id)
    if info is None:
        present = {kind for _name, kind in naming.of_volume(volume_id, files.listing(directory))}
        if "overlay" in present:
            raise CorruptError(
                f"Volume {volume_id} has snapshot overlays but no {naming.info(volume_id)}.", remedy=DOCTOR
            )
        if "volume" not in present:
            raise NotFoundError(f"There is no volume {volume_id} in {directory}.")
    if info is not None and (info.parent or info.deleted):
        return _look_at_clone(directory, naming, volume_id, virtual_bytes)
    walked, edits = foreign.walk(directory, naming, volume_id, top, said)
    snapshots = dict((info or Info(top, {})).snapshots)
    intent = read_intent(directory, naming, volume_id)
    if intent:
        snapshots.pop(intent.snapshot, None)  # its deletion was promised, and is finished first
    names = [one.name for one in walked]
    for snapshot_id, overlay in snapshots.items():
        if overlay not in names[:-1]:
            raise CorruptError(
                f"Volume {volume_id}: overlay {overlay} of snapshot {snapshot_id} is not in the chain "
                "or has nothing below it.",
                remedy=DOCTOR,
            )
    order = sorted(snapshots, key=lambda one: names.index(snapshots[one]), reverse=True)
    held = ((one, _whole_gib(walked[names.index(snapshots[one]) + 1].virtual_bytes)) for one in order)
    base, renamed = walked[-1], walked[-1].name != naming.volume(volume_id)
    found = _stranger(
        walked, above(base.format) if renamed else base.format, tuple(held), edits, virtual_bytes
    )
    hidden = tuple(one for one in walked[:-1] if one.name not in snapshots.values())
    return replace(found, hidden=hidden)


def _look_at_clone(directory: Path, naming: Naming, volume_id: str, virtual_bytes: int) -> Stranger:
    """Look at a volume that shares another one's storage: only we make those, so nothing is edited.

    Raises NotFoundError for what is kept of a deleted volume because its clones rest on it.
    """
    kind = above(naming.extension if naming.extension in FORMATS else "qcow2")
    chain = load(directory, naming, volume_id, kind)
    for one in chain.own:
        with files.opened(directory / one.name) as fd:
            foreign.require_free(fd, one.name)
    order = sorted(chain.snapshots, key=lambda one: chain.names.index(chain.snapshots[one]), reverse=True)
    held = tuple((one, _whole_gib(chain.data(one)[0].virtual_bytes)) for one in order)
    found = _stranger(chain.layers, kind, held, (), virtual_bytes)
    return replace(found, hidden=chain.hidden, ancestors=tuple(_ancestors(directory, naming, chain)))


def _ancestors(directory: Path, naming: Naming, chain: Chain) -> Iterator[tuple[str, bool]]:
    owners = dict.fromkeys(naming.owner(one.name) for one in chain.layers[len(chain.own) :])
    for owner in filter(None, owners):
        info = read_info(directory, naming, owner)
        yield owner, info is not None and info.deleted is not None


def _look_at_file(
    directory: Path, naming: Naming, volume_id: str, reference: str, said: str, virtual_bytes: int
) -> Stranger:
    if naming.like(reference).parse(reference) or reference.startswith(files.TEMPORARY):
        raise _no_reference(reference)
    names = files.listing(directory)
    own = [found for one in naming.variants() for found in one.of_volume(volume_id, names)]
    if own:
        raise ConflictError(f"Volume {volume_id} is in {directory} already: {own[0][0]}.")
    try:
        with files.opened(directory / reference) as fd:
            foreign.require_free(fd, reference)
            kind = said or (foreign.doubt(reference) if os.pread(fd, 4, 0) == qcow2.MAGIC else "raw")
            found, _told = foreign.layer(fd, reference, kind)
    except FileNotFoundError as error:
        raise NotFoundError(f"There is no {reference} in {directory}.") from error
    if found.backing is not None:
        raise InvalidInputError(
            f"{reference} rests on another image, which would have to be taken over with it.",
            remedy="Flatten it first (`qemu-img convert`), or import it as an image.",
        )
    edits = (f"{reference} is renamed to {naming.of_format(kind).volume(volume_id)}",)
    return _stranger((found,), kind, (), edits, virtual_bytes)


def _require_bare(reference: str) -> None:
    if not _BARE.match(reference):
        raise _no_reference(reference)


def _no_reference(reference: str) -> InvalidInputError:
    return InvalidInputError(
        f"{reference[:300]!a} cannot be taken over as a new volume.",
        remedy="Name a file of the pool's own directory; a volume-<id> keeps its id.",
    )


def _stranger(
    layers: tuple[Layer, ...],
    base_format: str,
    snapshots: tuple[tuple[str, int], ...],
    edits: tuple[str, ...],
    virtual_bytes: int,
) -> Stranger:
    has = layers[0].virtual_bytes
    wanted = _whole_gib(max(has, virtual_bytes, 1))
    if has != wanted:
        edits = (*edits, f"{layers[0].name} grows from {has} to {wanted} bytes")
    return Stranger(format=base_format, virtual_bytes=wanted, snapshots=snapshots, layers=layers, edits=edits)


def _whole_gib(virtual_bytes: int) -> int:
    return -(-virtual_bytes // GIB) * GIB


# ── edits ────────────────────────────────────────────────────────────────────────────────────────────


def _edit(directory: Path, naming: Naming, found: Stranger, attempt: Attempt) -> None:
    for image in reversed(found.layers):
        _own_mode(directory / image.name, naming.mode)
        if image.backing is not None:
            _link(directory, image, attempt)


def _own_mode(path: Path, mode: int) -> None:
    """Close a file that everybody may write, if it is ours; whom it else belongs to still needs it so."""
    with files.opened(path) as fd:
        status = os.fstat(fd)
        if status.st_uid == os.geteuid() and status.st_mode & 0o002:
            os.fchmod(fd, mode)


def _link(directory: Path, image: Layer, attempt: Attempt) -> None:
    """Let the header name the image below as our own headers do."""
    assert image.backing is not None  # noqa: S101 - the caller has looked
    assert image.backing_format is not None  # noqa: S101 - `foreign.walk` fills it in
    path = directory / image.name
    if image.format in differencing.ABOVE:
        differencing.link_foreign(directory, image)
        return
    with files.opened(path, os.O_RDWR) as fd:
        header = qcow2.parse(fd, foreign=True)
        if (header.backing, header.backing_format) == (image.backing, image.backing_format):
            return
        if qcow2.reparent(fd, header, image.backing, image.backing_format):
            return
    qemu_img.relink(path, image.backing, image.backing_format, attempt)
    files.sync_file(path)
