"""Alembic's entry: it is only ever run by `catalog.migrate`, which hands in the connection."""

from typing import Any

from alembic import context

from breezeblock.catalog.tables import metadata


def _ours(name: str | None, kind: str, _parents: Any) -> bool:
    """Leave the durable engine's own tables alone: they share the database."""
    return kind != "table" or name in metadata.tables


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    include_name=_ours,
    render_as_batch=True,
)
context.run_migrations()
