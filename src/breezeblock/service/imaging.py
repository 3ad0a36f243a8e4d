"""Promises about images: a volume from one, and one from a volume."""

import msgspec

from breezeblock.catalog import pools, rows, tables
from breezeblock.catalog.states import transition
from breezeblock.errors import ConflictError, InvalidInputError
from breezeblock.images import addresses, inspection, remote
from breezeblock.service import queue, scheduling, volumes
from breezeblock.service.core import Caller, Service


def bring_in(service: Service, caller: Caller, new: volumes.NewVolume) -> str:
    """Promise a volume with the content of `new.image`; return its id."""
    assert new.image is not None  # noqa: S101 - the caller's promise
    _check(service, new.image)
    return volumes.create(service, caller, new)


def bring_out(service: Service, caller: Caller, volume_id: str, image: volumes.Image) -> str:
    """Promise that an available volume is written as an image; return the operation's id."""
    _check(service, image)
    step = transition("volume", "export")
    with service.database.write() as connection:
        operation_id = queue.number(connection)
        row = volumes.visible(connection, caller, volume_id)
        volumes.require_status("Volume", row, step)
        pool = pools.get(connection, row.backend, row.pool)
        if pool is not None and not scheduling.capabilities(pool).images:
            raise InvalidInputError(f"Back end {row.backend} cannot write images.")
        changed = rows.compare_and_set(
            connection, tables.volumes, volume_id, step.sources, status=step.during, op_id=operation_id
        )
        if not changed:
            raise ConflictError(f"Invalid volume: Volume {volume_id} was changed by another request.")
        queue.enqueue(
            connection,
            caller,
            operation_id,
            "export_volume",
            backend=row.backend,
            volume_id=volume_id,
            previous_status=row.status,
            arguments={"image": msgspec.to_builtins(image)},
        )
    service.wake()
    return operation_id


def _check(service: Service, image: volumes.Image) -> None:
    addresses.check(image.url, service.settings.images)
    if image.format not in inspection.FORMATS:
        raise InvalidInputError(
            f"Images of format {image.format[:40]!a} are not supported; {', '.join(inspection.FORMATS)} are."
        )
    if image.checksum:
        remote.check_checksum(image.checksum)
