"""Secrets of the operator's, encrypted at rest: `breezeblock secret` keeps them, back ends ask by name.

Each is a file in `STATE_DIR/secrets`, encrypted and authenticated by Fernet (AES-128-CBC, HMAC-SHA-256).
The keys, one a line and the newest first, come from the systemd credential `breezeblock.keys` where the
unit has one, and otherwise from `STATE_DIR/secrets.keys`, which may be a link to another place.
Who changes any of them holds `STATE_DIR/secrets.lock`, or a secret could be encrypted with a key that a
rotation is just about to forget; readers need no lock.
"""

import fcntl
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from breezeblock.errors import ConfigError, NotFoundError

CREDENTIAL = "breezeblock.keys"
MAX_SECRET_BYTES = 1 << 14
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_MAX_FILE_BYTES = 1 << 16
_FORM = "Allowed are 1 to 128 letters, digits, '.', '_' and '-', beginning with a letter or digit."


@dataclass(frozen=True, slots=True)
class Vault:
    """The secrets of one deployment on this machine."""

    directory: Path
    keys_file: Path
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)

    def get(self, name: str) -> str:
        """Return a secret. Raises NotFoundError, or ConfigError if it cannot be decrypted."""
        found = self._look(name)
        while True:
            content, keys = found
            try:
                return self._fernet(keys).decrypt(content).decode()
            except InvalidToken:
                found = self._look(name)  # a rotation may have ended between reading the one and the other
                if found != (content, keys):
                    continue
                raise ConfigError(
                    f"The secret {name!r} was encrypted with a key that {self._keys_path()} does not hold.",
                    remedy=f"Bring that key back, or set the secret anew: breezeblock secret set {name}",
                ) from None

    def _look(self, name: str) -> tuple[bytes, tuple[bytes, ...]]:
        content = _read(self._path(name), "secret")
        if content is None:
            raise NotFoundError(
                f"There is no secret {name!r} in {self.directory}.",
                remedy=f"Run: breezeblock secret set {name}",
            )
        return content, self._keys()

    def set(self, name: str, secret: str) -> None:
        """Keep a secret, in place of an earlier one of that name. Makes a key if there is none."""
        path = self._path(name)
        data = secret.encode()
        if not data or len(data) > MAX_SECRET_BYTES or any(mark in secret for mark in "\0\r\n"):
            raise ConfigError(f"A secret is one line of 1 to {MAX_SECRET_BYTES} bytes.")
        with self._changing():
            if not self._keys(absent=()):
                self._write_keys([Fernet.generate_key()])
            self.directory.mkdir(0o700, parents=True, exist_ok=True)
            _replace(path, self._fernet(self._keys()).encrypt(data))

    def remove(self, name: str) -> None:
        """Forget a secret. Raises NotFoundError."""
        try:
            with self._changing():
                self._path(name).unlink()
        except FileNotFoundError:
            raise NotFoundError(f"There is no secret {name!r} in {self.directory}.") from None

    def names(self) -> list[str]:
        """Return the secrets' names, sorted."""
        try:
            found = os.listdir(self.directory)  # noqa: PTH208 - iterdir makes an object of each
        except FileNotFoundError:
            return []
        return sorted(name for name in found if _NAME.match(name))

    def rotate(self) -> int:
        """Encrypt every secret with a new key and forget the old ones; return how many there are.

        May be killed anywhere and run again: old keys stay until nothing needs them. Where the keys are a
        systemd credential, its first one is taken, and the credential is the operator's to change.
        """
        with self._changing():
            return self._rotate()

    def _rotate(self) -> int:
        given = self._credential() is not None
        keys = self._keys(absent=())
        if not given:
            keys = (Fernet.generate_key(), *keys)
            self._write_keys(keys)
        fernet = self._fernet(self._keys())
        names = self.names()
        for name in names:
            content = _read(self._path(name), "secret")
            if content is None:
                continue
            try:
                _replace(self._path(name), fernet.rotate(content))
            except InvalidToken:
                raise ConfigError(
                    f"The secret {name!r} was encrypted with a key that is not there; no key was forgotten.",
                    remedy=f"Set it anew (breezeblock secret set {name}) or remove it; then rotate again.",
                ) from None
        if not given:
            self._write_keys(keys[:1])
        return len(names)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold what everybody who changes secrets or keys holds, waiting for it."""
        path = self.directory.with_name(f"{self.directory.name}.lock")
        try:
            path.parent.mkdir(0o700, parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}.") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _path(self, name: str) -> Path:
        if not _NAME.match(name):
            raise ConfigError(f"{name[:80]!a} is no name of a secret.", remedy=_FORM)
        return self.directory / name

    def _credential(self) -> Path | None:
        directory = self.environment.get("CREDENTIALS_DIRECTORY", "")
        path = Path(directory, CREDENTIAL)
        return path if directory and path.exists() else None

    def _keys_path(self) -> Path:
        return self._credential() or self.keys_file

    def _keys(self, *, absent: tuple[bytes, ...] | None = None) -> tuple[bytes, ...]:
        """Return the keys, the newest first; `absent` if there is no file, ConfigError without it."""
        path = self._keys_path()
        content = _read(path, "keys")
        if content is None:
            if absent is not None:
                return absent
            raise ConfigError(
                f"There is no key at {path}, so no secret can be read.",
                remedy="Bring it back from where it is kept, or set the secrets anew.",
            )
        if path == self.keys_file and stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise ConfigError(f"Others may read the keys in {path}.", remedy=f"Run: chmod 600 {path}")
        return tuple(content.split())

    def _fernet(self, keys: tuple[bytes, ...]) -> MultiFernet:
        try:
            return MultiFernet([Fernet(key) for key in keys])
        except ValueError:
            raise ConfigError(
                f"{self._keys_path()} holds something that is no key.",
                remedy="Each line is 32 random bytes in URL-safe Base64.",
            ) from None

    def _write_keys(self, keys: "tuple[bytes, ...] | list[bytes]") -> None:
        path = Path(os.path.realpath(self.keys_file))
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
        _replace(path, b"".join(key + b"\n" for key in keys))


def at(state_dir: Path) -> Vault:
    """Return the vault of a deployment."""
    return Vault(state_dir / "secrets", state_dir / "secrets.keys")


def _read(path: Path, what: str) -> bytes | None:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"The {what} {path} cannot be read: {error.strerror}.") from error
    if len(content) > _MAX_FILE_BYTES:
        raise ConfigError(f"The {what} {path} is over {_MAX_FILE_BYTES} bytes.")
    return content


def _replace(path: Path, content: bytes) -> None:
    """Give a file new content at once and durably, readable by its owner alone."""
    temp = path.with_name(f".{path.name}-{uuid4().hex}")
    try:
        with os.fdopen(os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temp.rename(path)
    except OSError as error:
        temp.unlink(missing_ok=True)
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from error
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
