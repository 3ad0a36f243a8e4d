"""The `smb` back end: shares of Windows servers, scale-out file servers, Samba and appliances as pools."""

import errno
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from breezeblock import vault
from breezeblock.backends.contract import Connection
from breezeblock.backends.file_options import Format
from breezeblock.backends.files import FileBackend
from breezeblock.backends.local import AbsolutePath
from breezeblock.backends.parts import Parts
from breezeblock.backends.shared import ShareConfig, SharePlaces, SharePool, Way
from breezeblock.errors import BreezeblockError, ConfigError, UnavailableError
from breezeblock.shares import login, mounts, ping, samba, sharelist, smb, windows
from breezeblock.shares.smb import SmbShare

EXTENSIONS = ("raw", "qcow2", "vhd", "vhdx")
"""Every volume has its format's: Windows goes by it."""
_GONE = frozenset({errno.ESTALE, errno.EACCES, errno.EAGAIN, errno.ENOENT, 126, 127, 128, 129})
"""Besides ESTALE: the session ended and the kernel could not log in again (EACCES, ENOKEY, EKEYEXPIRED,
EKEYREVOKED, EKEYREJECTED). It keeps the password of the first time; a new mount takes the present one.
EAGAIN: the share was taken away; Linux 6.1 does not find it again by itself when it is back, and 6.8 says
ENOENT."""


class SmbConfig(ShareConfig, frozen=True, kw_only=True, tag_field="kind", tag="smb"):
    """`[backends.NAME]` with `kind = "smb"`, shares `//SERVER/SHARE`; docs/backends/smb.md has each key."""

    format: Format = "vhdx"
    samba_config: AbsolutePath | None = None
    """The smb.conf of a Samba server on this very machine: its shares are reached by their directories."""
    allow_guest: bool = False
    """Let a share without a user be mounted as a guest, unsigned: anybody can then read and write it."""
    secrets_to_consumers: bool = False
    """Put the password into the connection that a host is told. Nova's libvirt driver needs it; it is then
    kept in clear with the attachment, and in Nova's own database."""

    def __post_init__(self) -> None:
        super().__post_init__()
        smb.check(self.mount_options, "`mount_options`")

    def __repr__(self) -> str:
        return f"SmbConfig({len(self.shares)} shares, {self.shares_file})"  # the list may hold passwords


@dataclass(frozen=True, slots=True)
class LocalWay:
    """A share of this very host's, by its directory."""

    point: Path

    def path(self) -> Path:
        """Return the directory. Raises UnavailableError if it is not there."""
        if not self.point.is_dir():
            raise UnavailableError(
                f"{self.point} is no directory, but the Samba configuration says a share is there.",
                remedy="Correct the configuration, or mount what belongs there.",
            )
        return self.point

    def let_go(self) -> None:
        """Do nothing: there is no other way."""


def open_smb(name: str, config: SmbConfig, state_dir: Path) -> FileBackend:
    """Return the back end, not started. Raises ConfigError for a share list that cannot be used."""
    shares = smb_shares(name, config)
    pools = {
        address: SharePool(_way(share, config, state_dir), config.answer_timeout_s, _GONE)
        for address, share in shares.items()
    }

    def connect(pool: str, file: str, image_format: str) -> Connection:
        return _connection(shares[pool], config, state_dir, file, image_format)

    places = SharePlaces(name, "smbfs", pools, connect)
    return FileBackend(name, places, config.naming(EXTENSIONS), config.defaults())


def local_directory(one: SmbShare, config: SmbConfig) -> Path | None:
    """Return the directory of a share that this very host serves, if the Samba configuration says so."""
    if config.samba_config is None:
        return None
    return samba.local_directory(one.share.address, Path(config.samba_config))


def _way(one: SmbShare, config: SmbConfig, state_dir: Path) -> Way:
    if (directory := local_directory(one, config)) is not None:
        return LocalWay(directory)
    if sys.platform == "win32":
        return windows.UncWay(
            one.share.address,
            lambda: _resolved(one, state_dir),
            privacy="seal" in in_force(one, config).split(","),
        )
    return mounted(one, config, state_dir)


