"""Filters of lists: which exist, who may use them, and what they mean.

Before 3.31 an unknown filter is ignored, from then on it is refused; `key~=text` (3.34) matches a part of
the value; times take comparisons from 3.60 on.
"""

import ast
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import cast

import msgspec

from breezeblock.api import inputs, pages
from breezeblock.api.http import Request
from breezeblock.catalog.listing import Condition, Test
from breezeblock.errors import InvalidInputError

EVERYONE: dict[str, tuple[str, ...]] = {
    "volume": (
        "name", "status", "metadata", "bootable", "migration_status", "availability_zone", "group_id",
        "size", "created_at", "updated_at", "consumes_quota",
    ),
    "snapshot": ("name", "status", "volume_id", "metadata", "availability_zone", "consumes_quota"),
    "backup": ("name", "status", "volume_id"),
    "group": ("name",),
    "group_snapshot": ("name", "status", "group_id"),
    "attachment": ("volume_id", "status", "instance_id", "attach_status"),
    "message": ("resource_uuid", "resource_type", "event_id", "request_id", "message_level"),
    "pool": ("name", "volume_type"),
    "volume_type": ("is_public", "extra_specs"),
}  # fmt: skip
"""What `resource_filters` lists. Cinder's defaults, so that clients find what they know."""

ADMINS: dict[str, tuple[str, ...]] = {
    "volume": (
        "id", "user_id", "project_id", "description", "host", "multiattach", "volume_type_id",
        "snapshot_id", "source_volid",
    ),
    "snapshot": ("id", "user_id", "project_id", "description", "progress"),
    "attachment": ("id", "project_id", "attach_mode"),
    "message": ("id", "project_id"),
}  # fmt: skip

_ALIASES = {"display_name": "name", "display_description": "description", "instance_uuid": "instance_id"}
_NEVER = Condition("id", None)
_TIME_TESTS = ("gt", "gte", "eq", "neq", "lt", "lte")


def conditions(request: Request, resource: str, *, also: frozenset[str] = frozenset()) -> list[Condition]:
    """Read every parameter that is a filter; `also` are parameters that mean something else."""
    allowed = set(EVERYONE[resource])
    if request.caller.is_admin:
        allowed.update(ADMINS.get(resource, ()))
    skipped = pages.CONTROLS | {"all_tenants"} | also
    if request.at_least(45):
        skipped |= {"with_count"}
    found: list[Condition] = []
    unknown: list[str] = []
    for key, value in request.query.items():
        if key in skipped:
            continue
        like = key.endswith("~") and request.at_least(34)
        plain = key.removesuffix("~") if like else key
        field = _ALIASES.get(plain, plain)
        if field not in allowed:
            unknown.append(key)
        elif like and field in _LIKE and (resource, field) not in _CONSTANT:
            found.append(Condition(_column(resource, field), value, "like"))
        else:
            found.extend(_condition(request, resource, field, value))
    if unknown and request.at_least(31):
        listed = ", ".join(repr(key[:64]) for key in sorted(unknown)[:8])
        raise InvalidInputError(
            f"Invalid filters {listed} are found in query options.",
            remedy=f"Allowed: {', '.join(sorted(allowed))}.",
        )
    return found


def entries(field: str, text: str) -> dict[str, str]:
    """Read an object written as JSON or as a Python literal, as clients do both."""
    value: object = None
    if len(text) <= 4096:
        try:
            value = msgspec.json.decode(text)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            try:
                value = ast.literal_eval(text)
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                value = None
    if not isinstance(value, dict):
        raise InvalidInputError(f"Filter {field} must be an object of strings, such as {{'key': 'value'}}.")
    return {str(key): str(item) for key, item in value.items()}


def _condition(request: Request, resource: str, field: str, value: str) -> list[Condition]:
    constant = _CONSTANT.get((resource, field)) or _CONSTANT.get(("", field))
    if constant is not None:
        return [] if constant(request, value) else [_NEVER]
    column = _column(resource, field)
    match field:
        case "created_at" | "updated_at" if request.at_least(60):
            return _times(field, value)
        case "bootable" if not request.at_least(2) and value.lower() not in {"true", "false"}:
            return []
        case "metadata":
            return [Condition(column, entries(field, value), "has")]
        case "bootable" | "multiattach":
            wanted: object = inputs.flag(field, value)
        case "size":
            wanted = inputs.whole(field, value, low=0, high=inputs.MAX_GIB)
        case "host":
            wanted = value.rpartition("@")[2]
        case _:
            wanted = None if value == "" and field in _NULLABLE else value
    return [Condition(column, wanted)]


def _times(field: str, text: str) -> list[Condition]:
    found = []
    for item in text.split(","):
        test, colon, moment = item.strip().partition(":")
        if test not in _TIME_TESTS or not colon:
            test, moment = "eq", item.strip()
        found.append(Condition(field, _moment(field, moment), cast("Test", test)))
    return found


def _moment(field: str, text: str) -> str:
    try:
        # A plus sign in a query string is a space.
        moment = datetime.fromisoformat(re.sub(r" (\d\d:?\d\d)$", r"+\1", text.strip()))
        if moment.tzinfo is not None:
            moment = moment.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError) as error:
        raise InvalidInputError(
            f"Filter {field}: {text[:64]!r} is no ISO 8601 time.",
            remedy=f"Write {field}=gt:2026-01-31T00:00:00.",
        ) from error
    return moment.isoformat(timespec="microseconds")


def _column(resource: str, field: str) -> str:
    return "status" if resource == "attachment" and field == "attach_status" else field


_LIKE = frozenset(
    {"name", "description", "status", "availability_zone", "host", "id", "user_id", "volume_id",
     "resource_uuid", "resource_type", "event_id", "request_id", "message_level"}
)  # fmt: skip
_NULLABLE = frozenset({"migration_status", "snapshot_id", "source_volid", "instance_id"})
# Fields that are the same for every row here: the filter allows all of them or none.
_CONSTANT: dict[tuple[str, str], Callable[[Request, str], bool]] = {
    ("", "group_id"): lambda _request, _value: False,
    ("", "consumes_quota"): lambda _request, value: inputs.flag("consumes_quota", value),
    ("snapshot", "availability_zone"): lambda request, value: (
        value == request.service.settings.availability_zone
    ),
}
