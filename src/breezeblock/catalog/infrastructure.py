"""Rows of the processes that make up the deployment, and forgetting of messages."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from breezeblock.catalog.tables import messages, services


def list_services(connection: sa.Connection, *, binary: str | None = None) -> Sequence[sa.Row[Any]]:
    """Return the processes that have reported, all or those of one program."""
    query = sa.select(services).order_by(services.c.binary, services.c.host)
    return connection.execute(query if binary is None else query.where(services.c.binary == binary)).all()


def delete_message(connection: sa.Connection, message_id: str) -> None:
    """Forget a message."""
    connection.execute(messages.delete().where(messages.c.id == message_id))
