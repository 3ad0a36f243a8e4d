"""The tables. One schema serves SQLite and PostgreSQL.

Times are ISO 8601 text with microseconds and no zone, always UTC: they sort as text, are the same in
both databases, and are what the API prints, so that a list of a thousand volumes parses none. Ids are
RFC 4122 text (projects and users: 32 hexadecimal digits, as Cinder's routes demand). JSON columns are
text for the same reason: metadata goes from the row to the response body without being decoded.
"""

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _text(name: str, *, null: bool = False, default: str | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=null, server_default=default)


projects = sa.Table(
    "projects",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    _text("description", default=""),
    sa.Column("enabled", sa.Boolean, nullable=False, server_default=sa.true()),
)

users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    _text("password_hash"),
    sa.Column("default_project_id", sa.Text, sa.ForeignKey("projects.id"), nullable=True),
    sa.Column("enabled", sa.Boolean, nullable=False, server_default=sa.true()),
)

role_assignments = sa.Table(
    "role_assignments",
    metadata,
    sa.Column("user_id", sa.Text, sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("project_id", sa.Text, sa.ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("role", sa.Text, primary_key=True),
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("hash", sa.Text, primary_key=True),  # SHA-256 of the token: the token itself is kept nowhere
    sa.Column("user_id", sa.Text, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    sa.Column("project_id", sa.Text, sa.ForeignKey("projects.id", ondelete="CASCADE"), nullable=True),
    _text("issued_at"),
    sa.Column("expires_at", sa.Text, nullable=False, index=True),
)

pools = sa.Table(
    "pools",
    metadata,
    sa.Column("backend", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    _text("host"),  # the worker that reported it last
    sa.Column("total_bytes", sa.BigInteger, nullable=True),
    sa.Column("free_bytes", sa.BigInteger, nullable=True),
    # Kept by the transactions that create, extend and delete, never by looking at the storage.
    sa.Column("provisioned_bytes", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("up", sa.Boolean, nullable=False),
    _text("reason", default=""),
    sa.Column("reserved_percentage", sa.Integer, nullable=False, server_default="0"),
    sa.Column("max_over_subscription_ratio", sa.Float, nullable=False, server_default="20.0"),
    sa.Column("used_ratio", sa.Float, nullable=False, server_default="1.0"),
    sa.Column("max_chain_depth", sa.Integer, nullable=False, server_default="0"),  # 0 = no limit
    _text("capabilities"),  # JSON of backends.contract.Capabilities
    _text("health", default="{}"),  # JSON of backends.contract.Health
    _text("updated_at"),
    sa.CheckConstraint("provisioned_bytes >= 0", name="provisioned"),
)

volume_types = sa.Table(
    "volume_types",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("description", sa.Text, nullable=True),
    sa.Column("is_public", sa.Boolean, nullable=False, server_default=sa.true()),
    _text("extra_specs", default="{}"),
    _text("created_at"),
    sa.Column("updated_at", sa.Text, nullable=True),
)

volume_type_access = sa.Table(
    "volume_type_access",
    metadata,
    sa.Column(
        "volume_type_id", sa.Text, sa.ForeignKey("volume_types.id", ondelete="CASCADE"), primary_key=True
    ),
    sa.Column("project_id", sa.Text, primary_key=True),
)

volumes = sa.Table(
    "volumes",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    _text("project_id"),
    _text("user_id"),
    sa.Column("name", sa.Text, nullable=True),
    sa.Column("description", sa.Text, nullable=True),
    sa.Column("virtual_bytes", sa.BigInteger, nullable=False),
    _text("status"),
    sa.Column("op_id", sa.Text, nullable=True),  # the operation that owns the row; its finish clears it
    _text("backend"),
    _text("pool"),
    _text("locator", default=""),
    _text("format", default=""),
    sa.Column("volume_type_id", sa.Text, sa.ForeignKey("volume_types.id"), nullable=False),
    _text("availability_zone"),
    sa.Column("bootable", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("readonly", sa.Boolean, nullable=True),
    sa.Column("multiattach", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("snapshot_id", sa.Text, nullable=True),
    sa.Column("source_volid", sa.Text, nullable=True),
    # As the back end told last; depth 0 = not known.
    sa.Column("depth", sa.Integer, nullable=False, server_default="0"),
    sa.Column("hidden_layers", sa.Integer, nullable=False, server_default="0"),
    sa.Column("reclaimable_bytes", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("parent_id", sa.Text, nullable=True, index=True),  # whose storage it shares; may be gone
    _text("metadata", default="{}"),
    _text("image_metadata", default="{}"),
    sa.Column("migration_status", sa.Text, nullable=True),
    _text("created_at"),
    sa.Column("updated_at", sa.Text, nullable=True),
    sa.Column("launched_at", sa.Text, nullable=True),
    sa.CheckConstraint("virtual_bytes > 0", name="virtual_bytes"),
    # Every key that a list sorts by ends in id, so that a marker is a range in the index.
    sa.Index(None, "project_id", "created_at", "id"),
    sa.Index(None, "project_id", "name", "id"),
    sa.Index(None, "created_at", "id"),
    sa.Index(None, "backend", "pool"),
    sa.Index(None, "status"),
)

# Volumes that are gone but for what others, made from them, rest on.
kept_volumes = sa.Table(
    "kept_volumes",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    _text("backend"),
    _text("pool"),
    _text("project_id"),
    sa.Column("name", sa.Text, nullable=True),
    sa.Column("parent_id", sa.Text, nullable=True, index=True),
    _text("deleted_at"),
)

# Volumes of nobody's that hold an image from outside, for others to be cloned from.
cached_images = sa.Table(
    "cached_images",
    metadata,
    sa.Column("volume_id", sa.Text, sa.ForeignKey("volumes.id", ondelete="CASCADE"), primary_key=True),
    _text("backend"),
    _text("pool"),
    _text("source"),  # digest of address and format: the address may hold a secret
    _text("url"),  # as it may be shown
    _text("format"),
    _text("validator"),  # what the source told of the image, to know it by
    _text("checksum"),
    sa.Column("written", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("ready", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("uses", sa.Integer, nullable=False, server_default="0"),
    _text("used_at"),
    sa.Index(None, "backend", "pool", "source"),
)

snapshots = sa.Table(
    "snapshots",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("volume_id", sa.Text, sa.ForeignKey("volumes.id"), nullable=False, index=True),
    _text("project_id"),
    _text("user_id"),
    sa.Column("name", sa.Text, nullable=True),
    sa.Column("description", sa.Text, nullable=True),
    sa.Column("virtual_bytes", sa.BigInteger, nullable=False),
    _text("status"),
    sa.Column("op_id", sa.Text, nullable=True),
    _text("locator", default=""),
    _text("progress", default="0%"),
    _text("metadata", default="{}"),
    _text("created_at"),
    sa.Column("updated_at", sa.Text, nullable=True),
    sa.Index(None, "project_id", "created_at", "id"),
    sa.Index(None, "created_at", "id"),
)

attachments = sa.Table(
    "attachments",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("volume_id", sa.Text, sa.ForeignKey("volumes.id"), nullable=False, index=True),
    _text("project_id"),
    sa.Column("instance_id", sa.Text, nullable=True),
    sa.Column("host_name", sa.Text, nullable=True),
    sa.Column("mountpoint", sa.Text, nullable=True),
    _text("status"),  # attach_status of the API: reserved, attaching, attached, detached
    sa.Column("op_id", sa.Text, nullable=True),
    sa.Column("attach_mode", sa.Text, nullable=True),
    sa.Column("connector", sa.Text, nullable=True),  # JSON as the client gave it
    sa.Column("connection_info", sa.Text, nullable=True),  # JSON of backends.contract.Connection
    _text("created_at"),
    sa.Column("updated_at", sa.Text, nullable=True),
    sa.Column("attached_at", sa.Text, nullable=True),
)

operations = sa.Table(
    "operations",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # time-ordered (UUID version 7); also the workflow's id
    _text("kind"),
    _text("state"),  # queued, running, done, error, cancelled
    _text("lane"),  # operations of one lane run one at a time, in the order of their ids
    _text("backend"),
    _text("resource_type"),  # volume, snapshot, attachment
    _text("resource_id"),
    sa.Column("volume_id", sa.Text, nullable=True, index=True),
    _text("project_id"),
    _text("user_id"),
    _text("request_id"),
    _text("arguments", default="{}"),  # JSON; never a secret
    sa.Column("previous_status", sa.Text, nullable=True),  # where the resource goes when nothing was done
    sa.Column("executor", sa.Text, nullable=True),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("cancel_requested", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("progress_done", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("progress_total", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("error", sa.Text, nullable=True),
    _text("created_at"),
    sa.Column("started_at", sa.Text, nullable=True),
    sa.Column("finished_at", sa.Text, nullable=True),
    sa.Index(None, "state", "id"),
    sa.Index(None, "resource_id"),
    sa.Index(None, "project_id", "id"),
    sa.Index(None, "finished_at"),
)
# One running operation a lane, whatever a claim believes: two hosts with different clocks may both
# think theirs is next.
sa.Index(
    "uq_operations_running_lane",
    operations.c.lane,
    unique=True,
    sqlite_where=operations.c.state == "running",
    postgresql_where=operations.c.state == "running",
)

messages = sa.Table(
    "messages",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    _text("project_id"),
    _text("request_id"),
    _text("event_id"),
    _text("user_message"),
    _text("message_level", default="ERROR"),
    sa.Column("resource_type", sa.Text, nullable=True),
    sa.Column("resource_uuid", sa.Text, nullable=True, index=True),
    _text("created_at"),
    sa.Column("expires_at", sa.Text, nullable=False, index=True),
    sa.Index(None, "project_id", "created_at", "id"),
)

quota_limits = sa.Table(
    "quota_limits",
    metadata,
    sa.Column("scope", sa.Text, primary_key=True),  # a project's id, or "class:default"
    sa.Column("resource", sa.Text, primary_key=True),
    sa.Column("hard_limit", sa.BigInteger, nullable=False),  # -1 = unlimited
)

quota_usages = sa.Table(
    "quota_usages",
    metadata,
    sa.Column("project_id", sa.Text, primary_key=True),
    sa.Column("resource", sa.Text, primary_key=True),
    sa.Column("in_use", sa.BigInteger, nullable=False),
    sa.CheckConstraint("in_use >= 0", name="in_use"),
)

services = sa.Table(
    "services",
    metadata,
    sa.Column("host", sa.Text, primary_key=True),
    sa.Column("binary", sa.Text, primary_key=True),
    _text("availability_zone"),
    sa.Column("disabled", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("disabled_reason", sa.Text, nullable=True),
    _text("heartbeat_at"),
)
