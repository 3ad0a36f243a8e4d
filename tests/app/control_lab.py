"""Control files over a configuration in a directory, and how their failures are told."""

from collections.abc import Callable
from pathlib import Path

from breezeblock import config
from breezeblock.app import attaching
from breezeblock.app.control_files import ControlFiles
from breezeblock.app.rest import Rest


def control_files(place: Path) -> ControlFiles:
    loaded = config.load(place / "breezeblock.toml", {})
    return ControlFiles(Rest(loaded), attaching.connector(loaded, place / "records"))


def number(work: Callable[[], object]) -> int | None:
    """Return the errno with which something fails."""
    try:
        work()
    except OSError as error:
        return error.errno
    return None