def mounted(
    one: SmbShare, config: SmbConfig, state_dir: Path, base: Path | None = None, options: str = ""
) -> mounts.Mounted:
    """Return what mounts a share: as the back end does, or below `base` with more `options`."""
    return mounts.Mounted(
        sharelist.Share(one.share.address),
        base or config.base(state_dir),
        mounts.merged(in_force(one, config), options),
        config.mount_attempts,
        config.mount_timeout_s,
        client=smb.CIFS,
        credentials=None if one.login.anonymous else lambda: login.credentials(_resolved(one, state_dir)),
    )


def _resolved(one: SmbShare, state_dir: Path) -> login.Login:
    """Look the password up anew each time, so that a new one helps without a restart."""
    try:
        return login.resolved(one.login, vault.at(state_dir).get)
    except BreezeblockError as error:
        raise UnavailableError(
            f"The share {one.share.address} cannot be mounted: {error.message}", remedy=error.remedy
        ) from None


def in_force(one: SmbShare, config: SmbConfig) -> str:
    """Return all options that a share is mounted with but those that say who we are."""
    # Without POSIX extensions the server knows no modes: mount.cifs is told which ones to show.
    mode = int(config.file_mode, 8)
    shown = f"file_mode=0{mode:o},dir_mode=0{mode | (mode & 0o444) >> 2:o}"
    return smb.in_force(one, shown, config.mount_options)


def _connection(
    one: SmbShare, config: SmbConfig, state_dir: Path, file: str, image_format: str
) -> Connection:
    """Give what os-brick, Nova and Hyper-V hosts take for `smbfs`; they reach the share themselves."""
    data = {
        "export": one.share.address,
        "name": file,
        "format": image_format,
        "mount_point_base": str(config.base(state_dir)),
    }
    who = one.login
    if config.secrets_to_consumers and not who.anonymous:
        who = login.resolved(who, vault.at(state_dir).get)
    named = {"username": who.username, "domain": who.domain}
    if config.secrets_to_consumers:
        if re.search(r"[,\s]", who.password or ""):
            raise ConfigError(
                f"The password for the share {one.share.address} cannot be told to consumers: "
                "it holds a comma or a space, at which their mount options end.",
                remedy="Give the account another password; or mount the share on the hosts beforehand, "
                "with `secrets_to_consumers = false`.",
            )
        named["password"] = who.password or ""
    said = [f"{key}={value}" for key, value in named.items() if value]
    # QEMU locks bytes of its images; SMB's locks are mandatory, and would keep it from its own first sector.
    said.append(",".join(dict.fromkeys([*filter(None, one.share.options.split(",")), "nobrl"])))
    data["options"] = f"-o {','.join(said)}"
    return Connection(driver_volume_type="smbfs", data=data)


def smb_parts(name: str, config: SmbConfig) -> Parts | None:
    """Part the back end into its shares, if they are to be served apart. Raises ConfigError."""
    if not config.isolated:
        return None
    shares = smb_shares(name, config)

    def asked(pool: str) -> None:
        ping.smb(shares[pool].share, in_force(shares[pool], config))

    return config.parts({pool: smb.line(one) for pool, one in shares.items()}, asked)


def smb_shares(name: str, config: SmbConfig) -> Mapping[str, SmbShare]:
    """Return the shares of a back end's settings by address. Raises ConfigError for an unusable list."""
    lines = sharelist.inline_lines(config.shares, f"backends.{name}.shares")
    if config.shares_file:
        lines += sharelist.file_lines(Path(config.shares_file), smb.ADDRESSES)
    found = {}
    for share in sharelist.parse(lines, smb.ADDRESSES):
        one = smb.read(share)
        where = f"The share {share.address}"
        smb.check(one.share.options, where)
        smb.check_sense(in_force(one, config), one.login, where, allow_guest=config.allow_guest)
        found[share.address] = one
    if config.shares_file and any(one.login.password is not None for one in found.values()):
        login.require_private(Path(config.shares_file), f"The share list {config.shares_file}")
    if not found:
        raise ConfigError(
            f"Back end {name} has no share.", remedy=f"Add one, such as {smb.ADDRESSES.example}."
        )
    return found
