"""Raw and QCOW2, as `families` asks for them: what rests on something is QCOW2, and qemu-img helps."""

import os
from collections.abc import Iterator
from pathlib import Path

from breezeblock.attempt import Attempt
from breezeblock.chains.layers import Layer
from breezeblock.errors import BreezeblockError, CorruptError
from breezeblock.images import clusters, overlays, qcow2, qemu_img, raw
from breezeblock.shares import files

ABOVE = {"raw": "qcow2", "qcow2": "qcow2"}
MAX_VIRTUAL_BYTES = dict.fromkeys(ABOVE, qcow2.MAX_VIRTUAL_BYTES)  # snapshots of a raw volume are qcow2
MAX_LAYERS = 4096
EVEN = False
_LOOKING = Attempt(operation_id="check", token="0")  # noqa: S106 - it names no file


def describe(fd: int, name: str, image_format: str) -> Layer:
    """Read an image's header; see `Family.describe`."""
    status = os.fstat(fd)
    allocated = status.st_blocks * 512
    if image_format == "raw":
        return Layer(name=name, format="raw", virtual_bytes=status.st_size, allocated_bytes=allocated)
    header = qcow2.parse(fd, name=name)
    return Layer(
        name=name,
        format="qcow2",
        virtual_bytes=header.virtual_bytes,
        allocated_bytes=allocated,
        backing=header.backing,
        backing_format=header.backing_format,
    )


def create(
    fd: int, path: Path, image_format: str, virtual_bytes: int, attempt: Attempt, *, thick: bool
) -> None:
    """Write an image of zeros; see `Family.create`."""
    if image_format == "qcow2" and thick:
        qemu_img.create_preallocated(path, virtual_bytes, attempt)
    elif image_format == "qcow2":
        qcow2.create(fd, virtual_bytes)
    elif thick:
        raw.preallocate(fd, virtual_bytes, attempt)
    else:
        raw.grow(fd, virtual_bytes)


def put_above(fd: int, directory: Path, below: Layer, virtual_bytes: int) -> None:
    """Write an empty overlay; see `Family.put_above`."""
    del directory  # its header names the image below and its format, nothing else
    qcow2.create(fd, virtual_bytes, backing=below.name, backing_format=below.format)


def settle(directory: Path, image: Layer) -> None:
    """Do nothing: a hypervisor takes the overlay of an image in use over by itself."""
    del directory, image


def complete(directory: Path, image: Layer) -> None:
    """Do nothing: neither has a log."""
    del directory, image


def is_empty(path: Path, image_format: str) -> bool:
    """Tell whether an overlay holds nothing; see `Family.is_empty`."""
    del image_format
    with files.opened(path) as fd:
        return clusters.is_empty(fd, qcow2.parse(fd))


def require_mergeable(directory: Path, top: Layer, base: Layer) -> None:
    """Look through the overlay's tables; see `Family.require_mergeable`."""
    del base
    with files.opened(directory / top.name) as fd:
        clusters.validate(fd, qcow2.parse(fd))


def merge(
    directory: Path, top: Layer, base: Layer, below_bytes: int, attempt: Attempt, *, resumed: bool
) -> None:
    """Commit an overlay; see `Family.merge`."""
    if resumed and base.format == "qcow2":
        qemu_img.repair_leaks(directory / base.name, attempt)
    grow(directory, base, top.virtual_bytes, below_bytes, attempt)
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
    """Let an image be longer; what the one below holds beyond it must not show; see `Family.grow`."""
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
    """Rewrite the header of an overlay; see `Family.relink`."""
    path = directory / child.name
    with files.opened(path, os.O_RDWR) as fd:
        if qcow2.reparent(fd, qcow2.parse(fd), backing.name, backing.format):
            return
    qemu_img.relink(path, backing.name, backing.format, attempt)
    files.sync_file(path)
    with files.opened(path) as fd:
        if qcow2.parse(fd).backing != backing.name:
            raise CorruptError(f"{child.name} was not re-linked to {backing.name}.")


def rebuild(
    fd: int,
    path: Path,
    layers: tuple[Layer, ...],
    data: tuple[Layer, ...],
    virtual_bytes: int,
    attempt: Attempt,
) -> None:
    """Write an overlay with the content of images further below; see `Family.rebuild`."""
    if not _rebuild(fd, path.parent, layers, data, virtual_bytes, attempt):
        _rebase(fd, path, data[0], layers[0], virtual_bytes, attempt)


