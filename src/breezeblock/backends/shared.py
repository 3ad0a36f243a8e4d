"""Shares as the pools of a back end of files: reached when they are needed and not reached."""

import errno
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from breezeblock.backends.contract import Connection
from breezeblock.errors import ConfigError, UnavailableError
from breezeblock.shares.space import Look, Space

_AGAIN_S = 0.3


class Way(Protocol):
    """How one share becomes a directory."""

    @property
    def point(self) -> Path:
        """Where the directory is, or will be."""

    def path(self) -> Path:
        """Make it reachable if it is not, and return `point`. Raises UnavailableError in limited time."""

    def let_go(self) -> None:
        """Give up a way that leads nowhere any more, so that `path` finds a new one."""


@dataclass(frozen=True, slots=True)
class SharePool:
    """One share."""

    way: Way
    answer_timeout_s: float
    gone: frozenset[int] = frozenset({errno.ESTALE})
    """Errors that a way leading nowhere gives for ever."""
    look: Look = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "look", Look(self.way.point))

    def space(self) -> Space:
        """Reach the share if need be, and ask it for its room."""
        self.look.directory = self.way.path()
        for last in (False, True):
            try:
                return self.look.space(self.answer_timeout_s)
            except UnavailableError as error:
                if not (isinstance(error.__cause__, OSError) and error.__cause__.errno in self.gone):
                    raise
                if not last:
                    time.sleep(_AGAIN_S)  # what is just being renewed may say the same
        self.way.let_go()
        self.way.path()
        return self.look.space(self.answer_timeout_s)


@dataclass(frozen=True, slots=True)
class SharePlaces:
    """Shares, each a pool named by its address."""

    backend: str
    protocol: str
    shares: Mapping[str, SharePool]
    connect: Callable[[str, str, str], Connection]
    """(pool, file name, format) to what a consumer is told."""

    def pools(self) -> tuple[str, ...]:
        """Return the shares' addresses."""
        return tuple(self.shares)

    def start(self, pool: str) -> None:
        """Reach the share."""
        self._share(pool).way.path()

    def directory(self, pool: str) -> Path:
        """Return the directory of a share that is reached and answers."""
        share = self._share(pool)
        share.space()
        return share.way.point

    def space(self, pool: str) -> Space:
        """Look at the room."""
        return self._share(pool).space()

    def locator(self, pool: str) -> str:
        """Return the address: Cinder's `provider_location`."""
        return pool

    def connection(self, pool: str, name: str, image_format: str) -> Connection:
        """Tell a consumer, who reaches the share himself."""
        self._share(pool)
        return self.connect(pool, name, image_format)

    def _share(self, pool: str) -> SharePool:
        if pool not in self.shares:
            raise ConfigError(
                f"Back end {self.backend} has no share {pool}; its shares are {', '.join(self.shares)}.",
                remedy="Put the share back into its list; its volumes cannot be reached without it.",
            )
        return self.shares[pool]
