"""From a pool's settings to its store."""

import asyncio
import random
import ssl
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from breezeblock.errors import (
    BreezeblockError,
    ConfigError,
    ConflictError,
    ForbiddenError,
    UnavailableError,
)
from breezeblock.objects import pool
from breezeblock.objects.mirrors import BlobMirrors, Gate, Mirrors, Policy, SizedMirrors
from breezeblock.objects.stores import credentials
from breezeblock.objects.stores.azure import AzureStore
from breezeblock.objects.stores.cdmi import CdmiStore
from breezeblock.objects.stores.directory import DirectoryStore
from breezeblock.objects.stores.port import Store
from breezeblock.objects.stores.s3 import S3Store
from breezeblock.objects.stores.sigv4 import Credentials
from breezeblock.objects.stores.web import WebStore
from breezeblock.objects.stores.webdav import WebDavStore

_ON_DISK = Policy(attempt_s=120, deadline_s=600)
"""What a thread has begun cannot be called back: it is waited for longer than a connection would be."""
_KINDS = {"cdmi": SizedMirrors, "directory": SizedMirrors, "azure": BlobMirrors}


class StoreConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where a pool's objects are, and as whom to ask for them. It travels as JSON, secrets included."""

    kind: Literal["cdmi", "s3", "azure", "webdav", "web", "directory"]
    urls: list[str]
    """Endpoints of one and the same store. For `directory`: one path, or `file://` URL."""
    user: str = ""
    """For S3 the access key; empty: the usual environment variables. For Azure the account."""
    password: str = ""
    """For S3 the secret key, for Azure the account's key in Base64."""
    token: str = ""
    """For S3 a session's token."""
    credentials_file: str = ""
    """In place of the three: a file with user, password and, for S3, token, a line each. It is read again
    when the store refuses them."""
    dialect: Literal["standard", "scality"] = "standard"
    """Of CDMI's ranges."""
    region: str = "us-east-1"
    ca_file: str = ""
    """Certificates to trust in place of the system's."""
    layout: Literal["log", "flat", "read-only"] = "log"
    """`read-only`: nothing is written there, not even who it is."""
    pool: str = ""
    """The pool's UUID, which every endpoint must show; empty: the one that the first endpoint shows."""
    on_no_path: Literal["queue", "error"] = "queue"
    """When no endpoint is left: wait for one, or fail."""

    def __repr__(self) -> str:
        """Leave the secrets out: configurations reach logs."""
        return f"StoreConfig(kind={self.kind!r}, urls={self.urls!r}, user={self.user!r}, pool={self.pool!r})"


async def open_store(
    config: StoreConfig, *, policy: Policy | None = None, dice: random.Random | None = None
) -> Mirrors:
    """Return the pool's store: all its endpoints, of which at least one has passed.

    Each shows the pool's identity and is probed before it is used. Raises ConflictError for a place that is
    not the pool (`make_pool` makes one), UnavailableError, ForbiddenError, UnsupportedError.
    """
    if policy is None:
        policy = _ON_DISK if config.kind == "directory" else Policy()
        policy = msgspec.structs.replace(policy, on_no_path=config.on_no_path)
    uuid = config.pool
    if not (uuid or _bare(config)):
        found, _ = await _identity(config, policy)
        if found is None:
            raise ConflictError(f"{config.urls[0]} shows no pool.", remedy="Make it first, if it is new.")
        uuid = found.uuid
    leases: dict[str, str] = {}
    store = _KINDS.get(config.kind, Mirrors)(
        config.urls,
        lambda url: endpoint(config, url, leases),
        _gate(config, uuid),
        pool=uuid,
        policy=policy,
        dice=dice,
    )
    try:
        await store.open()
    except BaseException:
        await store.close()
        raise
    return store


