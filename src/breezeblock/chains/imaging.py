"""Whole images into new volumes, and volumes and snapshots out as whole images."""

from pathlib import Path

from breezeblock import images
from breezeblock.attempt import Attempt
from breezeblock.chains.begin import begun, tidied
from breezeblock.chains.chain import FORMATS, Layer, layer, load
from breezeblock.chains.merge import grow
from breezeblock.chains.naming import Naming
from breezeblock.chains.volumes import check_size, is_there, lay_flat
from breezeblock.errors import InvalidInputError
from breezeblock.images import inspection, qemu_img, raw
from breezeblock.images.raw import check_cancelled
from breezeblock.shares import files


def import_image(
    directory: Path,
    naming: Naming,
    volume_id: str,
    virtual_bytes: int,
    source: Path,
    source_format: str,
    attempt: Attempt,
    *,
    format: str,  # noqa: A002 - what the catalogue calls it
) -> str:
    """Make a volume that reads as the image `source`, zeros beyond; nothing is written if it may not be.

    The image is always converted, never adopted: no byte of a header from outside becomes one of ours.
    """
    check_size(virtual_bytes, format)
    final = directory / naming.volume(volume_id)
    with tidied(directory, volume_id, attempt):
        if is_there(directory, naming, volume_id, virtual_bytes, format):
            return format
        with files.opened(source) as fd:
            found = inspection.virtual_bytes(fd, source_format)
        if found > virtual_bytes:
            raise InvalidInputError(
                f"The image has {found} bytes for its consumer, the volume only {virtual_bytes}.",
                remedy="Make the volume larger.",
            )
        if source_format not in FORMATS:
            source, source_format = _as_raw(source, source_format, attempt), "raw"
        image = layer(source.parent, source.name, source_format)
        temp = directory / attempt.temp_name
        with files.fresh(temp, naming.mode) as fd:
            _write(source.parent, (image,), temp, fd, format, attempt)
            if format == "raw":
                raw.grow(fd, virtual_bytes)
            else:
                grow(directory, layer(directory, temp.name, format), virtual_bytes, 0, attempt)
            check_cancelled(attempt)
            files.publish(fd, temp, final)
    return format


def _as_raw(source: Path, source_format: str, attempt: Attempt) -> Path:
    """Write a VHD or VHDX as a raw image beside it, where the caller keeps and removes such things."""
    flat = source.with_name(f"{source.name}.flat")
    flat.unlink(missing_ok=True)
    images.convert(source, flat, "raw", source_format, attempt=attempt)
    return flat


def export_image(
    directory: Path,
    naming: Naming,
    volume_id: str,
    snapshot_id: str | None,
    target: Path,
    target_format: str,
    attempt: Attempt,
    *,
    format: str,  # noqa: A002 - what the catalogue calls it
) -> None:
    """Write what a volume or a snapshot reads as into `target`, replacing what an earlier attempt left."""
    if target_format not in inspection.FORMATS:
        raise InvalidInputError(f"Image format {target_format[:40]!a} cannot be written.")
    with begun(directory, naming, volume_id, attempt, format):
        chain = load(directory, naming, volume_id, format)
        layers = chain.layers if snapshot_id is None else chain.data(snapshot_id)
        target.unlink(missing_ok=True)
        flat = target if target_format in FORMATS else target.with_name(f"{target.name}.flat")
        flat.unlink(missing_ok=True)
        with files.fresh(flat, 0o600) as fd:
            _write(directory, layers, flat, fd, target_format if flat == target else "raw", attempt)
    if flat != target:
        images.convert(flat, target, target_format, "raw", attempt=attempt)
        flat.unlink()


def _write(
    directory: Path, layers: tuple[Layer, ...], target: Path, fd: int, target_format: str, attempt: Attempt
) -> None:
    if target_format == "raw" and lay_flat(directory, layers, fd, attempt):
        return
    qemu_img.convert(directory / layers[0].name, layers[0].format, target, target_format, attempt)
