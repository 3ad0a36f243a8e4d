"""What this host does about volumes that it serves to itself: settings and secrets become tasks."""

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog

from breezeblock.backends import registry
from breezeblock.backends.rest_config import RestConfig, memory
from breezeblock.backends.rest_pools import Pools
from breezeblock.config import Config, split_policy
from breezeblock.connect.linux import STATE, LinuxConnector
from breezeblock.connect.served import ServedConnector
from breezeblock.errors import ConfigError, InvalidInputError, UnsupportedError
from breezeblock.objects.flat import pinned
from breezeblock.objects.serving import Task

LOOK_S, GLANCE_S = 5.0, 0.1
"""How often it is looked at everything, and at processes alone."""
log = structlog.get_logger(__name__)


def connector(
    config: Config,
    state: Path = STATE,
    *,
    kernel: LinuxConnector | None = None,
    discard: bool = False,
    relayed: bool = True,
    steal: bool = False,
) -> ServedConnector:
    """Return the connector for volumes that this configuration's back ends keep in object stores."""

    def wanted(data: Mapping[str, Any]) -> Task:
        return msgspec.structs.replace(task(config, data), discard=discard, steal=steal)

    return ServedConnector(wanted, state, kernel=kernel, relayed=relayed)


def task(config: Config, data: Mapping[str, Any]) -> Task:
    """Say how this host serves a volume. Sockets and journals lie where the host's own settings say.

    Raises UnsupportedError for volumes that are used in another way, ConfigError for a back end or pool that
    is not configured here.
    """
    name, pool, volume = (str(data.get(key, "")) for key in ("backend", "pool", "export"))
    if not (name and pool and volume):
        raise UnsupportedError("The volume is not one that hosts serve to themselves.")
    if len(volume) != 32 or set(volume) - set("0123456789abcdef"):
        raise InvalidInputError(f"{volume[:80]!a} is no volume of an object store.")
    settings = rest_config(config, name)
    run, journals = Path(settings.run_dir), Path(settings.journal_dir)
    for directory in (run, journals):
        _own(directory)
    pools = Pools(name, settings, Path(config.service.state_dir))
    store = pools.store(pool, wait=True)
    image = pinned.unpacked(str(data.get("object", ""))) if store.layout == "read-only" else None
    return Task(
        store=msgspec.structs.replace(store, pool=str(data.get("pool_uuid", "")) or store.pool),
        volume=volume,
        socket=run / volume,
        journal=journals / volume,
        memory=memory(settings, pool),
        durability="store" if data.get("durability") == "store" else "local",
        image=image,
    )


def _own(directory: Path) -> None:
    """Make a directory. Raises ConfigError if others could put something into it."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found, named = directory.stat(), directory.lstat()
    except OSError as error:
        raise ConfigError(f"{directory} cannot be made: {error.strerror}.") from error
    # Somebody else's link may lead to a directory of ours now, and to one of his next time.
    if {found.st_uid, named.st_uid} - {0, os.geteuid()} or found.st_mode & 0o022:
        raise ConfigError(
            f"{directory} is somebody else's, or others may write there.",
            remedy="Give it to the user that attaches, with mode 0700, or name another directory.",
        )


def rest_config(config: Config, name: str) -> RestConfig:
    """Return the settings of a back end of object stores. Raises ConfigError."""
    section = config.backends.get(name)
    if section is None:
        raise ConfigError(
            f"The back end {name} is not configured on this host.",
            remedy=f"Put [backends.{name}] into its configuration, and its secrets into its vault.",
        )
    where = f"[backends.{name}]"
    settings = registry.read_config(split_policy(section, where)[1], where)
    if not isinstance(settings, RestConfig):
        raise UnsupportedError(f"The back end {name} keeps no volumes in object stores.")
    return settings


def keep(served: ServedConnector, kernel: LinuxConnector, stopped: Callable[[], bool]) -> None:
    """Bring back, until `stopped`, what belongs on this host: processes that serve, and devices.

    Side by side: a store that is away keeps no device waiting whose volume is served.
    """
    ending = threading.Event()

    def look() -> None:
        looked, failures = time.monotonic(), tell(served)
        while not ending.wait(GLANCE_S):
            # Where something could not be brought back, it is not tried ten times a second.
            if time.monotonic() - looked >= LOOK_S or (not failures and served.lost()):
                looked, failures = time.monotonic(), tell(served)

    watching = threading.Thread(target=look, name="served", daemon=True)
    watching.start()
    try:
        kernel.keep(stopped)
    finally:
        ending.set()


def tell(served: ServedConnector) -> int:
    """Bring back what is not served; log, and count, what cannot be."""
    failures: list[Exception] = []
    try:
        failures += served.restore()
        failures += served.activate()
    except Exception as error:  # noqa: BLE001 - whoever watches goes on, whatever happens to one look
        failures.append(error)
    for failure in failures:
        log.warning("attach.not_served", why=str(failure))
    return len(failures)