async def make_pool(config: StoreConfig) -> pool.Identity:
    """Make the pool in its store, or return the identity of the one that is there.

    For the first use, when `config.pool` is not known yet: keep the UUID that comes back. Endpoints are
    probed here, so that nobody has to wait for it later. Raises UnsupportedError if the store cannot hold
    the layout, ConflictError if it has another pool.
    """
    found, url = await _identity(config, Policy())
    if found is None:
        if config.pool:
            raise ConflictError(f"{url} shows no pool {config.pool}.")
        store = endpoint(config, url)
        try:
            found = await pool.make(store, url, config.layout)
        finally:
            await store.close()
    if config.pool and found.uuid != config.pool:
        raise ConflictError(f"{url} shows the pool {found.uuid} instead of {config.pool}.")
    if found.layout != config.layout:
        raise ConflictError(f"The pool {found.uuid} has the layout {found.layout}, not {config.layout}.")
    store = await open_store(msgspec.structs.replace(config, pool=found.uuid))
    try:
        await store.settled()
    finally:
        await store.close()
    return found


async def _identity(config: StoreConfig, policy: Policy) -> tuple[pool.Identity | None, str]:
    """Return what the endpoints show that can be reached, and one of these.

    Raises ConflictError if they do not all show the same.
    """

    async def ask(url: str) -> pool.Identity | None:
        store = endpoint(config, url)
        try:
            async with asyncio.timeout(policy.attempt_s):
                return await pool.shown(store)
        except TimeoutError:
            raise UnavailableError(f"{url} did not answer within {policy.attempt_s:g} s.") from None
        finally:
            await store.close()

    answers = await asyncio.gather(*map(ask, config.urls), return_exceptions=True)
    seen: dict[pool.Identity | None, str] = {}
    for url, answer in zip(config.urls, answers, strict=True):
        if not isinstance(answer, BaseException):
            seen.setdefault(answer, url)
        elif not isinstance(answer, UnavailableError):
            raise answer
    if len(seen) > 1:
        raise ConflictError(
            "; ".join(f"{url} shows {one.uuid if one else 'no pool'}" for one, url in seen.items()) + ".",
            remedy="All endpoints of a pool lead to one store: remove those that do not.",
        )
    for answer in answers:
        if isinstance(answer, BaseException) and not seen:
            raise answer
    return next(iter(seen.items()))


def _bare(config: StoreConfig) -> bool:
    """Tell whether a place shows no identity, as nothing is written there."""
    return config.kind == "web" or config.layout == "read-only"


async def _answers(store: Store) -> None:
    """Raise UnavailableError if nobody is there: whoever has no identity still says something."""
    try:
        await store.head(pool.KEY)
    except BreezeblockError as error:
        if not error.permanent:
            raise


def _gate(config: StoreConfig, uuid: str) -> Gate:
    async def prove(store: Store) -> None:
        if _bare(config):
            await _answers(store)
        else:
            await pool.prove(store, uuid, config.layout)

    async def qualify(store: Store, url: str) -> None:
        if not _bare(config):
            await pool.qualify(store, url, config.layout)

    return Gate(prove, qualify)


def endpoint(config: StoreConfig, url: str, leases: dict[str, str] | None = None) -> Store:
    """Return the store as seen through one of its endpoints, which share their leases. Raises ConfigError."""
    context = _trusting(config.ca_file) if config.ca_file else None
    held = _login(config)
    login = {"user": held.access_key, "password": held.secret_key}
    match config.kind:
        case "cdmi":
            return CdmiStore(url, dialect=config.dialect, context=context, **login)
        case "azure":
            return AzureStore(url, leases=leases, context=context, **login)
        case "webdav":
            return WebDavStore(url, context=context, **login)
        case "web":
            return WebStore(url, context=context, **login)
        case "s3":
            find = (lambda: held) if held.access_key else credentials.found
            return S3Store(url, region=config.region, credentials=find, context=context)
        case "directory":
            return DirectoryStore(_directory(url))


def _login(config: StoreConfig) -> Credentials:
    """Return the credentials; those of a file as it is now."""
    if not config.credentials_file:
        return Credentials(config.user, config.password, config.token)
    try:
        lines = Path(config.credentials_file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        text = f"The credentials in {config.credentials_file} cannot be read: {error}."
        raise ForbiddenError(text) from error
    user, password, token = [*lines, "", "", ""][:3]
    return Credentials(user, password, token)


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
