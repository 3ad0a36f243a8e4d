"""The first start: everything a service needs in one directory, and what to try next.

Each thing is made only where it is absent, by writing a temporary file and renaming it, so that a start
that was killed half-way is completed by the next one and nobody's changes are lost. The passwords are
written to clouds.yaml before the users exist: whoever comes second takes them from there.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import socket
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import sqlalchemy as sa

from breezeblock import config as configuration
from breezeblock import vault
from breezeblock.app import compose, gateway
from breezeblock.backends.rest_config import MAX_RUN_DIR
from breezeblock.catalog import types
from breezeblock.catalog.clock import new_id
from breezeblock.catalog.database import Database
from breezeblock.config import Config
from breezeblock.engine.lease import Lease
from breezeblock.errors import ConfigError
from breezeblock.identity import users

HOST = "127.0.0.1"
STOPPING_S = 5.0
"""How long another service in the directory may take to end before it counts as running."""
STORE = "rest"
"""The object store's back end, pool, volume type, user and secret."""
CERTIFICATE = "store.pem"
"""The object store's certificate and key. Clients trust nothing else: whoever listens on its port while it is
stopped is told no password."""
ACCOUNTS = {
    # cloud: (user = project, roles)
    "breezeblock": ("demo", ("member",)),
    "breezeblock-admin": ("admin", ("admin",)),
}


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """A directory that a service can start from."""

    data: Path
    config: Config
    notes: list[str]
    """What was done or has to be known, a line each."""

    @property
    def clouds(self) -> Path:
        """The clients' file."""
        return self.data / "clouds.yaml"


def prepare(data: Path, port: int) -> Ready:
    """Make what is missing in `data`, and let the service listen on `port`.

    Raises ConfigError for a directory or file that cannot be used.
    """
    data = _directory(data)
    with _alone(data):
        return _prepare(data, port)


def _prepare(data: Path, port: int) -> Ready:
    notes: list[str] = []
    file = data / "breezeblock.toml"
    if not file.exists():
        _write(file, _configuration(data, port), 0o600)
        notes.append(f"Wrote {file}.")
    _set_port(file, port, notes)
    config = configuration.load(file, os.environ)
    clouds = data / "clouds.yaml"
    url = f"http://{HOST}:{config.api.port}/identity"
    database = compose.open_database(config)
    try:
        known = {user.name for user in users.list_users(database)}
        if not clouds.exists():
            _write(clouds, _clouds(url, known), 0o600)
            notes.append(f"Wrote {clouds}.")
            notes += _without_password(file, known)
        _set_url(clouds, url, notes)
        _make_store(data, config, notes)
        if not known:
            _make_type(database, config)
        _make_users(database, clouds, known, notes)
    finally:
        database.dispose()
    return Ready(data=data, config=config, notes=notes)


def story(ready: Ready) -> list[str]:
    """Return the lines that tell where things are and the three commands to try next."""
    call = f"OS_CLIENT_CONFIG_FILE={shlex.quote(str(ready.clouds))} {_client()} --os-cloud breezeblock"
    return [
        *ready.notes,
        f"Breezeblock answers at http://{ready.config.api.host}:{ready.config.api.port}. Ctrl-C stops it.",
        f"Its files are in {ready.data}.",
        "Try next, in another terminal:",
        f"  {call} volume create --size 1 a",
        f"  {call} volume snapshot create --volume a s",
        f"  {call} volume list --long",
    ]


def _directory(data: Path) -> Path:
    data = data.absolute()
    if not str(data).isprintable():
        raise ConfigError(
            f"the directory's name {str(data)!r} has control characters", remedy="Choose another."
        )
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("pool", "objects"):
            (data / name).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{data} cannot be made: {error.strerror}", remedy="Choose another directory with --data."
        ) from error
    return data


