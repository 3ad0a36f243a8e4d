"""Who the service is to a file server: taken out of mount options, and never put back into any.

A password comes from the share list, from a credentials file as mount.cifs(8) has it, or by name from a
`Vault`. Whatever it is, it reaches the mount program as the content of a file without a name.
"""

import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from breezeblock.errors import ConfigError

MAX_CREDENTIALS_BYTES = 1 << 16
NAMES = {
    "username": "username",
    "user": "username",
    "password": "password",
    "pass": "password",
    "domain": "domain",
    "dom": "domain",
    "workgroup": "domain",
    "credentials": "credentials",
    "cred": "credentials",
    "secret": "secret",
}
"""Options that say who we are, by each of their names."""


@dataclass(frozen=True, slots=True)
class Login:
    """Who the service is to one share."""

    username: str = ""
    domain: str = ""
    password: str | None = field(default=None, repr=False)
    """In plain, from the list itself."""
    secret: str = ""
    """Name of the password in the vault."""
    file: Path | None = None
    """A credentials file of the operator's."""

    @property
    def anonymous(self) -> bool:
        """Whether nobody is named at all."""
        return not self.username and self.file is None


def split(options: str) -> tuple[Login, str]:
    """Part mount options into who we are and the rest. Raises ValueError, which shows no password."""
    said: dict[str, str] = {}
    rest = []
    for option in options.split(",") if options else ():
        name, equals, value = option.partition("=")
        kind = NAMES.get(name.lower())
        if kind is None:
            rest.append(option)
        elif not equals or not value:
            raise ValueError(f"the option {name} needs a value.")
        elif kind in said:
            raise ValueError(f"{kind} is said twice.")
        else:
            said[kind] = value
    return _checked(said), ",".join(rest)


def _checked(said: Mapping[str, str]) -> Login:
    sources = [name for name in ("password", "secret", "credentials") if name in said]
    if len(sources) > 1:
        raise ValueError(
            f"at most one of password, secret and credentials; these are {' and '.join(sources)}."
        )
    username, domain = said.get("username", ""), said.get("domain", "")
    before, backslash, after = username.partition("\\")
    if backslash:
        if domain and domain.casefold() != before.casefold():
            raise ValueError(f"the username names the domain {before!r}, the option domain another.")
        username, domain = after, before
    if "%" in username or "/" in username:
        raise ValueError("a username holds neither % nor /; a domain is given as domain=DOMAIN.")
    if "credentials" in said:
        if username or domain:
            raise ValueError("username and domain belong into the credentials file, as it is used.")
        if not said["credentials"].startswith("/"):
            raise ValueError("credentials must be an absolute path.")
        return Login(file=Path(said["credentials"]))
    if sources and not username:
        raise ValueError(f"{sources[0]} is given without a username.")
    return Login(username, domain, said.get("password"), said.get("secret", ""))


def resolved(login: Login, reveal: Callable[[str], str]) -> Login:
    """Return the login with its password in plain. Raises ConfigError for what cannot be read or found."""
    if login.file is not None:
        return _of_file(login.file)
    if login.secret:
        return Login(login.username, login.domain, reveal(login.secret))
    return login


def credentials(login: Login) -> bytes:
    """Return what a credentials file says of a login that was resolved (mount.cifs(8))."""
    said = {"username": login.username, "password": login.password, "domain": login.domain or None}
    return "".join(f"{name}={value}\n" for name, value in said.items() if value is not None).encode()


def _of_file(path: Path) -> Login:
    """Read a credentials file. Only its owner may read it, and nothing of it is ever shown."""
    require_private(path, f"The credentials file {path}")
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CREDENTIALS_BYTES).decode()
    except OSError as error:
        raise ConfigError(f"The credentials file {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError:
        raise ConfigError(f"The credentials file {path} is not UTF-8 text.") from None
    said: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        name, equals, value = line.removesuffix("\r").partition("=")
        kind = NAMES.get(name.strip().lower())
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not equals or kind not in {"username", "password", "domain"} or kind in said:
            raise ConfigError(
                f"{path} line {number} is none of username=, password= and domain=, each once.",
                remedy="Correct it; mount.cifs(8) describes such files.",
            )
        said[kind] = value
    try:
        login = _checked(said)
    except ValueError as error:
        raise ConfigError(f"The credentials file {path}: {error}") from None
    if login.anonymous:
        raise ConfigError(f"The credentials file {path} names no user.", remedy="Add username=NAME.")
    return login


def require_private(path: Path, what: str) -> None:
    """Raise ConfigError if others than its owner may read a file that holds a password."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(f"{what} cannot be read: {error.strerror}.") from error
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(
            f"{what} holds a password and others may read it (mode {stat.S_IMODE(mode):04o}).",
            remedy=f"Run: chmod 600 {path}",
        )
