"""The `nfs` back end: NFS exports as pools, kept mounted."""

from pathlib import Path

from breezeblock.backends.contract import Connection
from breezeblock.backends.file_options import EXTENSIONS
from breezeblock.backends.files import FileBackend
from breezeblock.backends.parts import Parts
from breezeblock.backends.shared import ShareConfig, SharePlaces, SharePool
from breezeblock.errors import ConfigError
from breezeblock.shares import mounts, ping, sharelist


class NfsConfig(ShareConfig, frozen=True, kw_only=True, tag_field="kind", tag="nfs"):
    """`[backends.NAME]` with `kind = "nfs"`, shares `HOST:/EXPORT`; docs/backends/nfs.md has each key."""

    def __post_init__(self) -> None:
        super().__post_init__()
        sharelist.check_options(self.mount_options)
        mounts.check_usable(self.mount_options, "`mount_options`")


def open_nfs(name: str, config: NfsConfig, state_dir: Path) -> FileBackend:
    """Return the back end, not started. Raises ConfigError for a share list that cannot be used."""
    base = config.base(state_dir)
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
    return FileBackend(name, places, config.naming(EXTENSIONS), config.defaults())


def nfs_parts(name: str, config: NfsConfig) -> Parts | None:
    """Part the back end into its shares, if they are to be served apart. Raises ConfigError."""
    if not config.isolated:
        return None
    shares = {share.address: share for share in nfs_shares(name, config)}

    def asked(pool: str) -> None:
        ping.nfs(shares[pool], mounts.merged(config.mount_options, shares[pool].options))

    return config.parts({pool: sharelist.line(share) for pool, share in shares.items()}, asked)


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
