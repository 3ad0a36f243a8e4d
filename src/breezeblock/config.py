"""The configuration: one TOML file, then the environment, checked strictly before anything starts.

A variable `BREEZEBLOCK__SECTION__KEY` replaces that key of the file; its value is read as TOML, or as a
plain string where it is none. `[backends.NAME]` sections stay plain mappings here: their shape belongs
to the back end's kind (`backends.registry`), which reads them with the same `convert`.
"""

import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from breezeblock.errors import ConfigError

ENVIRONMENT_PREFIX = "BREEZEBLOCK__"
MAX_CONFIG_BYTES = 1 << 20

T = TypeVar("T")


class ServiceSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[service]`: what this deployment is called and where it keeps its own files."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = "breezeblock"
    """The `host` in `host@backend#pool`. The same on every machine of one deployment."""
    state_dir: Annotated[str, Meta(pattern=r"^/")] = "/var/lib/breezeblock"
    """Directory for mounts and locks."""
    availability_zone: Annotated[str, Meta(pattern=r"^[^\x00-\x1f]{1,255}$")] = "nova"
    """The one availability zone shown to clients; Nova's default is `nova`."""
    default_volume_type: Annotated[str, Meta(min_length=1, max_length=255)] = "__DEFAULT__"
    """The type of volumes that name none. It must exist."""


class ApiSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[api]`: the HTTP side."""

    host: str = "127.0.0.1"
    """Address to listen on. Put a TLS proxy in front before it is anything but loopback."""
    port: Annotated[int, Meta(ge=1, le=65535)] = 8776
    """Port to listen on; 8776 is Cinder's."""
    public_url: Annotated[str, Meta(pattern=r"^(https?://[^/]+(/.*)?)?$")] = ""
    """What clients call this service when a proxy stands in front; empty: the request's Host header."""
    max_body_bytes: Annotated[int, Meta(ge=1024, le=1 << 26)] = 114688
    """Largest request body; Cinder's limit."""
    max_limit: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    """Most items in one page of a list; Cinder's limit."""


class DatabaseSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[database]`: the catalog."""

    url: str = "sqlite:////var/lib/breezeblock/breezeblock.db"
    """`sqlite:////absolute/path.db` or `postgresql+psycopg://user@host/name`. A password in it is never
    logged; better, leave it to a `.pgpass` file."""


class AuthSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[auth]`: who may ask."""

    mode: Literal["builtin", "http_basic", "none"] = "builtin"
    """`builtin`: our own tokens at /identity/v3. `http_basic`: the same users by HTTP Basic. `none`: no
    check at all, accepted on loopback addresses only."""
    token_ttl_s: Annotated[int, Meta(ge=60, le=30 * 86400)] = 3600
    """Seconds until a token expires."""


class EngineSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[engine]`: how operations are worked off."""

    concurrency: Annotated[int, Meta(ge=1, le=256)] = 8
    """Operations at once in one worker."""
    poll_interval_s: Annotated[float, Meta(ge=0.01, le=60)] = 0.25
    """How often a worker looks for operations that another process queued."""
    executor_id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{0,128}$")] = ""
    """This worker's stable name; empty: the host's name. No two live workers may share one."""
    keep_finished_days: Annotated[int, Meta(ge=1, le=3650)] = 30
    """Finished operations and messages are forgotten after this many days."""
    stop_timeout_s: Annotated[float, Meta(ge=0, le=3600)] = 10.0
    """On SIGTERM, running operations get this long; what is not done by then resumes at the next start."""
    stats_interval_s: Annotated[float, Meta(ge=1, le=3600)] = 30.0
    """How often pools are looked at."""


class S3Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[images.s3]`: the S3 service that `s3://BUCKET/KEY` means."""

    endpoint: Annotated[str, Meta(pattern=r"^https?://[A-Za-z0-9._:\[\]-]+$", max_length=255)]
    """Its address without a path; buckets are named in the path."""
    region: Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,64}$")] = "us-east-1"
    """What requests are signed for."""
    credentials_file: Annotated[str, Meta(pattern=r"^/")]
    """File of two lines: the access key's id, and its secret. Read whenever it is needed."""
    buckets: tuple[Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")], ...]
    """Buckets that users may name. Everything in them is every user's to read and to replace."""


class ImagesSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[images]`: what volumes may be made from, and where they may be written to as images."""

    schemes: tuple[Literal["https", "http", "file", "s3"], ...] = ("https",)
    """Addresses that users may name. `file` needs `directories` too, `s3` the section `[images.s3]`."""
    directories: tuple[Annotated[str, Meta(pattern=r"^/")], ...] = ()
    """Directories of the worker's machine below which `file:` may read and write."""
    private_addresses: bool = False
    """Let `http` and `https` reach loopback, private and link-local addresses: every user then can make
    the worker ask them."""
    max_bytes: Annotated[int, Meta(ge=1)] = 1 << 40
    """Largest image."""
    timeout_s: Annotated[float, Meta(ge=1, le=3600)] = 30.0
    """Seconds without a byte after which a server counts as gone."""
    max_redirects: Annotated[int, Meta(ge=0, le=10)] = 3
    s3: S3Section | None = None
    """See `[images.s3]`; without it there is no `s3:`."""
    scratch_dir: Annotated[str, Meta(pattern=r"^(/.*)?$")] = ""
    """Where images are kept while they are converted; empty: `images` in service.state_dir."""


class QuotaSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[quota]`: what a project may have unless an administrator set something else; -1 = no limit."""

    volumes: Annotated[int, Meta(ge=-1)] = 1000
    snapshots: Annotated[int, Meta(ge=-1)] = 1000
    gigabytes: Annotated[int, Meta(ge=-1)] = 100_000
    """Sum of volumes and snapshots, in GiB of virtual bytes."""
    per_volume_gigabytes: Annotated[int, Meta(ge=-1)] = -1
    """Largest single volume, in GiB."""
    backups: Annotated[int, Meta(ge=-1)] = 10
    backup_gigabytes: Annotated[int, Meta(ge=-1)] = 1000
    groups: Annotated[int, Meta(ge=-1)] = 10


class LoggingSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[logging]`: structured logs on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"
    """`auto`: console on a terminal, JSON otherwise."""


class CdmiSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[cdmi]`: an object store of this machine's own, served by the worker on 127.0.0.1."""

    directory: Annotated[str, Meta(pattern=r"^(/.*)?$")] = ""
    """Where its objects are; empty: there is none."""
    port: Annotated[int, Meta(ge=1, le=65535)] = 8775
    """Port to listen on."""
    user: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = "breezeblock"
    """Who may come."""
    secret: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")] = "cdmi"  # noqa: S105 - a name
    """Name of that user's password in the vault."""
    certificate: Annotated[str, Meta(pattern=r"^(/.*)?$")] = ""
    """PEM file of a certificate and its key: serve TLS. Without it another user of this machine can listen in
    the service's place while that is stopped, and is told the password."""


class PoolPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys that every `[backends.NAME]` section takes, whatever its kind."""

    reserved_percentage: Annotated[int, Meta(ge=0, le=100)] = 0
    """Part of every pool that new volumes leave free."""
    max_over_subscription_ratio: Annotated[float, Meta(ge=1, le=1000)] = 20.0
    """How often a pool's bytes may be promised to thin volumes."""
    only_by_type: bool = False
    """Take only volumes whose type asks for this back end, by `volume_backend_name`, `pool_name` or
    `storage_protocol`."""
    when_down: Literal["wait", "fail"] = "wait"
    """What operations on a pool do while it is down. `wait`: they stay queued and go on by themselves when
    it is back. `fail`: they end in an error that says since when and why it is down."""
    used_ratio: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """Of how much of a pool may be in use before it takes no more volumes, thin ones included."""
    max_chain_depth: Annotated[int, Meta(ge=0, le=4096)] = 32
    """Through how many images a volume may be read. A snapshot that would pass it waits for the chain to be
    shortened, or is refused where nothing can be; a clone that would pass it is copied. 0 = no limit."""
    image_cache_images: Annotated[int, Meta(ge=0, le=10_000)] = 16
    """How many images a pool keeps, so that the next volume from one of them is a clone, made at once.
    0 = none."""
    image_cache_bytes: Annotated[int, Meta(ge=0)] = 256 << 30
    """How many virtual bytes those images may have. The one that was longest unused goes first; one that
    volumes rest on stays."""
    background_bytes_per_s: Annotated[int, Meta(ge=0)] = 50 << 20
    """How fast chains are shortened in the background; 0 = only on request."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration."""

    service: ServiceSection = ServiceSection()
    api: ApiSection = ApiSection()
    database: DatabaseSection = DatabaseSection()
    auth: AuthSection = AuthSection()
    engine: EngineSection = EngineSection()
    quota: QuotaSection = QuotaSection()
    images: ImagesSection = ImagesSection()
    logging: LoggingSection = LoggingSection()
    cdmi: CdmiSection = CdmiSection()
    backends: dict[Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")], dict[str, Any]] = {}

    def __post_init__(self) -> None:
        if self.auth.mode == "none" and self.api.host not in {"127.0.0.1", "::1", "localhost"}:
            raise ValueError(
                "auth.mode is 'none' but api.host is no loopback address; use 'builtin' or 127.0.0.1"
            )

    @property
    def executor_id(self) -> str:
        """Return this worker's stable name."""
        return self.engine.executor_id or socket.gethostname()


def load(path: Path | None, environment: Mapping[str, str]) -> Config:
    """Read the file (None: defaults only), lay the environment over it, and check all of it.

    Raises ConfigError naming file, key, value and what is allowed.
    """
    raw = _read(path) if path else {}
    where = str(path) if path else "the defaults"
    for variable, text in environment.items():
        if variable.startswith(ENVIRONMENT_PREFIX):
            keys = [part.lower() for part in variable.removeprefix(ENVIRONMENT_PREFIX).split("__")]
            if len(keys) < 2 or not all(keys):
                raise ConfigError(
                    f"environment variable {variable} names no key",
                    remedy=f"Use {ENVIRONMENT_PREFIX}SECTION__KEY.",
                )
            _replace(raw, keys, _value(text), variable)
            where = f"{where} and the environment"
    return convert(raw, Config, where)


def convert(raw: object, kind: type[T], where: str) -> T:
    """Turn plain data into a Struct, or raise ConfigError saying what is wrong in which place."""
    try:
        return msgspec.convert(raw, kind, strict=True)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$")
        key = place.rstrip("`").lstrip(".").replace("[...]", "")
        raise ConfigError(
            f"{where}: {key + ': ' if key else ''}{problem}{_got(raw, key)}",
            remedy=_allowed(kind, key, problem),
        ) from error


def split_policy(section: Mapping[str, Any], where: str) -> tuple[PoolPolicy, dict[str, Any]]:
    """Part a `[backends.NAME]` section into the policy keys and what its kind reads."""
    policy_keys = set(PoolPolicy.__struct_fields__)
    policy = convert({k: v for k, v in section.items() if k in policy_keys}, PoolPolicy, where)
    return policy, {k: v for k, v in section.items() if k not in policy_keys}


def _read(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}", remedy="Name a readable file with --config."
        ) from error
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path}: longer than {MAX_CONFIG_BYTES} bytes")
    try:
        return tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error


