"""`breezeblock xenserver attach|detach|move|export|import|track|changes`: single disks of a pool of hosts."""

import enum
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from breezeblock.cli import options
from breezeblock.cli.xenserver import Backend, PoolName, app, opened, pool_of

if TYPE_CHECKING:
    from breezeblock.xenapi.mirror import Mirror
    from breezeblock.xenapi.records import Vdi


class Format(enum.StrEnum):
    """How a disk stands in a file."""

    RAW = "raw"
    VHD = "vhd"
    QCOW2 = "qcow2"


Disk = Annotated[str, typer.Argument(metavar="VDI", help="The disk's uuid.")]
Machine = Annotated[str, typer.Argument(metavar="VM", help="The machine's uuid, or its name.")]


@app.command()
def attach(
    backend: Backend,
    vdi: Disk,
    vm: Machine,
    read_only: Annotated[bool, typer.Option("--read-only", help="The VM may not write.")] = False,
    config: options.Config = None,
) -> None:
    """Connect a disk to a VM, and plug it if the VM runs."""
    from breezeblock.cli import output
    from breezeblock.connect.xenserver import XenServerConnector

    with opened(backend, config) as (session, mirror, _settings):
        made = XenServerConnector(session, mirror).attach({"vdi_uuid": vdi}, vm, read_only=read_only)
    output.say(f"attached as {made.device}" if made.device else "attached; the VM is not running")


@app.command()
def detach(backend: Backend, vdi: Disk, vm: Machine, config: options.Config = None) -> None:
    """Unplug a disk from a VM and remove the connection, if it is ours."""
    from breezeblock.connect.xenserver import XenServerConnector

    with opened(backend, config) as (session, mirror, _settings):
        XenServerConnector(session, mirror).detach({"vdi_uuid": vdi}, vm)


@app.command()
def move(
    backend: Backend,
    volume: Annotated[str, typer.Argument(metavar="VOLUME", help="The volume's id.")],
    pool: PoolName,
    config: options.Config = None,
) -> None:
    """Move a volume's disk to another pool's SR while a VM uses it, or find it where others moved it to.

    It gets another uuid. The catalog learns of its pool when the volume is unmanaged and managed there.
    """
    from breezeblock.attempt import Attempt
    from breezeblock.backends.xenserver_moving import move as moving
    from breezeblock.backends.xenserver_work import Workshop
    from breezeblock.cli import output
    from breezeblock.xenapi import srkinds, srs

    with opened(backend, config) as (session, mirror, settings):
        wanted = pool_of(settings, pool)
        sr_ref, _sr = srs.find(mirror.look(), wanted.sr)
        attempt = Attempt(operation_id=f"move-{volume}", token=secrets.token_hex(4))
        made = moving(Workshop(session), volume, sr_ref, srkinds.find(wanted.type), attempt)
    output.fields({"volume": volume, "pool": pool, "vdi": made.uuid})


@app.command()
def export(
    backend: Backend,
    vdi: Disk,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to; must not exist.", dir_okay=False)],
    image_format: Annotated[
        Format, typer.Option("--format", help="Image format; qcow2 where the host has it.")
    ] = Format.VHD,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="VDI", help="Write only what differs from this older snapshot of it."),
    ] = None,
    config: options.Config = None,
) -> None:
    """Write a disk into a file, which appears only when all of it is there.

    With --base and --format raw, FILE is a raw export of that snapshot, and is brought up to date.
    """
    from breezeblock.errors import DuplicateError
    from breezeblock.xenapi import download

    with opened(backend, config) as (session, mirror, _settings):
        older = _disk(mirror, base)[0] if base else ""
        ref, record = _disk(mirror, vdi)
        if older and image_format is Format.RAW:
            with file.open("r+b") as out:
                download.update(session, older, ref, record, out.fileno())
            return
        if file.exists():
            raise DuplicateError(f"{file} exists already.", remedy="Name another file, or remove it.")
        with _appearing(file) as fd:
            download.to_file(session, ref, record, image_format.value, fd, base=older)


@app.command("import")
def import_(
    backend: Backend,
    vdi: Disk,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The image.", exists=True, dir_okay=False)],
    image_format: Annotated[Format, typer.Option("--format", help="Image format; never guessed.")],
    yes: options.Yes = False,
    config: options.Config = None,
) -> None:
    """Write an image file over a disk, which must be large enough. What it held is lost."""
    from breezeblock.xenapi import transfer

    options.confirm(f"Overwrite disk {vdi}?", yes=yes)
    with opened(backend, config) as (session, mirror, _settings), file.open("rb") as image:
        chunks = iter(lambda: image.read(transfer.CHUNK_BYTES), b"")
        ref, _record = _disk(mirror, vdi)
        transfer.put(session, ref, image_format.value, chunks, file.stat().st_size)


@app.command()
def track(
    backend: Backend,
    vdi: Disk,
    off: Annotated[bool, typer.Option("--off", help="Stop tracking.")] = False,
    config: options.Config = None,
) -> None:
    """Have the pool remember which blocks of a disk change from now on (changed block tracking)."""
    with opened(backend, config) as (session, mirror, _settings):
        session.call("VDI.disable_cbt" if off else "VDI.enable_cbt", _disk(mirror, vdi)[0])


@app.command()
def changes(
    backend: Backend,
    older: Annotated[str, typer.Argument(metavar="OLDER", help="The older snapshot's uuid.")],
    newer: Annotated[str, typer.Argument(metavar="NEWER", help="The newer one's, or the disk's own.")],
    config: options.Config = None,
    as_json: options.Json = False,
) -> None:
    """List what changed between two snapshots of a tracked disk: offset and length in bytes."""
    from breezeblock.cli import output
    from breezeblock.xenapi import changes as tracking

    with opened(backend, config) as (session, mirror, _settings):
        ref, record = _disk(mirror, newer)
        found = list(tracking.changed(session, _disk(mirror, older)[0], ref, record.virtual_size))
    if as_json:
        output.as_json([{"offset": offset, "length": length} for offset, length in found])
    else:
        output.table(("Offset", "Length"), found, empty="Nothing changed.")


@contextmanager
def _appearing(file: Path) -> Iterator[int]:
    """Give a new file that gets its name when all went well, durably."""
    part = file.with_name(f".tmp-{file.name}-{os.getpid()}")
    try:
        with part.open("xb") as out:
            yield out.fileno()
        part.rename(file)
    finally:
        part.unlink(missing_ok=True)
    directory = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _disk(mirror: "Mirror", uuid: str) -> "tuple[str, Vdi]":
    from breezeblock.errors import NotFoundError

    found = mirror.look().find(uuid)
    if found is None:
        raise NotFoundError(f"There is no disk {uuid}.")
    return found
