"""The `nfs` back end: NFS exports as pools, kept mounted."""

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from breezeblock.backends.contract import Connection
from breezeblock.backends.file_options import EXTENSIONS, Cloning, Defaults, Format, Provisioning
from breezeblock.backends.files import FileBackend
from breezeblock.backends.local import AbsolutePath, FileMode
from breezeblock.backends.parts import Parts
from breezeblock.backends.shared import SharePlaces, SharePool
from breezeblock.chains import Naming
from breezeblock.errors import ConfigError
from breezeblock.shares import mounts, ping, sharelist


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


def open_nfs(name: str, config: NfsConfig, state_dir: Path) -> FileBackend:
    """Return the back end, not started. Raises ConfigError for a share list that cannot be used."""
    base = Path(config.mount_base) if config.mount_base else state_dir / "mnt"
    options = mounts.merged(mounts.DEFAULT_OPTIONS, config.mount_options)
    shares = {share.address: share for share in nfs_shares(name, config)}
    pools = {
        address: SharePool(
            mounts.Mounted(share, base, options, config.mount_attempts, config.mount_timeout_s),
            config.answer_timeout_s,
        )
        for address, share in shares.items()
    }

    def connect(pool: str, file: str, image_format: str) -> Connection:
        """Give what os-brick and Nova take for `nfs`; they mount the share themselves."""
        data = {
            "export": pool,
            "name": file,
            "format": image_format,
            "mount_point_base": str(pools[pool].way.point.parent),
        }
        if shares[pool].options:
            data["options"] = f"-o {shares[pool].options}"
        return Connection(driver_volume_type="nfs", data=data)

    places = SharePlaces(name, "nfs", pools, connect)
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
