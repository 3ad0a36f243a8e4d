"""Rows about the deployment itself: pools, services, and the descriptive columns of volumes and snapshots."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from breezeblock.catalog.clock import now
from breezeblock.catalog.tables import messages, pools, services, snapshots, volumes


def list_pools(connection: sa.Connection) -> Sequence[sa.Row[Any]]:
    """Return every pool that a worker has reported."""
    return connection.execute(sa.select(pools).order_by(pools.c.backend, pools.c.name)).all()


def list_services(
    connection: sa.Connection, *, host: str | None = None, binary: str | None = None
) -> Sequence[sa.Row[Any]]:
    """Return the processes that have reported; `host` also matches what stands before its @."""
    query = sa.select(services).order_by(services.c.binary, services.c.host)
    if host is not None:
        query = query.where(
            sa.or_(services.c.host == host, services.c.host.startswith(f"{host}@", autoescape=True))
        )
    if binary is not None:
        query = query.where(services.c.binary == binary)
    return connection.execute(query).all()


def set_service_disabled(
    connection: sa.Connection, host: str, binary: str, *, disabled: bool, reason: str | None
) -> bool:
    """Take a service out of scheduling or put it back; say whether it was there."""
    query = services.update().where(services.c.host == host, services.c.binary == binary)
    return connection.execute(query.values(disabled=disabled, disabled_reason=reason)).rowcount == 1


def describe_volume(connection: sa.Connection, volume_id: str, values: Mapping[str, Any]) -> None:
    """Change what users say about a volume (name, description, metadata …)."""
    connection.execute(
        volumes.update().where(volumes.c.id == volume_id).values(**values, updated_at=now())
    )


def describe_snapshot(connection: sa.Connection, snapshot_id: str, values: Mapping[str, Any]) -> None:
    """Change what users say about a snapshot."""
    connection.execute(
        snapshots.update().where(snapshots.c.id == snapshot_id).values(**values, updated_at=now())
    )


def delete_message(connection: sa.Connection, message_id: str) -> None:
    """Forget a message."""
    connection.execute(messages.delete().where(messages.c.id == message_id))
