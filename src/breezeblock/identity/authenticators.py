"""Turning a request's headers into a Caller: one small class per mode of `[auth]`."""

import base64
import binascii
from collections.abc import Mapping
from typing import Protocol

from breezeblock.catalog import identity as rows
from breezeblock.catalog.database import Database
from breezeblock.errors import InvalidInputError, UnauthenticatedError
from breezeblock.identity.passwords import Verifier
from breezeblock.identity.tokens import INVALID, Tokens
from breezeblock.identity.users import implied
from breezeblock.service.core import Caller

NO_AUTH_PROJECT = "00000000000000000000000000000001"
NO_AUTH_USER = "00000000000000000000000000000002"

WRONG_PROJECT = "Malformed request url"


class Authenticator(Protocol):
    """Finds out who asks. `project_id` is the one in the request's path, if there is one."""

    tokens: Tokens | None
    """Where tokens come from; None: this mode has none, and serves no Identity API."""
    challenge: str
    """The WWW-Authenticate header of a 401."""
    any_project: bool
    """A first path segment that is the project of a token `user:project` may look like anything."""

    def authenticate(self, headers: Mapping[str, str], project_id: str | None, request_id: str) -> Caller:
        """Return the caller. Raises UnauthenticatedError, or InvalidInputError for a foreign project."""


class Builtin:
    """Our own tokens, in X-Auth-Token."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens: Tokens | None = tokens
        self._tokens = tokens
        self.challenge = 'Keystone uri="/identity/v3"'
        self.any_project = False

    def authenticate(self, headers: Mapping[str, str], project_id: str | None, request_id: str) -> Caller:
        """Check the token."""
        secret = headers.get("x-auth-token", "")
        if not secret:
            raise UnauthenticatedError(INVALID)
        token = self._tokens.check(secret)
        if token.project_id is None:
            raise UnauthenticatedError(INVALID, remedy="The token is scoped to no project.")
        if project_id is not None and project_id.replace("-", "") != token.project_id:
            raise InvalidInputError(WRONG_PROJECT)
        return Caller(
            project_id=token.project_id,
            user_id=token.user_id,
            roles=token.roles,
            request_id=request_id,
            user_name=token.user_name,
            project_name=token.project_name or "",
        )


class HttpBasic:
    """The same users by name and password on every request (RFC 7617)."""

    def __init__(self, database: Database, verifier: Verifier | None = None) -> None:
        self.tokens: Tokens | None = None
        self.challenge = 'Basic realm="breezeblock", charset="UTF-8"'
        self.any_project = False
        self._database = database
        self._verify = verifier or Verifier()

    def authenticate(self, headers: Mapping[str, str], project_id: str | None, request_id: str) -> Caller:
        """Check name and password; the project is the path's, else the user's default one."""
        name, password = _basic(headers.get("authorization", ""))
        with self._database.read() as connection:
            user = rows.user(connection, name=name)
        if not self._verify(password, None if user is None else user.password_hash):
            raise UnauthenticatedError(INVALID)
        if user is None or not user.enabled:
            raise UnauthenticatedError(INVALID)
        wanted = project_id.replace("-", "") if project_id is not None else user.default_project_id
        with self._database.read() as connection:
            project = rows.project(connection, project_id=wanted or "")
            roles = rows.roles_of(connection, user.id, wanted or "")
        if project is None or not project.enabled or not roles:
            raise InvalidInputError(WRONG_PROJECT)
        return Caller(
            project_id=project.id,
            user_id=user.id,
            roles=implied(roles),
            request_id=request_id,
            user_name=user.name,
            project_name=project.name,
        )


class NoAuth:
    """No check at all: everyone is an admin. A token `user:project` names user and project, as Cinder's."""

    def __init__(self) -> None:
        self.tokens: Tokens | None = None
        self.challenge = ""
        self.any_project = True

    def authenticate(self, headers: Mapping[str, str], project_id: str | None, request_id: str) -> Caller:
        """Believe what is said."""
        user, project = noauth_token(headers)
        project = project_id or project or NO_AUTH_PROJECT
        return Caller(
            project_id=project,
            user_id=user or NO_AUTH_USER,
            roles=implied(("admin",)),
            request_id=request_id,
            user_name=user or "admin",
            project_name=project,
        )


def noauth_token(headers: Mapping[str, str]) -> tuple[str, str]:
    """Return user and project of a token `user:project`; empty where it names none."""
    user, _, project = headers.get("x-auth-token", "").partition(":")
    # Only a well-made one: an unchecked text must not get into the catalog by this door.
    if not (user.isprintable() and project.isprintable() and len(user) <= 64 and len(project) <= 64):
        raise UnauthenticatedError(INVALID)
    return user, project


def _basic(header: str) -> tuple[str, str]:
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        raise UnauthenticatedError(INVALID)
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise UnauthenticatedError(INVALID) from error
    name, colon, password = text.partition(":")
    if not colon or "\0" in text:
        raise UnauthenticatedError(INVALID)
    return name, password
