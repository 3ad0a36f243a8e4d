"""Which pool takes a new volume: by what its type asks for, and by room."""

from collections.abc import Mapping
from typing import Any

import msgspec
import sqlalchemy as sa

from breezeblock.backends.contract import Capabilities
from breezeblock.catalog import pools
from breezeblock.errors import ConflictError, InvalidInputError
from breezeblock.operations.job import OPTION_SCOPE
from breezeblock.service.core import GIB

VENDOR = "Breezeblock"

_NAMING = {"volume_backend_name", "pool_name", "storage_protocol"}
# Extra specs that say what consumers do with a volume; they ask nothing of a pool.
_IGNORED = ("multiattach", "replication_enabled", "RESKEY:availability_zones")


def capabilities(pool: sa.Row[Any]) -> Capabilities:
    """Return what the pool's back end declared."""
    return msgspec.json.decode(pool.capabilities, type=Capabilities)


def scalars(pool: sa.Row[Any]) -> dict[str, str]:
    """Return the capabilities of a pool that extra specs are compared with, as text."""
    found = capabilities(pool)
    return {
        **{name: str(able) for name, able in abilities(found).items()},
        **found.facts,
        "volume_backend_name": pool.backend,
        "pool_name": pool.name,
        "storage_protocol": found.storage_protocol,
        "vendor_name": VENDOR,
    }


def abilities(found: Capabilities) -> dict[str, bool]:
    """Return what volumes of a pool can, as `get_pools` shows it and extra specs ask for it (`<is> True`)."""
    return {
        "thin_provisioning_support": found.thin,
        "thick_provisioning_support": not found.thin,
        "multiattach": False,
        "QoS_support": False,
        "extend_support": found.extend,
        "linked_clone_support": "linked" in found.options.get("clone", ()),
        "snapshot_support": found.snapshots,
        "online_snapshot_support": found.online_snapshots,
        "revert_to_snapshot_support": found.revert != "none",
        "read_only": found.read_only,
    }


def options(extra_specs: Mapping[str, str]) -> dict[str, str]:
    """Return what a volume type asks of the back end itself (`breezeblock:KEY`)."""
    return {
        key.removeprefix(OPTION_SCOPE): value
        for key, value in extra_specs.items()
        if key.startswith(OPTION_SCOPE)
    }


def clone_options(
    connection: sa.Connection, specs: Mapping[str, str], place: tuple[str, str], depth: int
) -> dict[str, str]:
    """Return the options of a volume that is made from another of `depth` layers (0: of none).

    Where the pool allows no deeper chain, it is copied, unless its type says that it must not be.
    """
    wanted = options(specs)
    pool = pools.get(connection, *place)
    if not depth or pool is None or not pool.max_chain_depth or not capabilities(pool).linked_clones:
        return wanted
    if depth < pool.max_chain_depth:
        return wanted
    if wanted.get("clone") == "linked":
        raise ConflictError(
            f"Invalid volume: the source is read through {depth} layers, as many as its pool allows, and the "
            "volume type asks for a linked clone. Delete snapshots of the source or flatten it first."
        )
    return {**wanted, "clone": "full"}


def promised_limit(pool: sa.Row[Any]) -> int | None:
    """Return how many bytes may be promised to volumes of a pool; None where nothing is known."""
    if pool.total_bytes is None:
        return None
    usable = pool.total_bytes * (100 - pool.reserved_percentage) // 100
    ratio = pool.max_over_subscription_ratio if capabilities(pool).thin else 1.0
    return int(usable * ratio)


def refusal(pool: sa.Row[Any], virtual_bytes: int, extra_specs: Mapping[str, str]) -> str:
    """Say why a pool cannot take a volume; empty when it can."""
    if not pool.up:
        return f"it is down: {pool.reason or 'no reason was given'}"
    mismatch = _mismatch(pool, extra_specs)
    if mismatch:
        return mismatch
    if capabilities(pool).read_only:
        return "it is read-only: volumes are managed there, never made or changed"
    most = capabilities(pool).max_virtual_bytes
    if most is not None and virtual_bytes > most:
        return f"its largest volume is {most // GIB} GiB"
    limit = promised_limit(pool)
    if limit is not None and pool.provisioned_bytes + virtual_bytes > limit:
        return (
            f"{pool.provisioned_bytes // GIB} of the {limit // GIB} GiB that it may promise are promised"
            f" (total {_gib(pool.total_bytes)}, reserved {pool.reserved_percentage} %,"
            f" over-subscription {pool.max_over_subscription_ratio:g})"
        )
    return _full(pool, virtual_bytes)


