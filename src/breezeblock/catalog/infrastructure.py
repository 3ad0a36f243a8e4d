"""Rows of the processes that make up the deployment, and forgetting of messages."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from breezeblock.catalog.tables import messages, services


def list_services(
    connection: sa.Connection, *, host: str | None = None, binary: str | None = None
) -> Sequence[sa.Row[Any]]:
    """Return the processes that have reported; `host` also matches what stands before an @."""
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


def delete_message(connection: sa.Connection, message_id: str) -> None:
    """Forget a message."""
    connection.execute(messages.delete().where(messages.c.id == message_id))
