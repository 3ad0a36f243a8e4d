"""Volumes as clients see them (Block Storage API v3 reference, "Volumes")."""

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import sqlalchemy as sa
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.json import decode, encode

from breezeblock.api.http import Request
from breezeblock.service.core import GIB

Row = sa.Row[Any]


class Attached(Struct, gc=False):
    """One attachment inside a volume. Its `id` is the volume's: clients rely on it."""

    id: str
    attachment_id: str
    volume_id: str
    server_id: str | None
    host_name: str | None
    device: str | None
    attached_at: str | None


class Brief(Struct, gc=False):
    """A volume in a list without details."""

    id: str
    name: str | None
    links: Raw


class Volume(
    Struct,
    rename={
        "host": "os-vol-host-attr:host",
        "tenant_id": "os-vol-tenant-attr:tenant_id",
        "migstat": "os-vol-mig-status-attr:migstat",
        "name_id": "os-vol-mig-status-attr:name_id",
    },
):
    """A volume."""

    id: str
    name: str | None
    description: str | None
    status: str
    size: int
    availability_zone: str
    created_at: str
    updated_at: str | None
    volume_type: str
    snapshot_id: str | None
    source_volid: str | None
    metadata: Raw
    links: Raw
    user_id: str
    bootable: str
    multiattach: bool
    attachments: list[Attached]
    encrypted: bool = False
    replication_status: str | None = None
    consistencygroup_id: str | None = None
    volume_image_metadata: Raw | UnsetType = UNSET
    tenant_id: str | UnsetType = UNSET
    group_id: str | UnsetType | None = UNSET
    shared_targets: bool | UnsetType = UNSET
    service_uuid: str | UnsetType | None = UNSET
    volume_type_id: str | UnsetType = UNSET
    consumes_quota: bool | UnsetType = UNSET
    # For administrators.
    migration_status: str | UnsetType | None = UNSET
    host: str | UnsetType = UNSET
    migstat: str | UnsetType | None = UNSET
    name_id: str | UnsetType | None = UNSET
    provider_id: str | UnsetType | None = UNSET
    cluster_name: str | UnsetType | None = UNSET


# One call for a row's columns: asking for them one by one takes as long as the query.
_fields = attrgetter(
    "id", "project_id", "user_id", "name", "description", "virtual_bytes", "status", "backend", "pool",
    "volume_type_id", "availability_zone", "bootable", "multiattach", "snapshot_id", "source_volid",
    "metadata", "image_metadata", "migration_status", "created_at", "updated_at", "volume_type", "readonly",
)  # fmt: skip


def brief(request: Request, rows: Sequence[Row]) -> list[Brief]:
    """Return the volumes of a list without details."""
    links = _links(request)
    return [Brief(row.id, row.name, links(row.id)) for row in rows]


def detailed(
    request: Request, rows: Sequence[Row], attached: Mapping[str, Sequence[Row]], *, extended: bool = True
) -> list[Volume]:
    """Return volumes with everything; `extended` off for the answers to create and update.

    Clients check those against schemas of their own, which know no `os-*` attributes there.
    """
    admin = request.caller.is_admin
    links = _links(request)
    host = f"{request.service.settings.host}@"
    # What depends on the version alone is decided once, not for every row.
    group_id: str | UnsetType | None = None if request.at_least(13) else UNSET
    provider_id: str | UnsetType | None = None if admin and request.at_least(21) else UNSET
    shared_targets: bool | UnsetType = False if request.at_least(48) else UNSET
    service_uuid: str | UnsetType | None = None if request.at_least(48) else UNSET
    cluster_name: str | UnsetType | None = None if admin and request.at_least(61) else UNSET
    with_type_id = request.at_least(63)
    consumes_quota: bool | UnsetType = True if request.at_least(65) else UNSET
    views = []
    for row in rows:
        (
            id_, project_id, user_id, name, description, virtual_bytes, status, backend, pool, type_id, zone,
            bootable, multiattach, snapshot_id, source_volid, metadata, image_metadata, migration_status,
            created_at, updated_at, type_name, readonly,
        ) = _fields(row)  # fmt: skip
        view = Volume(
            id_, name, description, status, -(-virtual_bytes // GIB), zone, created_at, updated_at, type_name,
            snapshot_id, source_volid, Raw(metadata), links(id_), user_id, "true" if bootable else "false",
            multiattach, _attached(attached[id_], admin=admin) if id_ in attached else [],
        )  # fmt: skip
        if readonly is not None:  # clients look for this flag among the metadata
            view.metadata = Raw(encode({**decode(metadata), "readonly": str(readonly)}))
        view.group_id = group_id
        view.shared_targets = shared_targets
        view.service_uuid = service_uuid
        view.consumes_quota = consumes_quota
        if with_type_id:
            view.volume_type_id = type_id
        if admin:
            view.migration_status = migration_status
            view.provider_id = provider_id
        if extended:
            view.tenant_id = project_id
            view.cluster_name = cluster_name
            if image_metadata != "{}":
                view.volume_image_metadata = Raw(image_metadata)
            if admin:
                view.host = f"{host}{backend}#{pool}"
                view.migstat = migration_status
                view.name_id = None
        views.append(view)
    return views


def one(request: Request, row: Row, attached: Sequence[Row], *, extended: bool = True) -> Volume:
    """Return one volume."""
    return detailed(request, [row], {row.id: attached}, extended=extended)[0]


def _attached(rows: Sequence[Row], *, admin: bool) -> list[Attached]:
    return [
        Attached(
            row.volume_id,
            row.id,
            row.volume_id,
            row.instance_id,
            row.host_name if admin else None,  # which host runs a guest is the operator's affair
            row.mountpoint,
            row.attached_at,
        )
        for row in rows
    ]


def _links(request: Request) -> Any:
    # Built as text: two objects a volume would cost more than the rest of the view. The base holds
    # nothing that JSON would have to escape (api.app checks it).
    start = f'[{{"rel":"self","href":"{request.project_url}/volumes/'
    middle = f'"}},{{"rel":"bookmark","href":"{request.bookmark_url}/volumes/'

    def links(volume_id: str) -> Raw:
        return Raw(f'{start}{volume_id}{middle}{volume_id}"}}]')

    return links
