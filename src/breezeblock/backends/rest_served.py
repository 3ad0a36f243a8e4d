"""Asking the process of this host that serves a volume."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from breezeblock.errors import BreezeblockError, NotFoundError
from breezeblock.objects import serving
from breezeblock.objects.serving.messages import lock_path

_AT_ONCE = 32


def asked(socket: Path, request: serving.Request, *, timeout_s: float = 60.0) -> bool:
    """Ask the process that serves NBD there; False if there is none that we may ask.

    Raises what `serving.call` raises.
    """
    if not os.access(lock_path(socket), os.R_OK | os.W_OK):
        return False
    try:
        serving.call(socket, request, timeout_s=timeout_s)
    except NotFoundError:
        return False
    return True


def views(run: Path, *, timeout_s: float) -> list[serving.View]:
    """Return how all processes are doing that serve there; those that do not answer in time are left out."""
    # Side by side: of processes that hang, ten cost who asks no more than one.
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        seen = threads.map(lambda path: view(path, timeout_s=timeout_s), serving.sockets(run))
        return [one for one in seen if one is not None]


def view(socket: Path, *, timeout_s: float) -> serving.View | None:
    """Return how the process that serves there is doing; None if that cannot be had in time."""
    if not os.access(lock_path(socket), os.R_OK | os.W_OK):
        return None
    try:
        return serving.call(socket, serving.Status(), timeout_s=timeout_s).view
    except BreezeblockError:
        return None
