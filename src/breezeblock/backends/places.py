"""Where a back end of files keeps its pools: what `files` asks of a local directory, NFS or SMB."""

from pathlib import Path
from typing import Protocol

from breezeblock.backends.contract import Connection
from breezeblock.shares.space import Space


class Places(Protocol):
    """The directories that are a back end's pools. Every method may be called from any thread."""

    @property
    def protocol(self) -> str:
        """`Capabilities.storage_protocol`."""

    def pools(self) -> tuple[str, ...]:
        """Return the pools' names, in the order of the configuration."""

    def start(self, pool: str) -> None:
        """Try to make the pool reachable. Raises UnavailableError."""

    def directory(self, pool: str) -> Path:
        """Return the pool's directory, reachable right now, or raise UnavailableError in limited time.

        Raises ConfigError for a pool that is not configured.
        """

    def space(self, pool: str) -> Space:
        """Look at the pool's room. Raises UnavailableError in limited time."""

    def locator(self, pool: str) -> str:
        """Return what the service is to remember as a volume's place."""

    def connection(self, pool: str, name: str, image_format: str) -> Connection:
        """Say how a consumer reaches the file `name` in the pool."""
