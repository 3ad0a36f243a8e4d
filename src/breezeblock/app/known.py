"""What a list of volumes says that a share does not: names, projects, types.

The list is the JSON that `GET /v3/{project}/volumes/detail?all_tenants=1` and `…/snapshots/detail` give,
here and in Cinder, so that one form serves a rebuilt catalog and a share taken over. There is no file of
ours beside each volume instead: names and projects would be open to whoever may read the share, every
rename would be a write to it, and another service's volumes would have none.
"""

from pathlib import Path
from typing import Any

import msgspec
from msgspec import field

from breezeblock.errors import ConfigError

MAX_BYTES = 256 << 20


class KnownVolume(msgspec.Struct, frozen=True, kw_only=True):
    """A volume of the list; what is not needed is not read."""

    id: str
    size: int = 0
    """GiB."""
    status: str = "available"
    name: str | None = None
    description: str | None = None
    user_id: str | None = None
    volume_type: str | None = None
    bootable: str = "false"
    metadata: dict[str, str] = {}
    image_metadata: dict[str, str] = field(name="volume_image_metadata", default_factory=dict)
    created_at: str | None = None
    project_id: str | None = field(name="os-vol-tenant-attr:tenant_id", default=None)


class KnownSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of the list."""

    id: str
    name: str | None = None
    description: str | None = None
    metadata: dict[str, str] = {}
    created_at: str | None = None

    def columns(self) -> dict[str, Any]:
        """Return what the catalog keeps of it."""
        told = {
            "name": self.name,
            "description": self.description,
            "metadata": msgspec.json.encode(self.metadata).decode(),
            "created_at": self.created_at,
        }
        return {key: value for key, value in told.items() if value is not None}


class Known(msgspec.Struct, frozen=True):
    """The lists in one file; either may be absent."""

    volumes: list[KnownVolume] = []
    snapshots: list[KnownSnapshot] = []


def read(paths: list[Path]) -> Known:
    """Read the lists. Raises ConfigError naming the file and what is wrong in it."""
    volumes, snapshots = [], []
    for path in paths:
        try:
            if path.stat().st_size > MAX_BYTES:
                raise ConfigError(f"{path}: longer than {MAX_BYTES} bytes")
            found = msgspec.json.decode(path.read_bytes(), type=Known)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{path}: {error}",
                remedy="It has to be what GET /v3/{project}/volumes/detail?all_tenants=1 answers.",
            ) from error
        volumes += found.volumes
        snapshots += found.snapshots
    return Known(volumes, snapshots)
