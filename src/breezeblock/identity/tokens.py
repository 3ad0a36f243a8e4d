"""Tokens: opaque, 256 bits, remembered only by their SHA-256.

A check costs one indexed read, and none while the answer is remembered in memory: `CACHE_S` is therefore
how long a token that another process revoked may still be taken here.
"""

import hashlib
import secrets
import threading
import time

import msgspec

from breezeblock.catalog import identity as rows
from breezeblock.catalog.clock import later, now
from breezeblock.catalog.database import Database
from breezeblock.errors import UnauthenticatedError
from breezeblock.identity.passwords import Verifier
from breezeblock.identity.users import implied

CACHE_S = 10.0
_CACHED = 10_000

INVALID = "The request you have made requires authentication."


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """What a live token stands for; `project_id` None: it is scoped to no project."""

    user_id: str
    user_name: str
    project_id: str | None
    project_name: str | None
    roles: frozenset[str]
    issued_at: str
    expires_at: str


class Tokens:
    """Issues, checks and revokes tokens."""

    def __init__(
        self, database: Database, *, ttl_s: float = 3600.0, verifier: Verifier | None = None
    ) -> None:
        self.database = database
        self.ttl_s = ttl_s
        self.verifier = verifier or Verifier()
        self._cache: dict[str, tuple[float, Token]] = {}
        self._lock = threading.Lock()

    def log_in(
        self,
        password: str,
        *,
        user_id: str | None = None,
        user_name: str | None = None,
        project_id: str | None = None,
        project_name: str | None = None,
        unscoped: bool = False,
    ) -> tuple[str, Token]:
        """Check a password and issue a token, for the project named, else the user's default one.

        Raises UnauthenticatedError with the same words whatever was wrong.
        """
        with self.database.read() as connection:
            user = rows.user(connection, user_id=user_id, name=user_name)
        if not self.verifier(password, None if user is None else user.password_hash):
            raise UnauthenticatedError(INVALID)
        if user is None or not user.enabled:
            raise UnauthenticatedError(INVALID)
        named = project_id is not None or project_name is not None
        with self.database.read() as connection:
            project = None
            if named:
                project = rows.project(connection, project_id=project_id, name=project_name)
            elif user.default_project_id and not unscoped:
                project = rows.project(connection, project_id=user.default_project_id)
            usable = project is not None and project.enabled
            roles = (
                implied(rows.roles_of(connection, user.id, project.id)) if usable and project else frozenset()
            )
        if named and not roles:
            raise UnauthenticatedError(INVALID)
        if not roles:
            project = None
        secret = secrets.token_urlsafe(32)
        token = Token(
            user_id=user.id,
            user_name=user.name,
            project_id=project.id if project is not None else None,
            project_name=project.name if project is not None else None,
            roles=roles,
            issued_at=now(),
            expires_at=later(self.ttl_s),
        )
        with self.database.write() as connection:
            rows.insert_token(
                connection,
                _digest(secret),
                user_id=token.user_id,
                project_id=token.project_id,
                issued_at=token.issued_at,
                expires_at=token.expires_at,
            )
        return secret, token

    def check(self, secret: str) -> Token:
        """Return what a token stands for, or raise UnauthenticatedError."""
        digest = _digest(secret)
        cached = self._cache.get(digest)
        if cached is not None and cached[0] > time.monotonic() and cached[1].expires_at > now():
            return cached[1]
        with self.database.read() as connection:
            row = rows.token(connection, digest, now())
            if row is None:
                self._cache.pop(digest, None)
                raise UnauthenticatedError(INVALID)
            roles = rows.roles_of(connection, row.user_id, row.project_id) if row.project_id else frozenset()
        token = Token(
            user_id=row.user_id,
            user_name=row.user_name,
            project_id=row.project_id,
            project_name=row.project_name,
            roles=implied(roles),
            issued_at=row.issued_at,
            expires_at=row.expires_at,
        )
        with self._lock:
            if len(self._cache) >= _CACHED:
                self._cache.clear()
            self._cache[digest] = (time.monotonic() + CACHE_S, token)
        return token

    def revoke(self, secret: str) -> bool:
        """End a token; say whether it was there."""
        digest = _digest(secret)
        self._cache.pop(digest, None)
        with self.database.write() as connection:
            return rows.delete_token(connection, digest)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
