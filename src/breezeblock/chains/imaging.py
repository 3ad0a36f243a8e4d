"""Whole images into new volumes, and volumes and snapshots out as whole images."""

from pathlib import Path

from breezeblock.attempt import Attempt
from breezeblock.chains.begin import begun, tidied
from breezeblock.chains.chain import load
from breezeblock.chains.families import layer
from breezeblock.chains.naming import Naming
from breezeblock.chains.volumes import check_size, fill, is_there, taken_bytes
from breezeblock.errors import InvalidInputError
from breezeblock.images import inspection
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
    thick: bool = False,
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
        image = layer(source.parent, source.name, source_format)
        temp = directory / attempt.temp_name
        with files.fresh(temp, naming.mode) as fd:
            fill(fd, temp, source.parent, (image,), format, virtual_bytes, attempt, thick=thick)
            check_cancelled(attempt)
            files.publish(fd, temp, final)
    return format


def export_image(
    directory: Path,
    naming: Naming,
    volume_id: str,
    snapshot_id: str | None,
    target: Path,
    target_format: str,
    attempt: Attempt,
    *,
    source_bytes: int = 0,
    format: str,  # noqa: A002 - what the catalogue calls it
) -> None:
    """Write what a volume or a snapshot reads as into `target`, replacing what an earlier attempt left.

    `source_bytes` is as in `copy`.
    """
    if target_format not in inspection.FORMATS:
        raise InvalidInputError(f"Image format {target_format[:40]!a} cannot be written.")
    with begun(directory, naming, volume_id, attempt, format):
        chain = load(directory, naming, volume_id, format)
        layers = chain.layers if snapshot_id is None else chain.data(snapshot_id)
        target.unlink(missing_ok=True)
        with files.fresh(target, 0o600) as fd:
            virtual_bytes = taken_bytes(layers, source_bytes)
            fill(fd, target, directory, layers, target_format, virtual_bytes, attempt)
