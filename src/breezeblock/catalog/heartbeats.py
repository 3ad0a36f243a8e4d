"""Which processes of the service are alive (API `os-services`)."""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from breezeblock.catalog.clock import now
from breezeblock.catalog.tables import services


def beat(connection: sa.Connection, host: str, binary: str, availability_zone: str) -> None:
    """Note that a process is alive now."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    seen = {"availability_zone": availability_zone, "heartbeat_at": now()}
    statement = dialect.insert(services).values(host=host, binary=binary, **seen)
    connection.execute(statement.on_conflict_do_update(index_elements=["host", "binary"], set_=seen))
