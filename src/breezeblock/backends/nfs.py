"""The `nfs` back end: NFS exports as pools, kept mounted."""

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from breezeblock.backends.contract import Connection
from breezeblock.backends.file_options import EXTENSIONS, Cloning, Defaults, Format, Provisioning
from breezeblock.backends.files import FileBackend
from breezeblock.backends.local import AbsolutePath, FileMode
from breezeblock.backends.parts import Parts
from breezeblock.chains import Naming
from breezeblock.errors import ConfigError, UnavailableError
from breezeblock.shares import mounts, ping, sharelist
from breezeblock.shares.space import Look, Space


class NfsConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="nfs"
):
    """`[backends.NAME]` with `kind = "nfs"`; docs/backends/nfs.md explains each key."""

    shares: list[str] = []
    """`HOST:/EXPORT [-o OPTIONS]` each, as in the file."""
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
        sharelist.check_options(self.mount_options)
        mounts.check_usable(self.mount_options, "`mount_options`")


@dataclass(frozen=True, slots=True)
class NfsPool:
    """One share."""

    mounted: mounts.Mounted
    answer_timeout_s: float
    look: Look = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "look", Look(self.mounted.point))

    def space(self) -> Space:
        """Mount the share if need be, and ask it for its room."""
        self.mounted.path()
        try:
            return self.look.space(self.answer_timeout_s)
        except UnavailableError as error:
            if not (isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ESTALE):
                raise
            self.mounted.let_go()
            self.mounted.path()
            return self.look.space(self.answer_timeout_s)


@dataclass(frozen=True, slots=True)
class NfsPlaces:
    """Shares, each a pool named by its address, mounted when they are needed and not mounted."""

    backend: str
    shares: Mapping[str, NfsPool]
    protocol: str = "nfs"

    def pools(self) -> tuple[str, ...]:
        """Return the shares' addresses."""
        return tuple(self.shares)

    def start(self, pool: str) -> None:
        """Mount the share."""
        self._share(pool).mounted.path()

    def directory(self, pool: str) -> Path:
        """Return the mount point of a share that is mounted and answers."""
        share = self._share(pool)
        share.space()
        return share.mounted.point

    def space(self, pool: str) -> Space:
        """Look at the room."""
        return self._share(pool).space()

    def locator(self, pool: str) -> str:
        """Return the address: Cinder's `provider_location`."""
        return pool

    def connection(self, pool: str, name: str, image_format: str) -> Connection:
        """Give what os-brick and Nova take for `nfs`; they mount the share themselves."""
        share = self._share(pool).mounted
        data = {
            "export": share.share.address,
            "name": name,
            "format": image_format,
            "mount_point_base": str(share.point.parent),
        }
        if share.share.options:
            data["options"] = f"-o {share.share.options}"
        return Connection(driver_volume_type="nfs", data=data)

    def _share(self, pool: str) -> NfsPool:
        if pool not in self.shares:
            raise ConfigError(
                f"Back end {self.backend} has no share {pool}; its shares are {', '.join(self.shares)}.",
                remedy="Put the share back into its list; its volumes cannot be reached without it.",
            )
        return self.shares[pool]


def open_nfs(name: str, config: NfsConfig, state_dir: Path) -> FileBackend:
    """Return the back end, not started. Raises ConfigError for a share list that cannot be used."""
    base = Path(config.mount_base) if config.mount_base else state_dir / "mnt"
    options = mounts.merged(mounts.DEFAULT_OPTIONS, config.mount_options)
    pools = {
        share.address: NfsPool(
            mounts.Mounted(share, base, options, config.mount_attempts, config.mount_timeout_s),
            config.answer_timeout_s,
        )
        for share in nfs_shares(name, config)
    }
    places = NfsPlaces(name, pools)
    naming = Naming(mode=int(config.file_mode, 8), extensions=EXTENSIONS)
    defaults = Defaults(format=config.format, provisioning=config.provisioning, clone=config.clone)
    return FileBackend(name, places, naming, defaults)


def nfs_parts(name: str, config: NfsConfig) -> Parts | None:
    """Part the back end into its shares, if they are to be served apart. Raises ConfigError."""
    if not config.isolated:
        return None
    shares = {share.address: share for share in nfs_shares(name, config)}

    def narrow(pools: tuple[str, ...]) -> NfsConfig:
        lines = [sharelist.line(shares[pool]) for pool in pools]
        return msgspec.structs.replace(config, shares=lines, shares_file=None)

    return Parts(
        pools=tuple(shares),
        narrow=narrow,
        ping=lambda pool: ping.nfs(shares[pool], mounts.merged(config.mount_options, shares[pool].options)),
        answer_timeout_s=config.answer_timeout_s,
        # A look may have to mount first, and starting the helper tried to.
        look_limit_s=2 * config.mount_timeout_s + config.answer_timeout_s + 5,
        silence_timeout_s=config.silence_timeout_s,
    )


def nfs_shares(name: str, config: NfsConfig) -> tuple[sharelist.Share, ...]:
    """Return the shares of a back end's settings. Raises ConfigError for a list that cannot be used."""
    lines = sharelist.inline_lines(config.shares, f"backends.{name}.shares")
    if config.shares_file:
        lines += sharelist.file_lines(Path(config.shares_file), sharelist.NFS)
    shares = sharelist.parse(lines, sharelist.NFS)
    if not shares:
        raise ConfigError(
            f"Back end {name} has no share.", remedy=f"Add one, such as {sharelist.NFS.example}."
        )
    for share in shares:
        mounts.check_usable(share.options, f"The share {share.address}")
    return shares
