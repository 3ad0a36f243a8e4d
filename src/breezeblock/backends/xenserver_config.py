"""Settings of the `xenserver` back end."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from breezeblock.backends.clear_text import readable
from breezeblock.backends.local import AbsolutePath, PoolName
from breezeblock.errors import ConfigError
from breezeblock.xenapi import srkinds
from breezeblock.xenapi.session import Account
from breezeblock.xenapi.wire import Trust

Url = Annotated[str, Meta(pattern=r"^https?://[A-Za-z0-9._:\[\]-]+$", max_length=255)]
Cloning = Literal["linked", "full"]


class XenPool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[backends.NAME.pools.POOL]`: one SR."""

    sr: Annotated[str, Meta(min_length=1, max_length=255)]
    """Its uuid, or a name that no other SR of the pool has."""
    type: str
    """Its type, such as `nfs`; `breezeblock xenserver sr-types` lists them."""
    clone: Cloning = "linked"
    """`linked`: a clone shares what it can, and is refused where the SR cannot. `full`: copies it all."""
    device_config: dict[str, str] = {}
    """What `breezeblock xenserver sr create` and `introduce` tell the driver."""
    secret_files: dict[str, AbsolutePath] = {}
    """device_config key to a file that holds its secret; it is kept as a XenAPI secret."""

    def __post_init__(self) -> None:
        try:
            kind = srkinds.find(self.type)
            if self.device_config or self.secret_files:
                named = {f"{key}{srkinds.SECRET_SUFFIX}": "" for key in self.secret_files}
                srkinds.check_device_config(kind, {**self.device_config, **named}, "device_config")
        except ConfigError as error:
            raise ValueError(str(error)) from error


class XenServerConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="xenserver"
):
    """`[backends.NAME]` with `kind = "xenserver"`; docs/backends/xenserver.md explains each key."""

    url: Url
    """The pool's master, or any host of it."""
    more_hosts: list[Url] = []
    """Further hosts to ask for the master when that one does not answer at start."""
    username: Annotated[str, Meta(min_length=1, max_length=255)] = "root"
    password_file: AbsolutePath
    """File with the password and nothing else."""
    ca_file: AbsolutePath | None = None
    """Certificates that the hosts' are signed with."""
    certificate_sha256: Annotated[str, Meta(pattern=r"^[0-9A-Fa-f:, ]*$")] = ""
    """Fingerprints of the hosts' own certificates, with commas, in place of `ca_file`."""
    timeout_s: Annotated[float, Meta(ge=1, le=3600)] = 60.0
    """How long a host may take to answer one call."""
    connection_type: Literal["xenserver", "xensm"] = "xenserver"
    """`xensm`: the fields that OpenStack's old driver gave."""
    pools: Annotated[dict[PoolName, XenPool], Meta(min_length=1)]
    """Pool name to SR."""

    def __post_init__(self) -> None:
        for url in (self.url, *self.more_hosts):
            if readable(url):
                raise ValueError(f"{url}: without TLS the password would be readable; use https")
        if self.ca_file and self.certificate_sha256:
            raise ValueError("at most one of `ca_file` and `certificate_sha256` is needed")
        srs = [pool.sr for pool in self.pools.values()]
        if len(set(srs)) < len(srs):
            raise ValueError("`pools` names one SR twice; one SR is one pool")


def read_secret(path: str, what: str) -> str:
    """Return a file's only line. Raises ConfigError without showing it."""
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what}: {path} cannot be read: {error.__class__.__name__}.") from error
    secret = text.rstrip("\r\n")
    if not secret or "\n" in secret:
        raise ConfigError(f"{what}: {path} must hold one line.")
    return secret


def account(name: str, config: XenServerConfig) -> Account:
    """Return where to log in. Raises ConfigError for a password file that cannot be read."""
    return Account(
        urls=(config.url, *config.more_hosts),
        username=config.username,
        password=read_secret(config.password_file, f"backends.{name}.password_file"),
        trust=Trust(Path(config.ca_file) if config.ca_file else None, config.certificate_sha256),
        timeout_s=config.timeout_s,
    )
