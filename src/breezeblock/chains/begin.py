"""What every verb does first: clear away what earlier attempts left, and finish what was begun."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from breezeblock.attempt import Attempt
from breezeblock.chains.info import read_intent
from breezeblock.chains.merge import finish
from breezeblock.chains.naming import Naming
from breezeblock.shares import files


@contextmanager
def begun(
    directory: Path, naming: Naming, volume_id: str, attempt: Attempt, base_format: str
) -> Iterator[list[str]]:
    """Hold a verb on one volume; yields the names in the directory, and translates the kernel's errors."""
    with files.storage_errors(f"Volume {volume_id}"):
        names = tidied(directory, attempt)
        if naming.intent(volume_id) in names:
            intent = read_intent(directory, naming, volume_id)
            if intent:
                finish(directory, naming, volume_id, intent, attempt, base_format=base_format, resumed=True)
                names = files.listing(directory)
        yield names


def tidied(directory: Path, attempt: Attempt) -> list[str]:
    """Remove what earlier attempts of this operation left; return the names that remain."""
    names = files.listing(directory)
    gone = files.drop_temporaries(directory, names, attempt.operation_id, keep=attempt.temp_name)
    return [name for name in names if name not in gone] if gone else names
