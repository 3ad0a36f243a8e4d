"""From a configuration to the parts that run: database, back ends, service, worker."""

from collections.abc import Callable
from pathlib import Path

import msgspec

from breezeblock.backends import registry
from breezeblock.backends.contract import Backend
from breezeblock.backends.decorators import wrap
from breezeblock.catalog import migrate
from breezeblock.catalog.database import Database
from breezeblock.config import Config, PoolPolicy, split_policy
from breezeblock.images.addresses import S3, Policy
from breezeblock.service.core import Service, Settings


def open_database(config: Config) -> Database:
    """Open the catalog at the schema of this version.

    A SQLite file is brought up to date at once: it is ours alone. A shared PostgreSQL is not changed
    under the feet of other hosts; ConfigError says to run `breezeblock db upgrade`.
    """
    database = Database(config.database.url)
    if database.dialect == "sqlite":
        migrate.upgrade(database)
    else:
        migrate.require_current(database)
    return database


def open_backends(config: Config) -> tuple[dict[str, Backend], dict[str, PoolPolicy]]:
    """Make every configured back end (not started yet) and the policy of each."""
    backends: dict[str, Backend] = {}
    policies: dict[str, PoolPolicy] = {}
    for name, section in config.backends.items():
        where = f"[backends.{name}]"
        policies[name], own = split_policy(section, where)
        settings = registry.read_config(own, where)
        backends[name] = wrap(registry.open_apart(name, settings, Path(config.service.state_dir)))
    return backends, policies


def image_policy(config: Config) -> Policy:
    """Return what images may be brought from and to."""
    images = config.images
    return Policy(
        schemes=images.schemes,
        directories=images.directories,
        private_addresses=images.private_addresses,
        max_bytes=images.max_bytes,
        timeout_s=images.timeout_s,
        max_redirects=images.max_redirects,
        s3=S3(**msgspec.structs.asdict(images.s3)) if images.s3 else None,
        scratch=images.scratch_dir or f"{config.service.state_dir}/images",
    )


def make_service(config: Config, database: Database, wake: Callable[[], None]) -> Service:
    """Make the handle of the promises."""
    return Service(
        database=database,
        settings=Settings(
            host=config.service.name,
            availability_zone=config.service.availability_zone,
            default_volume_type=config.service.default_volume_type,
            quota=msgspec.structs.asdict(config.quota),
            images=image_policy(config),
            message_ttl_s=config.engine.keep_finished_days * 86400,
        ),
        wake=wake,
    )
