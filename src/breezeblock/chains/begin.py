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
) -> Iterator[None]:
    """Hold a verb on one volume: finish the edit that was cut off, and translate the kernel's errors."""
    with tidied(directory, volume_id, attempt):
        intent = read_intent(directory, naming, volume_id)
        if intent:
            finish(directory, naming, volume_id, intent, attempt, base_format=base_format, resumed=True)
        yield


@contextmanager
def tidied(directory: Path, volume_id: str, attempt: Attempt) -> Iterator[None]:
    """Hold a verb that makes temporary files; what earlier attempts of the operation left is removed."""
    with (
        files.storage_errors(f"Volume {volume_id}"),
        files.noted(directory, attempt.operation_id, attempt.token),
    ):
        yield
