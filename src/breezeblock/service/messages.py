"""Messages: why something that was promised failed, in words for the user."""

from breezeblock.catalog import infrastructure
from breezeblock.service.core import Caller, Service
from breezeblock.service.lists import visible_message


def delete(service: Service, caller: Caller, message_id: str) -> None:
    """Forget a message."""
    with service.database.write() as connection:
        infrastructure.delete_message(connection, visible_message(connection, caller, message_id).id)