@contextlib.contextmanager
def _alone(data: Path) -> Iterator[None]:
    """Let two first starts in one directory wait for each other: both would make up passwords."""
    descriptor = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _configuration(data: Path, port: int) -> str:
    url = sa.URL.create("sqlite", database=str(data / "breezeblock.db")).render_as_string()
    store = _free_port(port + 1)
    return f"""\
# Written by `breezeblock quickstart`, which leaves your changes alone. docs/configuration.md has every key.
[service]
state_dir = {_quoted(str(data / "state"))}

[api]
host = "{HOST}"
port = {port}

[database]
url = {_quoted(url)}

[backends.local]
kind = "local"
path = {_quoted(str(data / "pool"))}

# An object store of this machine's own, and a back end that keeps volumes in it: the volume type `rest`.
[cdmi]
directory = {_quoted(str(data / "objects"))}
port = {store}
user = "{STORE}"
secret = "{STORE}"
certificate = {_quoted(str(data / CERTIFICATE))}

[backends.{STORE}]
kind = "rest"
only_by_type = true
run_dir = {_quoted(_run_dir(data))}
journal_dir = {_quoted(str(data / "journals"))}

[backends.{STORE}.pools.{STORE}]
store = "cdmi"
urls = ["https://{HOST}:{store}/{STORE}"]
ca_file = {_quoted(str(data / CERTIFICATE))}
user = "{STORE}"
secret = "{STORE}"
"""


def _run_dir(data: Path) -> str:
    """Return where volumes' sockets are: in the directory, if its name is not too long for that."""
    own = str(data / "run")
    if len(own) <= MAX_RUN_DIR:
        return own
    mine = "/run" if os.geteuid() == 0 else f"/run/user/{os.geteuid()}"
    place = mine if os.access(mine, os.W_OK) else "/tmp"  # noqa: S108 - who serves there looks whose it is
    return f"{place}/breezeblock-{hashlib.sha256(own.encode()).hexdigest()[:12]}"


def _free_port(wanted: int) -> int:
    """Return a port that nobody listens on now, the wanted one if that is free."""
    for port in (wanted, 0):
        with socket.socket() as listener:
            try:
                listener.bind((HOST, port))
            except (OSError, OverflowError):
                continue
            return int(listener.getsockname()[1])
    return wanted


def _make_store(data: Path, config: Config, notes: list[str]) -> None:
    """Make a password and a certificate for our object store, if the configuration has it and they lack."""
    if config.cdmi.directory != str(data / "objects"):
        return
    certificate = data / CERTIFICATE
    if config.cdmi.certificate == str(certificate) and not certificate.exists():
        _write(certificate, gateway.certificate(), 0o600)
    secrets = vault.at(Path(config.service.state_dir))
    if config.cdmi.secret not in secrets.names():
        secrets.set(config.cdmi.secret, users.generate_password())
        notes.append(f"Made a password for the object store in {config.cdmi.directory}.")


def _make_type(database: Database, config: Config) -> None:
    """Make the volume type of the object store: once, before the first users are there."""
    if STORE not in config.backends:
        return
    with database.write() as connection:
        if types.find(connection, STORE) is None:
            types.insert(
                connection,
                new_id(),
                name=STORE,
                description="Volumes in the object store",
                is_public=True,
                extra_specs=json.dumps({"volume_backend_name": STORE}),
            )


def _set_port(file: Path, port: int, notes: list[str]) -> None:
    """Change the one line of the configuration that says the port, if it says another one."""
    text = _read(file)
    try:
        found = tomllib.loads(text).get("api", {}).get("port", configuration.ApiSection().port)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not TOML: {error}", remedy="Correct the file.") from error
    if found == port:
        return
    changed = re.sub(r"(?ms)(^\[api\][^\[]*?^port\s*=\s*)\d+", rf"\g<1>{port}", text, count=1)
    if tomllib.loads(changed).get("api", {}).get("port") != port:
        raise ConfigError(
            f"{file}: api.port is {found}, but port {port} was asked for",
            remedy=f"Write `port = {port}` under [api] there, or start with --port {found}.",
        )
    with _nobody_running(configuration.load(file, os.environ)):
        _write(file, changed, 0o600)
    notes.append(f"Changed the port in {file} from {found} to {port}.")


