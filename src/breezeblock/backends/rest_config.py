"""Settings of the `rest` back end."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from breezeblock import vault
from breezeblock.backends.clear_text import readable
from breezeblock.backends.local import AbsolutePath, PoolName
from breezeblock.errors import ConfigError
from breezeblock.objects.log.format import PAGE, SEGMENT_PAGES
from breezeblock.objects.log.volumes import Memory
from breezeblock.objects.stores.opening import StoreConfig
from breezeblock.objects.stores.port import is_key

Url = Annotated[str, Meta(min_length=1, max_length=2048)]
SecretName = Annotated[str, Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,127})?$")]
SEGMENT_BYTES = SEGMENT_PAGES * PAGE
MAX_RUN_DIR = 48
"""Characters: a socket's path has at most 107 bytes, and ours have long names."""
SocketDirectory = Annotated[str, Meta(pattern=r"^/[^\x00-\x1f\x7f]*$", max_length=MAX_RUN_DIR)]
_IMPOSSIBLE = {
    ("flat", "s3"): "s3 writes no parts of objects, which the layout flat is made of; leave `layout` out",
    ("log", "webdav"): 'webdav lets two create one object, which the log cannot bear: layout = "flat"',
    ("log", "web"): 'the store web is only read: layout = "read-only"',
    ("flat", "web"): 'the store web is only read: layout = "read-only"',
    ("read-only", "directory"): "a directory of images is what the back end local is for",
}


