"""Disks into files, sparse; whole, or only what changed since an older snapshot of the same disk."""

import os
from collections.abc import Callable

import structlog

from breezeblock.errors import CancelledOperationError, UnavailableError
from breezeblock.xenapi import changes, nbd, transfer
from breezeblock.xenapi.records import Vdi
from breezeblock.xenapi.session import Session

_log = structlog.get_logger(__name__)
_HOLE_BYTES = 64 << 10
"""A run of zeros of that size, where it begins at a multiple of it, is left out."""

Progress = Callable[[int, int], None]


def _quiet(_done: int, _total: int) -> None:
    """Tell nobody."""


def to_file(
    session: Session,
    ref: str,
    vdi: Vdi,
    image_format: transfer.Format,
    fd: int,
    *,
    base: str = "",
    cancelled: Callable[[], bool] = lambda: False,
    progress: Progress = _quiet,
) -> None:
    """Write a disk into an empty open file and sync it. A raw one is read over NBD where that is offered.

    `base` is another disk's reference: then only what differs is written, for VHD and QCOW2. Raises as
    `transfer.export`.
    """
    if image_format == "raw" and not base and _by_nbd(session, ref, vdi, fd, cancelled, progress):
        return
    done = 0
    for data in transfer.export(session, ref, image_format, base=base):
        _stop(cancelled)
        _put(fd, done, data)
        done += len(data)
        progress(min(done, vdi.virtual_size), vdi.virtual_size)
    os.ftruncate(fd, done)
    os.fsync(fd)


def update(
    session: Session,
    older: str,
    newer: str,
    vdi: Vdi,
    fd: int,
    *,
    cancelled: Callable[[], bool] = lambda: False,
    progress: Progress = _quiet,
) -> int:
    """Bring a raw file of the older snapshot up to the newer one (`vdi`); return the bytes written.

    What is cut off leaves a mixture; running it again mends that. Raises UnavailableError where the disk
    cannot be read by NBD, and as `changes.changed`.
    """
    ranges = list(changes.changed(session, older, newer, vdi.virtual_size))
    exports = nbd.offers(session, newer)
    if not exports:
        raise UnavailableError(
            "No network of the pool is marked for NBD, so parts of a disk cannot be read.",
            remedy="Mark one (purpose = nbd), or export with --format vhd --base.",
        )
    total = sum(length for _offset, length in ranges)
    os.ftruncate(fd, vdi.virtual_size)
    done = 0
    with nbd.opened(exports[0]) as export:
        for offset, length in ranges:
            for start in range(offset, offset + length, nbd.MAX_READ_BYTES):
                _stop(cancelled)
                size = min(nbd.MAX_READ_BYTES, offset + length - start)
                os.pwrite(fd, export.read(start, size), start)
                done += size
                progress(done, total)
    os.fsync(fd)
    return total


def _by_nbd(
    session: Session, ref: str, vdi: Vdi, fd: int, cancelled: Callable[[], bool], progress: Progress
) -> bool:
    for where in nbd.offers(session, ref):
        try:
            with nbd.opened(where) as export:
                for offset in range(0, vdi.virtual_size, nbd.MAX_READ_BYTES):
                    _stop(cancelled)
                    size = min(nbd.MAX_READ_BYTES, vdi.virtual_size - offset)
                    _put(fd, offset, export.read(offset, size))
                    progress(offset + size, vdi.virtual_size)
        except UnavailableError as error:  # another host may have it, and there is HTTP
            _log.info("nbd_failed", address=where.address, port=where.port, error=error.message)
            os.ftruncate(fd, 0)
            continue
        os.ftruncate(fd, vdi.virtual_size)
        os.fsync(fd)
        return True
    return False


def _put(fd: int, offset: int, data: bytes) -> None:
    """Write what is no hole."""
    view, zeros = memoryview(data), bytes(_HOLE_BYTES)
    start = 0
    while start < len(view):
        size = min(_HOLE_BYTES - (offset + start) % _HOLE_BYTES, len(view) - start)
        part = view[start : start + size]
        if part != zeros[:size]:
            os.pwrite(fd, part, offset + start)
        start += size


def _stop(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise CancelledOperationError("Stopped an export.")