def _rebuild(
    fd: int,
    directory: Path,
    layers: tuple[Layer, ...],
    data: tuple[Layer, ...],
    virtual_bytes: int,
    attempt: Attempt,
) -> bool:
    """Write the overlay: whatever a layer between holds differs, all else is the same below.

    False if a layer is compressed, which only qemu-img reads (nothing was written).
    """
    between = layers[: len(layers) - len(data)]
    changed: list[tuple[int, int]] = []
    for image in layers:
        if image.format == "qcow2":
            with files.opened(directory / image.name) as source:
                header = qcow2.parse(source)
                if clusters.has_compressed(source, header):
                    return False
                if image in between:
                    changed += [(run.offset, run.length) for run in clusters.runs(source, header)]
    ranges = overlays.cover(changed, virtual_bytes)
    places = overlays.create(fd, virtual_bytes, layers[0].name, layers[0].format, ranges)
    for image in reversed(data):
        with files.opened(directory / image.name) as source:
            if image.format == "raw":
                overlays.fill_from_raw(fd, places, source, attempt)
            else:
                overlays.fill_from_layer(fd, places, source, qcow2.parse(source), attempt)
    return True


def _rebase(fd: int, path: Path, data: Layer, under: Layer, virtual_bytes: int, attempt: Attempt) -> None:
    # As long as the snapshot while qemu-img compares the two; then grown, which hides what the newer
    # backing file holds beyond the snapshot's end.
    qcow2.create(fd, data.virtual_bytes, backing=data.name, backing_format=data.format)
    qemu_img.rebase(path, under.name, under.format, attempt)
    built = describe(fd, path.name, "qcow2")
    if (built.backing, built.backing_format) != (under.name, under.format):
        raise CorruptError(f"{path.name} was not re-based onto {under.name}.")
    grow(path.parent, built, virtual_bytes, under.virtual_bytes, attempt)


def flatten(fd: int, path: Path, image: Layer, attempt: Attempt) -> None:
    """Convert an overlay; see `Family.flatten`."""
    del fd
    qemu_img.convert(path.parent / image.name, image.format, path, image.format, attempt)


def lay_flat(directory: Path, layers: tuple[Layer, ...], target: int, attempt: Attempt) -> bool:
    """Write what the layers read as into an empty raw image; False if only qemu-img can (nothing written).

    The bottom image is copied, sharing blocks where the file system can; each layer above is then laid
    over it.
    """
    for image in layers:
        if image.format == "qcow2":
            with files.opened(directory / image.name) as fd:
                if clusters.has_compressed(fd, qcow2.parse(fd)):
                    return False
    for image in reversed(layers):
        with files.opened(directory / image.name) as fd:
            if image.format == "raw":
                raw.copy(fd, target, attempt)
            else:
                raw.grow(target, image.virtual_bytes)
                clusters.commit_to_raw(fd, qcow2.parse(fd), target, attempt)
    os.ftruncate(target, layers[0].virtual_bytes)
    return True


def unpacked(directory: Path, layers: tuple[Layer, ...], target: Path, attempt: Attempt) -> Path | None:
    """Write the layers as a raw image beside `target` if one is packed so that only qemu-img reads it."""
    for image in layers:
        if image.format == "qcow2":
            with files.opened(directory / image.name) as fd:
                if qcow2.parse(fd).zstd:
                    break
    else:
        return None
    flat = target.with_name(f"{target.name}.flat")
    qemu_img.convert(directory / layers[0].name, layers[0].format, flat, "raw", attempt)
    return flat


def examine(directory: Path, layers: tuple[Layer, ...]) -> Iterator[tuple[str, str, str, bool]]:
    """Let qemu-img look at each QCOW2 image; see `Family.examine`."""
    for image in layers:
        if image.format != "qcow2":
            continue
        try:
            verdict, said = qemu_img.check(directory / image.name, _LOOKING)
        except BreezeblockError as error:
            yield image.name, error.message, error.remedy, True
            continue
        if verdict == "leaks":
            remedy = f"`qemu-img check -r leaks -f qcow2 {image.name}` frees them."
            yield image.name, "clusters are reserved that nothing uses", remedy, False
        elif verdict == "broken":
            text = "its tables are damaged: " + " ".join(said.split())[:300]
            yield image.name, text, "Restore it from a copy; keep the volume detached.", True


def mendable(directory: Path, image: Layer) -> str:
    """Ask qemu-img for leaked clusters; see `Family.mendable`."""
    if image.format != "qcow2" or qemu_img.check(directory / image.name, _LOOKING)[0] != "leaks":
        return ""
    return f"free the clusters of {image.name} that nothing uses"


def mend(directory: Path, image: Layer, attempt: Attempt) -> None:
    """Free leaked clusters; see `Family.mend`."""
    qemu_img.repair_leaks(directory / image.name, attempt)
    files.sync_file(directory / image.name)
