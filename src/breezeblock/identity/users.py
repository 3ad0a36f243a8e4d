"""Users and projects: what the command and the first start need to set up."""

import re
import secrets
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from breezeblock.catalog import identity as rows
from breezeblock.catalog.database import Database
from breezeblock.errors import DuplicateError, InvalidInputError, NotFoundError
from breezeblock.identity.passwords import MAX_PASSWORD_BYTES, hash_password

ROLES = ("admin", "member", "reader")
_IMPLIED = {"admin": ("admin", "member", "reader"), "member": ("member", "reader"), "reader": ("reader",)}
_NAME = re.compile(r"[^\x00-\x1f\x7f:]{1,255}")


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A user, and the roles in each project by its name."""

    id: str
    name: str
    enabled: bool
    default_project: str | None
    roles: dict[str, list[str]]


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """A project."""

    id: str
    name: str
    description: str
    enabled: bool


def implied(roles: Iterable[str]) -> frozenset[str]:
    """Return the roles together with those they contain: admin ⊃ member ⊃ reader."""
    return frozenset(part for role in roles for part in _IMPLIED.get(role, (role,)))


def generate_password() -> str:
    """Return a random password of 132 bits."""
    return secrets.token_urlsafe(16) + secrets.token_hex(1)


def ensure_project(database: Database, name: str, description: str = "") -> str:
    """Return the id of the project with this name, making it where it is missing."""
    _check_name("project name", name)
    with database.write() as connection:
        found = rows.project(connection, name=name)
        if found is not None:
            return str(found.id)
        project_id = uuid.uuid4().hex
        rows.insert_project(connection, project_id, name, description)
        return project_id


def list_projects(database: Database, name: str | None = None) -> list[Project]:
    """Return every project, or the one with a name."""
    with database.read() as connection:
        return [_project(row) for row in rows.list_projects(connection, name)]


def get_project(database: Database, project_id: str) -> Project:
    """Return a project, or raise NotFoundError."""
    with database.read() as connection:
        row = rows.project(connection, project_id=project_id)
    if row is None:
        raise NotFoundError(f"Could not find project: {project_id}.")
    return _project(row)


def create_user(
    database: Database, name: str, password: str, *, project: str, roles: Sequence[str] = ("member",)
) -> str:
    """Add a user with roles in a project, which is made where it is missing; return the user's id.

    Raises DuplicateError where the name is taken.
    """
    _check_name("user name", name)
    _check_password(password)
    _check_roles(roles)
    password_hash = hash_password(password)
    project_id = ensure_project(database, project)
    user_id = uuid.uuid4().hex
    with database.write() as connection:
        if rows.user(connection, name=name) is not None:
            raise DuplicateError(
                f"A user named {name!r} exists already.", remedy="Choose another name, or set its password."
            )
        rows.insert_user(connection, user_id, name, password_hash, project_id)
        rows.set_roles(connection, user_id, project_id, roles)
    return user_id


def set_roles(database: Database, name: str, *, project: str, roles: Sequence[str]) -> None:
    """Give a user exactly these roles in a project; none takes the user out of it."""
    _check_roles(roles)
    with database.write() as connection:
        user_id = _user_id(connection, name)
        found = rows.project(connection, name=project)
        if found is None:
            raise NotFoundError(f"There is no project named {project!r}.")
        rows.set_roles(connection, user_id, found.id, roles)


def set_password(database: Database, name: str, password: str) -> None:
    """Change a password; every token of the user ends."""
    _check_password(password)
    password_hash = hash_password(password)
    with database.write() as connection:
        rows.set_password_hash(connection, _user_id(connection, name), password_hash)


def delete_user(database: Database, name: str) -> None:
    """Remove a user; their volumes stay with the project."""
    with database.write() as connection:
        rows.delete_user(connection, _user_id(connection, name))


def list_users(database: Database, name: str | None = None) -> list[User]:
    """Return every user, or the one with a name."""
    with database.read() as connection:
        users = rows.list_users(connection, name)
        projects = {row.id: row.name for row in rows.list_projects(connection)}
        assigned = rows.assignments(connection)
    found = []
    for user in users:
        roles: dict[str, list[str]] = {}
        for row in assigned:
            if row.user_id == user.id:
                roles.setdefault(row.project, []).append(row.role)
        found.append(
            User(
                id=user.id,
                name=user.name,
                enabled=user.enabled,
                default_project=projects.get(user.default_project_id),
                roles=roles,
            )
        )
    return found


def _user_id(connection: sa.Connection, name: str) -> str:
    found = rows.user(connection, name=name)
    if found is None:
        raise NotFoundError(f"There is no user named {name!r}.", remedy="See 'breezeblock user list'.")
    return str(found.id)


def _project(row: sa.Row[Any]) -> Project:
    return Project(id=row.id, name=row.name, description=row.description, enabled=row.enabled)


def _check_name(what: str, name: str) -> None:
    # A colon would end the name in HTTP Basic (RFC 7617 section 2).
    if not _NAME.fullmatch(name) or name != name.strip():
        raise InvalidInputError(
            f"{what} {name!r} is not allowed: 1 to 255 characters, no control characters, no colon, "
            "no space at its ends."
        )


def _check_password(password: str) -> None:
    if not password or len(password.encode(errors="replace")) > MAX_PASSWORD_BYTES:
        raise InvalidInputError(f"A password has 1 to {MAX_PASSWORD_BYTES} bytes.")


def _check_roles(roles: Sequence[str]) -> None:
    for role in roles:
        if role not in ROLES:
            raise InvalidInputError(f"There is no role {role!r}; roles are {', '.join(ROLES)}.")