def _full(pool: sa.Row[Any], virtual_bytes: int) -> str:
    """Say whether what is really free does not suffice; thin volumes need something, thick ones all."""
    if pool.free_bytes is None or pool.total_bytes is None:
        return ""
    reserved = pool.total_bytes * pool.reserved_percentage // 100
    needed = virtual_bytes if not capabilities(pool).thin else 0
    if pool.free_bytes - reserved <= needed:
        return f"{_gib(pool.free_bytes)} are free, {_gib(reserved)} of them reserved"
    used = pool.total_bytes - pool.free_bytes
    if used + needed > pool.total_bytes * pool.used_ratio:
        return f"{_gib(used)} of {_gib(pool.total_bytes)} are in use, {pool.used_ratio:.0%} may be"
    return ""


def candidates(
    connection: sa.Connection, virtual_bytes: int, extra_specs: Mapping[str, str], backend: str | None = None
) -> list[sa.Row[Any]]:
    """Return the pools (of one back end, if it is named) that can take a volume, most room first.

    Raises InvalidInputError with every pool's reason when none can.
    """
    reasons, able = [], []
    for pool in pools.all_pools(connection):
        if backend not in {None, pool.backend}:
            continue
        reason = _unasked(pool, extra_specs) or refusal(pool, virtual_bytes, extra_specs)
        if reason:
            reasons.append(f"{pool.backend}#{pool.name}: {reason}")
        else:
            able.append(pool)
    if not able:
        raise nowhere(virtual_bytes, reasons)
    return sorted(able, key=_room, reverse=True)


def place(
    connection: sa.Connection,
    virtual_bytes: int,
    specs: Mapping[str, str],
    source: tuple[str, str] | None,
) -> tuple[str, str]:
    """Promise the bytes in a pool: the source's where there is one, else the roomiest that can.

    What nothing can be made beside is cloned into another pool of its back end, which alone can read it.
    """
    pool = pools.get(connection, *source) if source else None
    reading = pool is not None and capabilities(pool).read_only
    if source is not None and not reading:
        reason = "it is not known" if pool is None else refusal(pool, virtual_bytes, specs)
        if reason:
            raise nowhere(virtual_bytes, [f"{'#'.join(source)} (where the source is): {reason}"])
        pools.provision(connection, *source, virtual_bytes)
        return source
    backend = source[0] if source else None
    found = candidates(connection, virtual_bytes, specs, backend)
    for pool in found:
        limit = promised_limit(pool)
        if pools.provision(connection, pool.backend, pool.name, virtual_bytes, limit):
            return pool.backend, pool.name
    raise nowhere(virtual_bytes, [f"{p.backend}#{p.name}: it has just filled up" for p in found])


def _unasked(pool: sa.Row[Any], extra_specs: Mapping[str, str]) -> str:
    """Say whether a pool that takes only what asks for it was not asked for."""
    asked = {key.removeprefix("capabilities:") for key in extra_specs}
    if not capabilities(pool).only_by_type or asked & _NAMING:
        return ""
    return "it takes only volumes whose type names it"


def nowhere(virtual_bytes: int, reasons: list[str]) -> InvalidInputError:
    """Return the error that says why no pool takes a volume."""
    listed = "; ".join(reasons) or "no back end has reported a pool yet"
    return InvalidInputError(
        f"No valid backend was found: no pool can take a volume of {virtual_bytes // GIB} GiB. {listed}."
    )


def _mismatch(pool: sa.Row[Any], extra_specs: Mapping[str, str]) -> str:
    have = scalars(pool)
    offered = capabilities(pool).options
    for key, wanted in extra_specs.items():
        if key.startswith(OPTION_SCOPE):
            name = key.removeprefix(OPTION_SCOPE)
            if wanted not in offered.get(name, ()):
                allowed = ", ".join(offered.get(name, ())) or "nothing"
                return f"its back end takes {allowed} for {name}, not {wanted!r}"
            continue
        scope, separator, name = key.rpartition(":")
        if key in _IGNORED or (separator and scope != "capabilities"):
            continue  # Cinder too leaves other scopes to others
        if name not in have:
            return f"it has no capability {name!r}"
        if not _matches(wanted, have[name]):
            return f"its {name} is {have[name]}, not {wanted}"
    return ""


def _matches(wanted: str, have: str) -> bool:
    if wanted.startswith("<is> "):
        return wanted.removeprefix("<is> ").strip().lower() == have.lower()
    if wanted.startswith("<in> "):
        return wanted.removeprefix("<in> ").strip() in have
    return wanted == have


def _room(pool: sa.Row[Any]) -> int:
    """Say how much more could be promised: as the limit has it, and as what is really free allows."""
    limit = promised_limit(pool)
    if limit is None or pool.free_bytes is None:
        return 1 << 62
    reserved = pool.total_bytes * pool.reserved_percentage // 100
    ratio = pool.max_over_subscription_ratio if capabilities(pool).thin else 1.0
    return min(limit - int(pool.provisioned_bytes), int((pool.free_bytes - reserved) * ratio))


def _gib(amount: int) -> str:
    return f"{amount / GIB:.1f} GiB"