class RestPool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[backends.NAME.pools.POOL]`: one object store, or a part of one."""

    store: Literal["cdmi", "s3", "azure", "webdav", "web", "directory"]
    """What it speaks; `web` is any HTTP server."""
    urls: Annotated[list[Url], Meta(min_length=1, max_length=64)]
    """Its endpoints, all of the same store. For `directory`: one absolute path."""
    layout: Literal["log", "flat", "read-only"] = "log"
    """`log`: immutable objects, with snapshots and linked clones; the store must create objects atomically.
    `flat`: a volume is one object; the store must write parts of objects. `read-only`: objects that somebody
    else keeps there are managed as volumes, and never written."""
    thin: bool = False
    """In the layout flat: each volume is a thin pool of LVM's, with snapshots. Needs root and device-mapper
    on the service's host and on those that use volumes."""
    images: Annotated[list[str], Meta(max_length=1000)] = []
    """Read-only: the objects that may be managed. Empty: all that the store lists, which `web` does not."""
    user: Annotated[str, Meta(max_length=255)] = ""
    """Who the service is to the store; for S3 the access key, for Azure the account."""
    secret: SecretName = ""
    """Name of the password, or secret key, in the vault: `breezeblock secret set NAME`."""
    credentials_file: AbsolutePath | None = None
    """In place of both: a file of user, password and, for S3, a session's token, a line each. It is read
    again when the store refuses what it said."""
    dialect: Literal["standard", "scality"] = "standard"
    """Of CDMI: how parts of objects are written."""
    region: Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,64}$")] = "us-east-1"
    """Of S3."""
    ca_file: AbsolutePath | None = None
    """Certificates to trust in place of the system's."""
    zstd_level: Annotated[int, Meta(ge=0, le=19)] = 0
    """How well what is written from now on is compressed, in the layout log; 0: not at all."""
    uuid: Annotated[str, Meta(pattern=r"^([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})?$")] = ""
    """The pool's identity, which every endpoint must show. Empty: the one that was found, or made, at the
    first start and is remembered in the state directory."""
    clone: Literal["linked", "full"] = "linked"
    """How volumes are made from others of the same pool, where their type does not say."""
    durability: Literal["local", "store"] = "local"
    """Where a guest's flush puts what was written, where the type does not say: into the journal on its
    host's disk, or into the store."""

    def __post_init__(self) -> None:
        if bool(self.user) != bool(self.secret):
            raise ValueError("`user` needs `secret`, and `secret` a `user`")
        if self.user and self.credentials_file:
            raise ValueError("at most one of `user` and `credentials_file` is needed")
        if self.store != "directory" and any(set("@?#") & set(url) for url in self.urls):
            raise ValueError("a URL has no user or password in it, and nothing after its path")
        named = self.user or self.credentials_file
        for url in self.urls if named and self.store in {"cdmi", "webdav", "web"} else ():
            if readable(url):
                raise ValueError(f"{url}: without TLS the password would be readable; use https")
        if self.store == "directory" and (len(self.urls) > 1 or not self.urls[0].startswith("/")):
            raise ValueError("a directory is one absolute path")
        if self.thin and (self.layout != "flat" or self.store == "azure"):
            raise ValueError('`thin` is for layout = "flat" in stores that take no snapshots themselves')
        if self.zstd_level and self.layout != "log":
            raise ValueError(f'`zstd_level` is for layout = "log"; volumes in {self.layout} are as they are')
        if (self.layout, self.store) in _IMPOSSIBLE:
            raise ValueError(_IMPOSSIBLE[self.layout, self.store])
        _check_images(self)


class RestConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="rest"
):
    """`[backends.NAME]` with `kind = "rest"`; docs/backends/rest.md explains each key."""

    pools: Annotated[dict[PoolName, RestPool], Meta(min_length=1)]
    """Pool name to store."""
    run_dir: SocketDirectory = "/run/breezeblock"
    """On hosts that use volumes: where their sockets are."""
    journal_dir: AbsolutePath = "/var/lib/breezeblock/journals"
    """On hosts that use volumes: where their journals are, best on a fast disk of its own."""
    cache_bytes: Annotated[int, Meta(ge=4 << 20, le=1 << 40)] = Memory().cache_bytes
    """On hosts that use volumes: memory for what was read, for each of them."""
    dirty_bytes: Annotated[int, Meta(ge=SEGMENT_BYTES, le=1 << 36)] = Memory().dirty_segments * SEGMENT_BYTES
    """The same, for what is not in the store yet; writers wait when it is full."""
    dirty_s: Annotated[float, Meta(gt=0, le=3600)] = Memory().age_s
    """After so long what was written goes into the store, however little."""
    collect_interval_s: Annotated[float, Meta(ge=0, le=30 * 86400)] = 3600.0
    """How often each pool is looked through for objects that nobody needs any more. What one look finds, the
    next one removes. 0 = never: `breezeblock rest collect` does it."""

    def __post_init__(self) -> None:
        places = [(pool.store, url.rstrip("/")) for pool in self.pools.values() for url in pool.urls]
        if len(set(places)) < len(places):
            raise ValueError("`pools` names one store twice; one store is one pool")


def store_config(pool: RestPool, uuid: str, state_dir: Path, *, wait: bool = False) -> StoreConfig:
    """Return where a pool is, its password looked up anew; with `wait`, a lost store is waited for.

    Raises ConfigError, NotFoundError for a secret that cannot be had.
    """
    return StoreConfig(
        kind=pool.store,
        urls=pool.urls,
        user=pool.user,
        password=vault.at(state_dir).get(pool.secret) if pool.secret else "",
        credentials_file=pool.credentials_file or "",
        dialect=pool.dialect,
        region=pool.region,
        ca_file=pool.ca_file or "",
        layout=pool.layout,
        pool=uuid,
        on_no_path="queue" if wait else "error",
    )


def _check_images(pool: RestPool) -> None:
    for name in pool.images:
        if not is_key(name):
            raise ValueError(f"{name[:80]!a} in `images` is no name of an object below the URL")
    if pool.images and not read_only(pool):
        raise ValueError('`images` is for layout = "read-only"')
    if read_only(pool) and len(pool.urls) > 1:
        raise ValueError("a read-only pool has one URL: nothing proves that two servers have the same")
    if pool.store == "web" and not pool.images:
        raise ValueError("the store web does not list its objects: name them in `images`")


def memory(config: RestConfig, pool: str) -> Memory:
    """Return what an open volume of a pool may use."""
    return Memory(
        cache_bytes=config.cache_bytes,
        dirty_segments=config.dirty_bytes // SEGMENT_BYTES,
        age_s=config.dirty_s,
        zstd_level=config.pools[pool].zstd_level,
    )


def durability(pool: RestPool) -> str:
    """Return where a flush puts what was written, where a volume's type does not say."""
    return pool.durability if pool.layout == "log" else "store"


def read_only(pool: RestPool) -> bool:
    """Tell whether nothing is ever written into a pool."""
    return pool.layout == "read-only"


def find_pool(name: str, config: RestConfig, pool: str) -> RestPool:
    """Return a pool's settings. Raises ConfigError."""
    if pool not in config.pools:
        raise ConfigError(
            f"Back end {name} has no pool {pool}; its pools are {', '.join(config.pools)}.",
            remedy="Put the pool back into the configuration; its volumes cannot be reached without it.",
        )
    return config.pools[pool]
