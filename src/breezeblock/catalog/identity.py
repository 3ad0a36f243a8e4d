"""Rows of projects, users, their roles and their tokens."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from breezeblock.catalog.tables import projects, role_assignments, tokens, users


def insert_project(connection: sa.Connection, project_id: str, name: str, description: str = "") -> None:
    """Add a project."""
    connection.execute(projects.insert().values(id=project_id, name=name, description=description))


def project(
    connection: sa.Connection, *, project_id: str | None = None, name: str | None = None
) -> sa.Row[Any] | None:
    """Return the project with this id, or else with this name."""
    which = projects.c.id == project_id if project_id is not None else projects.c.name == name
    return connection.execute(sa.select(projects).where(which)).one_or_none()


def list_projects(connection: sa.Connection, name: str | None = None) -> Sequence[sa.Row[Any]]:
    """Return every project, or the one with a name."""
    query = sa.select(projects).order_by(projects.c.name)
    return connection.execute(query if name is None else query.where(projects.c.name == name)).all()


def insert_user(
    connection: sa.Connection, user_id: str, name: str, password_hash: str, default_project_id: str | None
) -> None:
    """Add a user."""
    connection.execute(
        users.insert().values(
            id=user_id, name=name, password_hash=password_hash, default_project_id=default_project_id
        )
    )


def user(
    connection: sa.Connection, *, user_id: str | None = None, name: str | None = None
) -> sa.Row[Any] | None:
    """Return the user with this id, or else with this name."""
    which = users.c.id == user_id if user_id is not None else users.c.name == name
    return connection.execute(sa.select(users).where(which)).one_or_none()


def list_users(connection: sa.Connection, name: str | None = None) -> Sequence[sa.Row[Any]]:
    """Return every user, or the one with a name; never for showing as it is: the hash is a column."""
    query = sa.select(users).order_by(users.c.name)
    return connection.execute(query if name is None else query.where(users.c.name == name)).all()


def set_password_hash(connection: sa.Connection, user_id: str, password_hash: str) -> None:
    """Change a user's password, which ends every token of theirs."""
    connection.execute(users.update().where(users.c.id == user_id).values(password_hash=password_hash))
    connection.execute(tokens.delete().where(tokens.c.user_id == user_id))


def delete_user(connection: sa.Connection, user_id: str) -> None:
    """Remove a user with roles and tokens."""
    for table in (tokens, role_assignments):
        connection.execute(table.delete().where(table.c.user_id == user_id))
    connection.execute(users.delete().where(users.c.id == user_id))


def set_roles(connection: sa.Connection, user_id: str, project_id: str, roles: Sequence[str]) -> None:
    """Give a user exactly these roles in a project."""
    mine = (role_assignments.c.user_id == user_id, role_assignments.c.project_id == project_id)
    connection.execute(role_assignments.delete().where(*mine))
    if roles:
        connection.execute(
            role_assignments.insert(),
            [{"user_id": user_id, "project_id": project_id, "role": role} for role in sorted(set(roles))],
        )


def roles_of(connection: sa.Connection, user_id: str, project_id: str) -> frozenset[str]:
    """Return the roles that were assigned; what they imply is the identity room's affair."""
    query = sa.select(role_assignments.c.role).where(
        role_assignments.c.user_id == user_id, role_assignments.c.project_id == project_id
    )
    return frozenset(connection.execute(query).scalars())


def assignments(
    connection: sa.Connection, user_id: str | None = None
) -> Sequence[sa.Row[str, str, str, str]]:
    """Return (user_id, project_id, project, role) of one user or of all."""
    query = sa.select(
        role_assignments.c.user_id,
        role_assignments.c.project_id,
        projects.c.name.label("project"),
        role_assignments.c.role,
    ).join(projects, projects.c.id == role_assignments.c.project_id)
    if user_id is not None:
        query = query.where(role_assignments.c.user_id == user_id)
    return connection.execute(query.order_by(projects.c.name, role_assignments.c.role)).all()


def insert_token(
    connection: sa.Connection,
    token_hash: str,
    *,
    user_id: str,
    project_id: str | None,
    issued_at: str,
    expires_at: str,
) -> None:
    """Remember a token by its hash, and forget those whose time is over."""
    connection.execute(tokens.delete().where(tokens.c.expires_at <= issued_at))
    connection.execute(
        tokens.insert().values(
            hash=token_hash,
            user_id=user_id,
            project_id=project_id,
            issued_at=issued_at,
            expires_at=expires_at,
        )
    )


def token(connection: sa.Connection, token_hash: str, now: str) -> sa.Row[Any] | None:
    """Return a live token with the names of its enabled user and project."""
    query = (
        sa.select(
            tokens,
            users.c.name.label("user_name"),
            projects.c.name.label("project_name"),
        )
        .join(users, users.c.id == tokens.c.user_id)
        .outerjoin(projects, projects.c.id == tokens.c.project_id)
        .where(tokens.c.hash == token_hash, tokens.c.expires_at > now, users.c.enabled)
        .where(sa.or_(tokens.c.project_id.is_(None), projects.c.enabled))
    )
    return connection.execute(query).one_or_none()


def delete_token(connection: sa.Connection, token_hash: str) -> bool:
    """End a token; say whether it was there."""
    return connection.execute(tokens.delete().where(tokens.c.hash == token_hash)).rowcount == 1
