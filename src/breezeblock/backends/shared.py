"""Shares as the pools of a back end of files: reached when they are needed and not reached."""

import errno
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Protocol, Self

import msgspec
from msgspec import Meta

from breezeblock.backends.contract import Connection
from breezeblock.backends.file_options import Cloning, Defaults, Format, Provisioning
from breezeblock.backends.local import AbsolutePath, FileMode
from breezeblock.backends.parts import Parts
from breezeblock.chains import Naming
from breezeblock.errors import ConfigError, UnavailableError
from breezeblock.shares.space import Look, Space

_AGAIN_S = 0.3


class ShareConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `[backends.NAME]` says of shares whatever their protocol; docs/backends explains each key."""

    shares: list[str] = []
    """`ADDRESS [-o OPTIONS]` each, as in the file."""
    shares_file: AbsolutePath | None = None
    """A share list, one a line."""
    mount_base: AbsolutePath | None = None
    """Directory of the mount points; None: `mnt` in the state directory."""
    mount_options: str = ""
    """Options for all shares, in place of defaults that say the same thing; a share's own win."""
    mount_attempts: Annotated[int, Meta(ge=1, le=100)] = 3
    mount_timeout_s: Annotated[float, Meta(ge=1, le=3600)] = 30.0
    """For mounting one share, over all attempts."""
    answer_timeout_s: Annotated[float, Meta(ge=0.1, le=3600)] = 10.0
    """How long a mounted share may take to say how much room it has before it counts as down."""
    format: Format = "raw"
    provisioning: Provisioning = "thin"
    clone: Cloning = "linked"
    """How volumes are made from others of the same pool, where their type does not say."""
    file_mode: FileMode = "0660"
    isolated: bool = True
    """Do all work on a share in a helper process of its own."""
    silence_timeout_s: Annotated[float, Meta(ge=1, le=86400)] = 900.0
    """How long an operation may go without progress although its share answers."""

    def __post_init__(self) -> None:
        if not self.shares and self.shares_file is None:
            raise ValueError("at least one of `shares` and `shares_file` is needed")

    def base(self, state_dir: Path) -> Path:
        """Return the directory of the mount points."""
        return Path(self.mount_base) if self.mount_base else state_dir / "mnt"

    def naming(self, extensions: tuple[str, ...]) -> Naming:
        """Return how files are named; those of these formats have an extension."""
        return Naming(mode=int(self.file_mode, 8), extensions=extensions)

    def defaults(self) -> Defaults:
        """Return what volumes are whose type does not ask."""
        return Defaults(format=self.format, provisioning=self.provisioning, clone=self.clone)

    def narrowed(self, lines: list[str]) -> Self:
        """Return the same for some of the shares alone."""
        return msgspec.structs.replace(self, shares=lines, shares_file=None)

    def parts(self, lines: Mapping[str, str], ping: Callable[[str], None]) -> Parts:
        """Part a back end into its shares, given the line of each by its address."""
        return Parts(
            pools=tuple(lines),
            narrow=lambda pools: self.narrowed([lines[pool] for pool in pools]),
            ping=ping,
            answer_timeout_s=self.answer_timeout_s,
            # A look may have to mount first, and starting the helper tried to.
            look_limit_s=2 * self.mount_timeout_s + self.answer_timeout_s + 5,
            silence_timeout_s=self.silence_timeout_s,
        )


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
