"""The `local` back end: directories of this machine as pools."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from breezeblock.backends.contract import Connection
from breezeblock.backends.file_options import EXTENSIONS, Cloning, Defaults, Format, Provisioning
from breezeblock.backends.files import FileBackend
from breezeblock.chains import Naming
from breezeblock.errors import ConfigError, UnavailableError
from breezeblock.shares.mounts import source_at
from breezeblock.shares.space import Look, Space

AbsolutePath = Annotated[str, Meta(pattern=r"^/[^\x00-\x1f\x7f]*$", max_length=4096)]
PoolName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,128}$")]
FileMode = Annotated[str, Meta(pattern=r"^0[67][0-7]{2}$")]

ANSWER_TIMEOUT_S = 10.0
"""A local directory can hang too: FUSE, a dying disk."""


class LocalConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="local"
):
    """`[backends.NAME]` with `kind = "local"`; docs/backends/local.md explains each key."""

    path: AbsolutePath | None = None
    """One directory: one pool, named like the back end."""
    pools: dict[PoolName, AbsolutePath] = {}
    """Several: pool name to directory. Either this or `path`."""
    create_directories: bool = True
    """Make a directory that is missing, at start."""
    must_be_mounted: bool = False
    """Use a directory only while a file system is mounted exactly there."""
    format: Format = "raw"
    provisioning: Provisioning = "thin"
    clone: Cloning = "linked"
    """How volumes are made from others of the same pool, where their type does not say."""
    file_mode: FileMode = "0660"

    def __post_init__(self) -> None:
        if (self.path is None) == (not self.pools):
            raise ValueError("exactly one of `path` and `pools` is needed")
        directories = [os.path.realpath(path) for path in self.pools.values()]
        if len(set(directories)) < len(directories):
            raise ValueError("`pools` names one directory twice; one directory is one pool")


@dataclass(frozen=True, slots=True)
class LocalPlaces:
    """Directories that are simply there."""

    backend: str
    looks: Mapping[str, Look]
    create_directories: bool = True
    must_be_mounted: bool = False
    protocol: str = "file"

    def pools(self) -> tuple[str, ...]:
        """Return the pools' names."""
        return tuple(self.looks)

    def start(self, pool: str) -> None:
        """Make the directory if that is wanted."""
        directory = self._look(pool).directory
        if self.create_directories and not self.must_be_mounted:
            try:
                directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            except OSError as error:
                raise UnavailableError(f"{directory} cannot be made: {error.strerror}.") from error

    def directory(self, pool: str) -> Path:
        """Return the directory, if it may be used now."""
        self.space(pool)
        return self._look(pool).directory

    def space(self, pool: str) -> Space:
        """Look at the room."""
        look = self._look(pool)
        if self.must_be_mounted and source_at(Path(os.path.realpath(look.directory))) is None:
            raise UnavailableError(
                f"Nothing is mounted at {look.directory}.",
                remedy="Mount the file system there, or set must_be_mounted = false.",
            )
        return look.space(ANSWER_TIMEOUT_S)

    def locator(self, pool: str) -> str:
        """Return nothing: the pool says it all, and a directory may move."""
        del pool
        return ""

    def connection(self, pool: str, name: str, image_format: str) -> Connection:
        """Give the path as os-brick's `local` connector takes it."""
        path = self._look(pool).directory / name
        return Connection(
            driver_volume_type="local", data={"device_path": str(path), "name": name, "format": image_format}
        )

    def _look(self, pool: str) -> Look:
        if pool not in self.looks:
            raise ConfigError(
                f"Back end {self.backend} has no pool {pool}; its pools are {', '.join(self.looks)}.",
                remedy="Put the pool back into the configuration; its volumes cannot be reached without it.",
            )
        return self.looks[pool]


def open_local(name: str, config: LocalConfig, _state_dir: Path) -> FileBackend:
    """Return the back end, not started."""
    directories = config.pools if config.path is None else {name: config.path}
    looks = {pool: Look(Path(path)) for pool, path in directories.items()}
    places = LocalPlaces(name, looks, config.create_directories, config.must_be_mounted)
    naming = Naming(mode=int(config.file_mode, 8), extensions=EXTENSIONS)
    defaults = Defaults(format=config.format, provisioning=config.provisioning, clone=config.clone)
    return FileBackend(name, places, naming, defaults)
