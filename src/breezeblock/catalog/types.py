"""Rows of volume types and of the projects that may use private ones."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from breezeblock.catalog.clock import now
from breezeblock.catalog.tables import volume_type_access, volume_types, volumes


def visible_to(project_id: str) -> sa.ColumnElement[bool]:
    """Return the condition that a project may use a type: public, or given to it."""
    given = sa.select(volume_type_access.c.volume_type_id).where(
        volume_type_access.c.project_id == project_id
    )
    return sa.or_(volume_types.c.is_public, volume_types.c.id.in_(given))


def find(connection: sa.Connection, name_or_id: str) -> sa.Row[Any] | None:
    """Return the type with this id or name; an id wins."""
    query = (
        sa.select(volume_types)
        .where(sa.or_(volume_types.c.id == name_or_id, volume_types.c.name == name_or_id))
        .order_by((volume_types.c.id == name_or_id).desc())
    )
    return connection.execute(query).first()


def name(connection: sa.Connection, type_id: str) -> str:
    """Return the name of a type that exists."""
    found: str = connection.execute(
        sa.select(volume_types.c.name).where(volume_types.c.id == type_id)
    ).scalar_one()
    return found


def names(connection: sa.Connection) -> list[str]:
    """Return the names of all types, in order."""
    return list(connection.execute(sa.select(volume_types.c.name).order_by(volume_types.c.name)).scalars())


def insert(
    connection: sa.Connection,
    type_id: str,
    *,
    name: str,
    description: str | None,
    is_public: bool,
    extra_specs: str,
) -> None:
    """Add a type; `extra_specs` is the text of a JSON object."""
    connection.execute(
        volume_types.insert().values(
            id=type_id,
            name=name,
            description=description,
            is_public=is_public,
            extra_specs=extra_specs,
            created_at=now(),
        )
    )


def update(connection: sa.Connection, type_id: str, values: Mapping[str, Any]) -> bool:
    """Change columns of a type; say whether it was there."""
    query = volume_types.update().where(volume_types.c.id == type_id)
    return connection.execute(query.values(**values, updated_at=now())).rowcount == 1


def delete(connection: sa.Connection, type_id: str) -> None:
    """Remove a type that no volume has."""
    connection.execute(volume_type_access.delete().where(volume_type_access.c.volume_type_id == type_id))
    connection.execute(volume_types.delete().where(volume_types.c.id == type_id))


def in_use(connection: sa.Connection, type_id: str) -> bool:
    """Say whether a volume has this type."""
    query = sa.select(volumes.c.id).where(volumes.c.volume_type_id == type_id).limit(1)
    return connection.execute(query).first() is not None


def access(connection: sa.Connection, type_id: str) -> Sequence[str]:
    """Return the projects that were given a type."""
    query = sa.select(volume_type_access.c.project_id).where(volume_type_access.c.volume_type_id == type_id)
    return connection.execute(query.order_by(volume_type_access.c.project_id)).scalars().all()


def add_access(connection: sa.Connection, type_id: str, project_id: str) -> None:
    """Give a type to a project."""
    connection.execute(volume_type_access.insert().values(volume_type_id=type_id, project_id=project_id))


def remove_access(connection: sa.Connection, type_id: str, project_id: str) -> bool:
    """Take a type from a project; say whether it had it."""
    query = volume_type_access.delete().where(
        volume_type_access.c.volume_type_id == type_id, volume_type_access.c.project_id == project_id
    )
    return connection.execute(query).rowcount == 1