@contextlib.contextmanager
def _nobody_running(config: Config) -> Iterator[None]:
    """Keep a service from starting meanwhile; raise UnavailableError if one is running."""
    database = Database(config.database.url)
    lease = Lease(database, config.executor_id)
    try:
        lease.acquire(STOPPING_S)
        yield
    finally:
        lease.release()
        database.dispose()


def _clouds(url: str, known: set[str]) -> str:
    """Return clouds.yaml; users that exist already have no password in it: only they know it."""
    entries = []
    for cloud, (name, _roles) in ACCOUNTS.items():
        password = "" if name in known else f"      password: {_quoted(users.generate_password())}\n"
        entries.append(
            f"  {cloud}:\n"
            "    auth_type: password\n"
            "    auth:\n"
            f"      auth_url: {_quoted(url)}\n"
            f"      username: {name}\n"
            f"{password}"
            f"      project_name: {name}\n"
            "      user_domain_name: Default\n"
            "      project_domain_name: Default\n"
            "    identity_api_version: 3\n"
            "    volume_api_version: 3\n"
        )
    return "clouds:\n" + "".join(entries)


def _without_password(file: Path, known: set[str]) -> list[str]:
    names = sorted(known & {name for name, _roles in ACCOUNTS.values()})
    return [
        f"{name} has a password that only you know: add it to clouds.yaml, or set a new one with "
        f"`breezeblock user password {name} --config {shlex.quote(str(file))}`."
        for name in names
    ]


def _entries(clouds: Path) -> dict[str, dict[str, object]]:
    """Return the `auth` part of our clouds, empty where a cloud or the part is not there."""
    try:
        document = msgspec.yaml.decode(_read(clouds), type=dict[str, object])
    except msgspec.DecodeError:
        raise ConfigError(
            f"{clouds} is not YAML", remedy="Correct it, or remove it to have a new one written."
        ) from None
    found = document.get("clouds")
    every = found if isinstance(found, dict) else {}
    parts = {}
    for cloud in ACCOUNTS:
        entry = every.get(cloud)
        auth = entry.get("auth") if isinstance(entry, dict) else None
        parts[cloud] = auth if isinstance(auth, dict) else {}
    return parts


def _set_url(clouds: Path, url: str, notes: list[str]) -> None:
    """Point our clouds at the service, where they point at this machine's loopback with another port."""
    text = changed = _read(clouds)
    for auth in _entries(clouds).values():
        found = str(auth.get("auth_url", url))
        if found != url and found.startswith(f"http://{HOST}:"):
            changed = changed.replace(found, url)
    if changed != text:
        _write(clouds, changed, 0o600)
        notes.append(f"Changed auth_url in {clouds} to {url}.")


def _make_users(database: Database, clouds: Path, known: set[str], notes: list[str]) -> None:
    entries = _entries(clouds)
    for cloud, (name, roles) in ACCOUNTS.items():
        if name in known:
            continue
        password = entries[cloud].get("password")
        if not isinstance(password, str) or not password:
            notes.append(
                f"{clouds} has no password for {name}: `breezeblock user add {name}` makes the user."
            )
            continue
        users.create_user(database, name, password, project=name, roles=roles)
        notes.append(f"Made the user {name} in the project {name}; the password is in {clouds}.")


def _client() -> str:
    """Return how to call the `openstack` client: it may be installed beside us only."""
    if shutil.which("openstack"):
        return "openstack"
    beside = Path(sys.executable).with_name("openstack")
    return shlex.quote(str(beside)) if beside.exists() else "openstack"


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigError(f"{file} cannot be read: {reason}", remedy="Correct the file.") from error


def _write(file: Path, text: str, mode: int) -> None:
    """Put a file there whole or not at all, readable by its owner only from its first byte on."""
    temporary = file.with_name(f".{file.name}.tmp")  # one name: a killed start leaves no heap of them
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
        directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}", remedy="Make room there.") from error


def _quoted(text: str) -> str:
    """Return a text as a basic string, which is the same in TOML and YAML as in JSON."""
    return json.dumps(text, ensure_ascii=False)
