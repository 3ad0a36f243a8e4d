"""By which of its possible names a volume goes, where nobody remembers its format."""

from pathlib import Path

from breezeblock.chains.naming import Naming
from breezeblock.errors import ConflictError
from breezeblock.shares import files


def named(directory: Path, naming: Naming, volume_id: str) -> list[Naming]:
    """Return each way of naming under which something of the volume is there."""
    return [one for one in naming.variants() if _is_named(directory, one, volume_id)]


def _is_named(directory: Path, naming: Naming, volume_id: str) -> bool:
    with files.storage_errors(f"Volume {volume_id}"):
        names = naming.volume(volume_id), naming.info(volume_id), naming.intent(volume_id)
        return any(files.exists(directory / one) for one in names)


def called(
    directory: Path, naming: Naming, volume_id: str, reference: str, image_format: str
) -> tuple[Naming, str]:
    """Return how a volume is named, or would be, and what `reference` is called on storage.

    `volume-<id>` alone means the volume of that id, whatever its extension. Raises ConflictError if there
    are several and `image_format` does not say which.
    """
    plain = naming.of_format("")
    if reference != plain.volume(volume_id):
        return naming.like(reference), reference
    found = named(directory, naming, volume_id)
    wanted = naming.of_format(image_format)
    chosen = [wanted] if image_format and wanted in found else found
    if len(chosen) > 1:
        told = ", ".join(one.volume(volume_id) for one in chosen)
        raise ConflictError(
            f"Volume {volume_id} is there more than once: {told}.",
            remedy="Say which is meant, by its whole name or its format, and move the others away.",
        )
    there = chosen[0] if chosen else plain
    return there, there.volume(volume_id)
