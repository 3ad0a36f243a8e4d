"""The shares that a Samba server on this very host gives out, read from its configuration.

Reaching such a share through the network would send every byte through the server and back for nothing.
`smb.conf` (smb.conf(5)) is read as text and never executed: of it only section names, `path` and `include`
count. A path or an include that depends on who connects (`%U` and its like) means nothing here.
"""

import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from breezeblock.errors import ConfigError
from breezeblock.shares import smb

MAX_FILES = 64
MAX_DEPTH = 8
MAX_FILE_BYTES = 1 << 20
_SPECIAL = frozenset({"global", "homes", "printers", "print$", "ipc$"})
_SPACES = re.compile(r"\s+")


@dataclass(slots=True)
class _Reading:
    shares: dict[str, dict[str, str]] = field(default_factory=dict)
    files: int = 0
    section: str = "global"


def shares(path: Path) -> dict[str, Path]:
    """Return the local directory of each share by its name in small letters.

    Raises ConfigError for a configuration that cannot be read, or passes the limits on includes.
    """
    reading = _Reading()
    _read(path, reading, 0)
    defaults = reading.shares.get("global", {})
    found = {}
    for name, own in reading.shares.items():
        said = {**reading.shares.get(own.get("copy", "").casefold(), {}), **own}
        directory = said.get("path", "")
        on = said.get("available", defaults.get("available", "yes")).casefold() not in {"no", "false", "0"}
        if name not in _SPECIAL and on and directory.startswith("/") and "%" not in directory:
            found[name] = Path(directory)
    return found


def _read(path: Path, reading: _Reading, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ConfigError(f"{path}: Samba configurations include each other over {MAX_DEPTH} deep.")
    reading.files += 1
    if reading.files > MAX_FILES:
        raise ConfigError(f"{path}: the Samba configuration has over {MAX_FILES} files.")
    for line in _lines(path):
        if line.startswith("["):
            name, closing, _rest = line[1:].partition("]")
            if not closing:
                raise ConfigError(f"{path}: the section {line[:40]!a} is not closed.")
            reading.section = _SPACES.sub(" ", name.strip()).casefold()
            reading.shares.setdefault(reading.section, {})
            continue
        name, equals, value = line.partition("=")
        if not equals:
            continue  # Samba ignores it as well
        # Samba takes no notice of case and spaces in names of parameters.
        key, value = _SPACES.sub("", name).casefold(), _unquoted(value.strip())
        if key == "include":
            if "%" not in value and value and value != "registry":
                # As if it stood here, as Samba has it; a missing file is nothing.
                included = Path(value) if value.startswith("/") else path.parent / value
                if included.exists():
                    _read(included, reading, depth + 1)
        else:
            key = {"directory": "path"}.get(key, key)
            reading.shares.setdefault(reading.section, {})[key] = value


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"The Samba configuration {path} cannot be read: {error.strerror}.",
            remedy="Correct `samba_config`, or leave it out if this host serves none of the shares.",
        ) from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"The Samba configuration {path} is over {MAX_FILE_BYTES} bytes.")
    text = data.decode("utf-8", "surrogateescape")
    lines, whole = [], ""
    for part in text.splitlines():
        # Samba looks for comments before it joins lines: a comment ends at its line's end.
        stripped = part.strip()
        if not whole and (not stripped or stripped[0] in "#;"):
            continue
        if part.endswith("\\"):
            whole += f"{part[:-1].strip() if not whole else part[:-1]} "
            continue
        lines.append((whole + stripped).strip())
        whole = ""
    return [line for line in [*lines, whole.strip()] if line]


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value


def local_directory(address: str, config: Path, is_here: Callable[[str], bool] | None = None) -> Path | None:
    """Return the directory behind an SMB address if this host serves it, otherwise None.

    Raises ConfigError as `shares` does.
    """
    name, directory = smb.inside(address)
    root = shares(config).get(name.casefold())
    if root is None or not (is_here or host_is_here)(smb.host(address)):
        return None
    return root / directory if directory else root


def host_is_here(host: str) -> bool:
    """Tell whether a server's name leads to this very host.

    A scale-out file server's name leads to all of its nodes; that one of them is this one will do.
    """
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, 445, type=socket.SOCK_STREAM)}
    except OSError:
        return False
    return any(_is_ours(str(address)) for address in found)


def _is_ours(address: str) -> bool:
    """Only an address of this host's own can be bound (bind(2), EADDRNOTAVAIL)."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address.partition("%")[0], 0))
    except OSError:
        return False
    return True
