"""Pools, services, availability zones, extensions, and which filters there are."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from breezeblock import __version__
from breezeblock.api import filters, inputs
from breezeblock.api.http import Reply, Request, reply
from breezeblock.api.routing import Endpoint
from breezeblock.backends.contract import Capabilities, Health
from breezeblock.catalog.families import Chains
from breezeblock.service import infrastructure as service
from breezeblock.service import scheduling, volume_types
from breezeblock.service.core import GIB

ALIVE_S = 60
"""A process that has not reported for this long is down; Cinder's default."""

# Tools look for Cinder's names: what our processes do is what those do there.
_BINARIES = {"breezeblock-worker": "cinder-volume", "breezeblock-api": "cinder-scheduler"}

_EXTENSIONS = {
    "os-availability-zone": "AvailabilityZones",
    "os-extended-services": "ExtendedServices",
    "os-extended-snapshot-attributes": "ExtendedSnapshotAttributes",
    "os-quota-class-sets": "QuotaClasses",
    "os-quota-sets": "Quotas",
    "OS-SCH-HNT": "SchedulerHints",
    "os-services": "Services",
    "os-snapshot-actions": "SnapshotActions",
    "os-types-extra-specs": "TypesExtraSpecs",
    "os-types-manage": "TypesManage",
    "os-used-limits": "UsedLimits",
    "os-vol-host-attr": "VolumeHostAttribute",
    "os-vol-mig-status-attr": "VolumeMigStatusAttribute",
    "os-vol-tenant-attr": "VolumeTenantAttribute",
    "os-volume-actions": "VolumeActions",
    "os-volume-type-access": "VolumeTypeAccess",
    "scheduler-stats": "Scheduler_stats",
}


def pools(request: Request) -> Reply:
    """List pools, with `detail` what they can do and hold."""
    found = service.pools(request.service, request.caller)
    chains = service.chains(request.service, request.caller)
    detail = "detail" in request.query and inputs.flag("detail", request.query["detail"])
    host = request.service.settings.host
    wanted = request.query.get("name") if request.at_least(28) else None
    specs: dict[str, str] = {}
    if request.at_least(35) and request.query.get("volume_type"):
        row = volume_types.get(request.service, request.caller, request.query["volume_type"])
        specs = msgspec.json.decode(row.extra_specs)
    shown: list[dict[str, Any]] = []
    for pool in found:
        name = f"{host}@{pool.backend}#{pool.name}"
        if wanted not in {None, name} or specs.get("volume_backend_name", pool.backend) != pool.backend:
            continue
        one: dict[str, Any] = {"name": name}
        if detail:
            health = msgspec.json.decode(pool.health, type=Health)
            of_pool = chains.get((pool.backend, pool.name), Chains())
            one["capabilities"] = _capabilities(pool, of_pool, health)
            if health.endpoints:  # beside Cinder's capabilities, in which exporters want scalars only
                one["endpoints"] = health.endpoints
        shown.append(one)
    return reply({"pools": shown})


def services(request: Request) -> Reply:
    """List processes; a worker once for each back end that it serves."""
    wanted = {key: request.query.get(key) for key in ("host", "binary")}
    oldest = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=ALIVE_S)
    shown = [
        _service(request, row, host, oldest)
        for row, host in service.services(request.service, request.caller)
    ]
    return reply(
        {
            "services": [
                found
                for found in shown
                if wanted["binary"] in {None, found["binary"]}
                # `host` alone stands for all that is at work under that name
                and wanted["host"] in {None, found["host"], found["host"].partition("@")[0]}
            ]
        }
    )


def zones(request: Request) -> Reply:
    """List the one availability zone."""
    zone = request.service.settings.availability_zone
    return reply({"availabilityZoneInfo": [{"zoneName": zone, "zoneState": {"available": True}}]})


def extensions(_request: Request) -> Reply:
    """List the extensions that clients look for before they use them."""
    return reply(
        {
            "extensions": [
                {
                    "alias": alias,
                    "name": name,
                    "description": f"{name} support.",
                    "updated": "2017-01-01T00:00:00+00:00",
                    "links": [],
                }
                for alias, name in _EXTENSIONS.items()
            ]
        }
    )


def resource_filters(request: Request) -> Reply:
    """List the filters that everyone may use."""
    wanted = request.query.get("resource")
    found = filters.EVERYONE
    if wanted is not None:
        found = {wanted: found[wanted]} if wanted in found else {}
    return reply(
        {"resource_filters": [{"resource": name, "filters": list(keys)} for name, keys in found.items()]}
    )


def _capabilities(pool: Any, chains: Chains, health: Health) -> dict[str, Any]:
    can = msgspec.json.decode(pool.capabilities, type=Capabilities)
    # Scalars only: exporters have crashed on anything else.
    return {
        **scheduling.abilities(can),
        **can.facts,
        "volume_backend_name": pool.backend,
        "pool_name": pool.name,
        "total_capacity_gb": _gib(pool.total_bytes),
        "free_capacity_gb": _gib(pool.free_bytes),
        "allocated_capacity_gb": pool.provisioned_bytes // GIB,
        "provisioned_capacity_gb": pool.provisioned_bytes // GIB,
        "reserved_percentage": pool.reserved_percentage,
        "used_ratio": f"{pool.used_ratio:g}",
        "max_chain_depth": pool.max_chain_depth,
        "deepest_chain": max(chains.deepest_chain, health.deepest_chain or 0),
        "hidden_layers": chains.hidden_layers,
        "reclaimable_gb": _gib(chains.reclaimable_bytes),
        "unmerged_images": health.unmerged_images,
        "unmerged_gb": _gib(health.unmerged_bytes),
        "full_in_hours": _hours(health.full_in_s),
        "chain_full_in_hours": _hours(health.chain_full_in_s),
        "max_over_subscription_ratio": f"{pool.max_over_subscription_ratio:g}",
        "storage_protocol": can.storage_protocol,
        "driver_version": __version__,
        "vendor_name": "Breezeblock",
        "backend_state": "up" if pool.up else "down",
        "reason": pool.reason,
        "timestamp": pool.updated_at,
    }


def _gib(amount: int | None) -> float | str:
    return "unknown" if amount is None else round(amount / GIB, 2)


def _hours(seconds: float | None) -> float | str:
    return "unknown" if seconds is None else round(seconds / 3600, 1)


def _service(request: Request, row: Any, host: str, oldest: datetime) -> dict[str, Any]:
    alive = datetime.fromisoformat(row.heartbeat_at) >= oldest
    shown: dict[str, Any] = {
        "binary": _BINARIES.get(row.binary, row.binary),
        "host": host,
        "zone": row.availability_zone,
        "status": "disabled" if row.disabled else "enabled",
        "state": "up" if alive else "down",
        "updated_at": row.heartbeat_at,
        "disabled_reason": row.disabled_reason,
    }
    if request.at_least(7):
        shown["cluster"] = None
    if shown["binary"] == "cinder-volume":
        shown.update(replication_status="disabled", active_backend_id=None, frozen=False)
        if request.at_least(49):
            shown["backend_state"] = shown["state"]
    return shown


ENDPOINTS = (
    Endpoint("GET", "/scheduler-stats/get_pools", pools),
    Endpoint("GET", "/os-services", services),
    Endpoint("GET", "/os-availability-zone", zones),
    Endpoint("GET", "/extensions", extensions),
    Endpoint("GET", "/resource_filters", resource_filters, since=33),
)
