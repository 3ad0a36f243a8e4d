"""From a pool's settings to its store."""

import ssl
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from breezeblock.errors import ConfigError
from breezeblock.objects import pool
from breezeblock.objects.stores import s3
from breezeblock.objects.stores.cdmi import CdmiStore
from breezeblock.objects.stores.directory import DirectoryStore
from breezeblock.objects.stores.port import Store
from breezeblock.objects.stores.s3 import S3Store
from breezeblock.objects.stores.sigv4 import Credentials
from breezeblock.objects.stores.web import WebStore
from breezeblock.objects.stores.webdav import WebDavStore


class StoreConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where a pool's objects are, and as whom to ask for them. It travels as JSON, secrets included."""

    kind: Literal["cdmi", "s3", "webdav", "web", "directory"]
    urls: list[str]
    """Endpoints of one and the same store. For `directory`: one path, or `file://` URL."""
    user: str = ""
    """For S3 the access key; empty: the usual environment variables."""
    password: str = ""
    """For S3 the secret key."""
    token: str = ""
    """For S3 a session's token."""
    dialect: Literal["standard", "scality"] = "standard"
    """Of CDMI's ranges."""
    region: str = "us-east-1"
    ca_file: str = ""
    """Certificates to trust in place of the system's."""
    layout: Literal["log", "flat"] = "log"
    pool: str = ""
    """The pool's UUID, which every endpoint must show; empty: the one that the first endpoint shows."""
    on_no_path: Literal["queue", "error"] = "queue"
    """When no endpoint is left: wait for one, or fail."""

    def __repr__(self) -> str:
        """Leave the secrets out: configurations reach logs."""
        return f"StoreConfig(kind={self.kind!r}, urls={self.urls!r}, user={self.user!r}, pool={self.pool!r})"


async def open_store(config: StoreConfig) -> Store:
    """Return the pool's store; each endpoint has shown the pool's identity, and was probed.

    Raises ConflictError for a place that is not the pool (`make_pool` makes one), UnavailableError.
    """
    store = endpoint(config, config.urls[0])
    try:
        if store.traits.writable:
            found = await pool.prove(store, config.pool)
            await pool.probed(store, config.urls[0], found.layout)
    except BaseException:
        await store.close()
        raise
    return store


async def make_pool(config: StoreConfig) -> pool.Identity:
    """Make the pool in its store, or return the identity of the one that is there.

    For the first use, when `config.pool` is not known yet: keep the UUID that comes back. Raises
    UnsupportedError if the store cannot hold the layout, ConflictError if it has another pool.
    """
    store = endpoint(config, config.urls[0])
    try:
        if config.pool:
            return await pool.prove(store, config.pool)
        return await pool.make(store, config.urls[0], config.layout)
    finally:
        await store.close()


def endpoint(config: StoreConfig, url: str) -> Store:
    """Return the store as seen through one of its endpoints. Raises ConfigError."""
    context = _trusting(config.ca_file) if config.ca_file else None
    login = {"user": config.user, "password": config.password}
    match config.kind:
        case "cdmi":
            return CdmiStore(url, dialect=config.dialect, context=context, **login)
        case "webdav":
            return WebDavStore(url, context=context, **login)
        case "web":
            return WebStore(url, context=context, **login)
        case "s3":
            held = Credentials(config.user, config.password, config.token)
            find = (lambda: held) if config.user else s3.from_environment
            return S3Store(url, region=config.region, credentials=find, context=context)
        case "directory":
            return DirectoryStore(_directory(url))


def _directory(url: str) -> Path:
    path = Path(urlsplit(url).path if url.startswith("file://") else url)
    if not path.is_absolute():
        raise ConfigError(f"{url!r} is no absolute path of a directory.")
    return path


def _trusting(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"The certificates in {ca_file} cannot be used: {error}.") from error
