"""Promises about volume types: classes of volumes that an administrator offers."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from breezeblock.catalog import listing, types
from breezeblock.catalog.clock import new_id
from breezeblock.catalog.listing import Condition, Page
from breezeblock.errors import ConflictError, DuplicateError, InvalidInputError, NotFoundError
from breezeblock.service.core import Caller, Service
from breezeblock.service.lists import Found

Row = sa.Row[Any]

MAX_SPECS = 200


def list_(service: Service, caller: Caller, conditions: Sequence[Condition], page: Page) -> Found:
    """Return a page of the types that the caller may use."""
    also = () if caller.is_admin else (types.visible_to(caller.project_id),)
    with service.database.read() as connection:
        found = listing.rows(connection, listing.VOLUME_TYPES, conditions, page, *also)
    if found is None:
        raise _missing(page.marker or "")
    return Found(found)


def get(service: Service, caller: Caller, name_or_id: str) -> Row:
    """Return a type that the caller may use."""
    with service.database.read() as connection:
        return _visible(connection, caller, name_or_id)


def default(service: Service, caller: Caller) -> Row:
    """Return the type of volumes that name none."""
    return get(service, caller, service.settings.default_volume_type)


def create(
    service: Service,
    caller: Caller,
    *,
    name: str,
    description: str | None = None,
    is_public: bool = True,
    extra_specs: Mapping[str, str] | None = None,
) -> Row:
    """Add a type (admin). Raises DuplicateError where the name is taken."""
    caller.require_admin("volume_extension:type_create")
    type_id = new_id()
    with service.database.write() as connection:
        _require_free(connection, name)
        types.insert(
            connection,
            type_id,
            name=name,
            description=description,
            is_public=is_public,
            extra_specs=_text(extra_specs or {}),
        )
        return _visible(connection, caller, type_id)


def update(service: Service, caller: Caller, type_id: str, values: Mapping[str, Any]) -> Row:
    """Change name, description or is_public of a type (admin)."""
    caller.require_admin("volume_extension:type_update")
    with service.database.write() as connection:
        row = _visible(connection, caller, type_id)
        if "name" in values and values["name"] != row.name:
            if row.name == service.settings.default_volume_type:
                raise ConflictError(f"Volume type {row.name} is the default one; its name cannot change.")
            _require_free(connection, values["name"])
        types.update(connection, row.id, values)
        return _visible(connection, caller, row.id)


def delete(service: Service, caller: Caller, type_id: str) -> None:
    """Remove a type that no volume has (admin)."""
    caller.require_admin("volume_extension:type_delete")
    with service.database.write() as connection:
        row = _visible(connection, caller, type_id)
        if row.name == service.settings.default_volume_type:
            raise ConflictError(f"The volume type {row.id} is the default volume type and cannot be deleted.")
        if types.in_use(connection, row.id):
            raise ConflictError("Target volume type is still in use.")
        types.delete(connection, row.id)


def change_specs(
    service: Service,
    caller: Caller,
    type_id: str,
    *,
    put: Mapping[str, str] | None = None,
    remove: str | None = None,
) -> dict[str, str]:
    """Set some extra specs of a type, or remove one (admin); return all of them."""
    caller.require_admin("volume_extension:types_extra_specs")
    with service.database.write() as connection:
        row = _visible(connection, caller, type_id)
        specs: dict[str, str] = msgspec.json.decode(row.extra_specs)
        if remove is not None and specs.pop(remove, None) is None:
            raise NotFoundError(f"Volume Type {row.id} has no extra specs with key {remove}.")
        specs.update(put or {})
        types.update(connection, row.id, {"extra_specs": _text(specs)})
    return specs


def access(service: Service, caller: Caller, type_id: str) -> tuple[str, Sequence[str]]:
    """Return the id of a private type and the projects that may use it (admin)."""
    caller.require_admin("volume_extension:volume_type_access:get_all_for_type")
    with service.database.read() as connection:
        row = _visible(connection, caller, type_id)
        if row.is_public:
            raise NotFoundError("Access list not available for public volume types.")
        return row.id, types.access(connection, row.id)


def add_access(service: Service, caller: Caller, type_id: str, project_id: str) -> None:
    """Give a private type to a project (admin)."""
    caller.require_admin("volume_extension:volume_type_access:add_project_access")
    with service.database.write() as connection:
        row = _private(connection, caller, type_id)
        if project_id in types.access(connection, row.id):
            raise DuplicateError(
                f"Volume type access for {row.id} / {project_id} combination already exists."
            )
        types.add_access(connection, row.id, project_id)


def remove_access(service: Service, caller: Caller, type_id: str, project_id: str) -> None:
    """Take a private type from a project (admin)."""
    caller.require_admin("volume_extension:volume_type_access:remove_project_access")
    with service.database.write() as connection:
        row = _private(connection, caller, type_id)
        if not types.remove_access(connection, row.id, project_id):
            raise NotFoundError(f"Volume type access not found for {row.id} / {project_id} combination.")


def _visible(connection: sa.Connection, caller: Caller, name_or_id: str) -> Row:
    row = types.find(connection, name_or_id)
    if row is None or not (
        caller.is_admin or row.is_public or caller.project_id in types.access(connection, row.id)
    ):
        raise _missing(name_or_id)
    return row


def _private(connection: sa.Connection, caller: Caller, type_id: str) -> Row:
    row = _visible(connection, caller, type_id)
    if row.is_public:
        raise InvalidInputError(
            "Invalid volume type: Type access modification is not applicable to public volume type."
        )
    return row


def _require_free(connection: sa.Connection, name: str) -> None:
    if types.find(connection, name) is not None:
        raise DuplicateError(f"Volume Type {name} already exists.")


def _missing(name_or_id: str) -> NotFoundError:
    return NotFoundError(f"Volume type {name_or_id} could not be found.")


def _text(specs: Mapping[str, str]) -> str:
    if len(specs) > MAX_SPECS:
        raise InvalidInputError(f"A volume type has at most {MAX_SPECS} extra specs, not {len(specs)}.")
    return msgspec.json.encode(specs).decode()
