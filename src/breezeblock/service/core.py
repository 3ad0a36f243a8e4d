"""What every promise needs: the catalog, the settings, who is asking, and a way to wake the workers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from breezeblock.catalog.database import Database
from breezeblock.errors import ForbiddenError
from breezeblock.images.addresses import NOTHING, Policy

GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as the identity room found out."""

    project_id: str
    user_id: str
    roles: frozenset[str] = frozenset()
    request_id: str = ""
    user_name: str = ""
    project_name: str = ""

    @property
    def is_admin(self) -> bool:
        """Say whether the caller may see and do everything."""
        return "admin" in self.roles

    def require_admin(self, what: str) -> None:
        """Raise ForbiddenError unless the caller is an admin."""
        if not self.is_admin:
            raise ForbiddenError(f"Policy doesn't allow {what} to be performed.")


@dataclass(frozen=True, slots=True)
class Settings:
    """The part of the configuration that promises depend on."""

    host: str = "breezeblock"
    """This deployment's name in `host@backend#pool`."""
    availability_zone: str = "nova"
    default_volume_type: str = "__DEFAULT__"
    quota: Mapping[str, int] = field(default_factory=dict)
    """Default hard limits by resource (volumes, snapshots, gigabytes, per_volume_gigabytes …); -1 = none."""
    images: Policy = NOTHING
    """What users may name as an image's address."""
    message_ttl_s: int = 30 * 24 * 3600
    connect_timeout_s: float = 60.0
    """How long an attachment request waits for its worker."""


@dataclass(frozen=True, slots=True)
class Service:
    """The handle that every service function takes first."""

    database: Database
    settings: Settings
    wake: Callable[[], None]
    """Tell the dispatcher of this process, if there is one, that an operation is queued."""
