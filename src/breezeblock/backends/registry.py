"""Which kinds of back end there are: `kind` in a `[backends.NAME]` section to settings and constructor."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from breezeblock.backends.apart import apart
from breezeblock.backends.contract import Backend
from breezeblock.backends.local import LocalConfig, open_local
from breezeblock.backends.nfs import NfsConfig, nfs_parts, open_nfs
from breezeblock.backends.parts import Parts
from breezeblock.backends.rest_config import RestConfig
from breezeblock.backends.rest_thin import open_thin
from breezeblock.backends.smb import SmbConfig, open_smb, smb_parts
from breezeblock.backends.xenserver import open_xenserver
from breezeblock.backends.xenserver_config import XenServerConfig
from breezeblock.config import convert
from breezeblock.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of back end."""

    config: type[msgspec.Struct]
    open: Callable[[str, Any, Path], Backend]
    """(name, config, state directory) to the back end, not started. Raises ConfigError."""
    parts: Callable[[str, Any], Parts | None] = lambda _name, _config: None
    """How it falls into pools that helper processes serve; None: it works in the caller's process."""


KINDS: Mapping[str, Kind] = {
    "local": Kind(LocalConfig, open_local),
    "nfs": Kind(NfsConfig, open_nfs, nfs_parts),
    "rest": Kind(RestConfig, open_thin),
    "smb": Kind(SmbConfig, open_smb, smb_parts),
    "xenserver": Kind(XenServerConfig, open_xenserver),
}


def read_config(section: Mapping[str, Any], where: str) -> msgspec.Struct:
    """Turn a `[backends.NAME]` section (without the policy keys) into its kind's settings.

    Raises ConfigError naming place, key, value and what is allowed.
    """
    kind = section.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(
            f"{where}: kind: {kind!r} is no kind of back end."
            if "kind" in section
            else f"{where}: the key `kind` is missing.",
            remedy=f"Allowed: {', '.join(sorted(KINDS))}.",
        )
    return convert(dict(section), KINDS[kind].config, where)


def open_backend(name: str, config: msgspec.Struct, state_dir: Path) -> Backend:
    """Return a back end, not started, for settings from `read_config`. Raises ConfigError."""
    return _kind(name, config).open(name, config, state_dir)


def open_apart(name: str, config: msgspec.Struct, state_dir: Path) -> Backend:
    """Return a back end as `open_backend` does, its work done in helper processes if it is so set."""
    kind = _kind(name, config)
    parts = kind.parts(name, config)
    if parts is None:
        return kind.open(name, config, state_dir)
    return apart(name, kind.open, config, state_dir, parts)


def _kind(name: str, config: msgspec.Struct) -> Kind:
    for kind in KINDS.values():
        if isinstance(config, kind.config):
            return kind
    raise ConfigError(f"Back end {name} has settings of no known kind: {type(config).__name__}.")
