"""Images into disks of a XenServer pool, and disks out as images.

What comes from outside is never given to the pool as it is: our own code reads it, under its limits, and
the pool gets an image that we wrote. Drafts lie beside the image as `<name>.flat`; who made the image
removes them with it.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from breezeblock import images
from breezeblock.attempt import Attempt
from breezeblock.backends import drafts
from breezeblock.backends.xenserver_sizes import streamed
from breezeblock.backends.xenserver_tags import Disk
from breezeblock.backends.xenserver_work import Workshop
from breezeblock.errors import InvalidInputError
from breezeblock.images import inspection
from breezeblock.xenapi import download, transfer
from breezeblock.xenapi.mirror import View
from breezeblock.xenapi.records import Vdi


def send(
    shop: Workshop,
    ref: str,
    vdi: Vdi,
    wanted: transfer.Format,
    path: Path,
    image_format: str,
    attempt: Attempt,
) -> None:
    """Write a checked image onto a new disk, in a format of the pool's and as we write it."""
    with drafts.beside(path) as draft:
        if (image_format, wanted) != ("raw", "raw"):
            images.convert(path, draft, wanted, image_format, attempt=attempt)
            path = draft
        length = path.stat().st_size
        whole = vdi.virtual_size if wanted == "raw" else length
        with path.open("rb", buffering=0) as file:
            data = _chunks(file.read, length, whole, attempt)
            transfer.put(shop.session, ref, wanted, data, whole, attempt.cancelled)


def _chunks(read: Callable[[int], bytes], length: int, whole: int, attempt: Attempt) -> Iterator[bytes]:
    done = 0
    while data := read(transfer.CHUNK_BYTES):
        done += len(data)
        attempt.progress(done, whole)
        yield data
    yield from transfer.zeros(whole - length)


def receive(shop: Workshop, view: View, disk: Disk, path: Path, image_format: str, attempt: Attempt) -> None:
    """Write a disk as an image, replacing what an earlier attempt left."""
    if image_format not in inspection.FORMATS:
        raise InvalidInputError(f"Image format {image_format[:40]!a} cannot be written.")
    native = _native(view, disk.vdi, image_format)
    with drafts.beside(path) as draft:
        target = path if native == image_format else draft
        path.unlink(missing_ok=True)
        with drafts.opened(target, os.O_RDWR | os.O_CREAT | os.O_EXCL) as fd:
            download.to_file(
                shop.session,
                disk.ref,
                disk.vdi,
                native,
                fd,
                cancelled=attempt.cancelled,
                progress=attempt.progress,
            )
        if target != path:
            images.convert(draft, path, image_format, native, attempt=attempt)


def _native(view: View, vdi: Vdi, image_format: str) -> transfer.Format:
    """Return the format to ask the pool for: the wanted one, else the one that has no zeros in it."""
    if image_format == "raw":
        return "raw"
    if image_format == "qcow2" and "qcow2" in view.formats(view.srs[vdi.SR]):
        return "qcow2"
    return streamed(view, vdi)
