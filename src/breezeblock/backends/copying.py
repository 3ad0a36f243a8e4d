"""Correct slow defaults for back ends that can open their bytes (`Capabilities.data`).

`clone` and `create_from_snapshot` become create + copy; `revert` becomes a copy in place. They sit
above the contract, so no back end carries its own slow path.

Re-running after a kill copies everything again: what was copied before may be of any age, and the
target is not in use until the verb has returned. Ranges that the source does not hold are zeroed in
the target wherever the target holds something, so a half-copied older state cannot shine through.
"""

from collections.abc import Iterator

import msgspec

from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Backend, Capabilities, Data, Placement, Snapshot, Volume
from breezeblock.backends.proxy import Proxy
from breezeblock.errors import CancelledOperationError, InvalidInputError, UnsupportedError

CHUNK_BYTES = 4 << 20


def with_copies(backend: Backend) -> Backend:
    """Return `backend`, with the verbs it lacks supplied by copying where `data` makes that possible."""
    able = backend.capabilities()
    if not able.data or (able.clone and able.create_from_snapshot and able.revert == "any"):
        return backend
    return Copying(backend)


def copy_data(source: Data, target: Data, attempt: Attempt, *, may_cancel: bool = True) -> None:
    """Make `target` read as `source`, and as zeros beyond it; returns when that is durable.

    Raises CancelledOperationError between two chunks if the attempt was cancelled and `may_cancel`.
    """
    if target.virtual_bytes < source.virtual_bytes:
        raise InvalidInputError(
            f"{target.virtual_bytes} bytes cannot hold a source of {source.virtual_bytes} bytes."
        )
    total = target.virtual_bytes
    for offset, length, is_data in _chunks(source, total):
        if may_cancel and attempt.cancelled():
            raise CancelledOperationError(f"Stopped after copying {offset} of {total} bytes.")
        if is_data:
            target.write(offset, source.read(offset, length))
        else:
            _clear(target, offset, length)
        attempt.progress(offset + length, total)
    target.flush()


def copy_back(backend: Backend, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> None:
    """Give a volume its snapshot's content in place.

    That cannot be cancelled once begun: the volume would be a mixture.
    """
    if attempt.cancelled():
        raise CancelledOperationError(f"Stopped before reverting volume {volume.id}.")
    with backend.open_data(volume, snapshot) as old, backend.open_data(volume, writable=True) as now:
        copy_data(old, now, attempt, may_cancel=False)


def _chunks(source: Data, total: int) -> Iterator[tuple[int, int, bool]]:
    for start, length, is_data in source.extents(0, source.virtual_bytes):
        step = CHUNK_BYTES if is_data else length
        for offset in range(start, start + length, step or 1):
            yield offset, min(step, start + length - offset), is_data
    if total > source.virtual_bytes:
        yield source.virtual_bytes, total - source.virtual_bytes, False


def _clear(target: Data, offset: int, length: int) -> None:
    # The extents are collected first: zeroing changes what a live walk would see.
    for start, size, is_data in list(target.extents(offset, length)):
        if is_data:
            target.zero(start, size)


class Copying(Proxy):
    """A back end whose missing `clone`, `create_from_snapshot` and `revert` are made by copying."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self._native = backend.capabilities()

    def capabilities(self) -> Capabilities:
        """Say what it can do with copying counted in."""
        native = self._native
        return msgspec.structs.replace(
            native,
            clone=True,
            create_from_snapshot=native.create_from_snapshot or native.snapshots,
            revert="any" if native.snapshots else native.revert,
        )

    def clone(self, source: Volume, volume: Volume, attempt: Attempt) -> Placement:
        """Clone natively, or create and copy."""
        if self._native.clone:
            return self._backend.clone(source, volume, attempt)
        return self._copy_into_new(source, None, volume, attempt)

    def create_from_snapshot(
        self, source: Volume, snapshot: Snapshot, volume: Volume, attempt: Attempt
    ) -> Placement:
        """Create from the snapshot natively, or create and copy."""
        if self._native.create_from_snapshot:
            return self._backend.create_from_snapshot(source, snapshot, volume, attempt)
        if not self._native.snapshots:
            raise UnsupportedError(f"Back end {self.name} has no snapshots.")
        return self._copy_into_new(source, snapshot, volume, attempt)

    def revert(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Placement:
        """Revert natively where that is allowed for any snapshot, else copy the snapshot back in place."""
        if self._native.revert == "any":
            return self._backend.revert(volume, snapshot, attempt)
        if not self._native.snapshots:
            raise UnsupportedError(f"Back end {self.name} has no snapshots.")
        copy_back(self._backend, volume, snapshot, attempt)
        return Placement(locator=volume.locator, format=volume.format)

    def _copy_into_new(
        self, source: Volume, snapshot: Snapshot | None, volume: Volume, attempt: Attempt
    ) -> Placement:
        if attempt.cancelled():
            raise CancelledOperationError(f"Stopped before creating volume {volume.id}.")
        held = snapshot.virtual_bytes if snapshot else source.virtual_bytes
        if volume.virtual_bytes < held:
            raise InvalidInputError(
                f"Volume {volume.id} of {volume.virtual_bytes} bytes is smaller than "
                f"its source of {held} bytes."
            )
        placement = self._backend.create(volume, attempt)
        made = msgspec.structs.replace(volume, locator=placement.locator, format=placement.format)
        try:
            with (
                self._backend.open_data(source, snapshot) as old,
                self._backend.open_data(made, writable=True) as new,
            ):
                copy_data(old, new, attempt)
        except CancelledOperationError:
            self._backend.delete(made, attempt)
            raise
        return placement