def _value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _replace(raw: dict[str, Any], keys: list[str], value: object, variable: str) -> None:
    for key in keys[:-1]:
        raw = raw.setdefault(key, {})
        if not isinstance(raw, dict):
            raise ConfigError(f"environment variable {variable}: {key!r} is a value, not a section")
    raw[keys[-1]] = value


def _got(raw: object, key: str) -> str:
    """Show the offending value, never one that may hold a secret."""
    for part in key.split(".") if key else []:
        if not isinstance(raw, Mapping) or part not in raw:
            return ""
        raw = raw[part]
    if (
        not key
        or isinstance(raw, Mapping | list)
        or any(word in key for word in ("url", "password", "shares"))
    ):
        return ""
    return f", got {raw!r}"


def _allowed(kind: type, key: str, problem: str) -> str:
    """Name what is allowed where the problem is an unknown key."""
    if "unknown field" not in problem:
        return "See docs/configuration.md."
    struct: Any = kind
    for part in key.split(".") if key else []:
        fields = {f.name: f.type for f in msgspec.structs.fields(struct)}
        struct = fields.get(part)
        if not (isinstance(struct, type) and issubclass(struct, msgspec.Struct)):
            return "See docs/configuration.md."
    return f"Known keys: {', '.join(struct.__struct_fields__)}."
