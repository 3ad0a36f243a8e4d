"""`breezeblock xenserver …`: SRs of the XenServer pools in the configuration, and disks in VMs."""

import enum
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from breezeblock.cli import options

if TYPE_CHECKING:
    from breezeblock.backends.xenserver_config import XenPool, XenServerConfig
    from breezeblock.xenapi.mirror import Mirror
    from breezeblock.xenapi.session import Session
    from breezeblock.xenapi.srs import Wanted

app = typer.Typer(name="xenserver", no_args_is_help=True, help="XenServer and XCP-ng: SRs, and disks in VMs.")
sr_app = typer.Typer(name="sr", no_args_is_help=True, help="Storage repositories.")
app.add_typer(sr_app)


class Format(enum.StrEnum):
    """How a disk stands in a file."""

    RAW = "raw"
    VHD = "vhd"
    QCOW2 = "qcow2"


Backend = Annotated[str, typer.Argument(metavar="BACKEND", help="The [backends.NAME] section.")]
PoolName = Annotated[str, typer.Argument(metavar="POOL", help="The pool in that section.")]
Vdi = Annotated[str, typer.Argument(metavar="VDI", help="The disk's uuid.")]
Vm = Annotated[str, typer.Argument(metavar="VM", help="The machine's uuid.")]


@app.command("sr-types")
def sr_types(as_json: options.Json = False) -> None:
    """List the types of SR: their keys (* required, ! secret), what they can do, whether they still exist."""
    from breezeblock.cli import output
    from breezeblock.xenapi import srkinds

    if as_json:
        output.as_json(srkinds.KINDS)
        return
    columns = ("Type", "Title", "device_config", "Shared", "Snapshots", "Thin", "Gone", "Note")
    output.table(
        columns,
        (
            (
                kind.type,
                kind.title,
                [
                    f"{key}{'*' if rule.required else ''}{'!' if rule.secret else ''}"
                    for key, rule in kind.keys.items()
                ],
                kind.shared,
                kind.snapshots,
                kind.thin,
                kind.gone,
                kind.note,
            )
            for kind in srkinds.KINDS.values()
        ),
    )


@app.command()
def probe(
    backend: Backend,
    sr_type: Annotated[str, typer.Argument(metavar="TYPE", help="See sr-types.")],
    key: Annotated[
        list[str] | None,
        typer.Option("--key", metavar="KEY=VALUE", help="device_config so far; repeat for more."),
    ] = None,
    config: options.Config = None,
    as_json: options.Json = False,
) -> None:
    """Ask a driver what it finds: exports, targets, LUNs, or the SRs on them."""
    from breezeblock.cli import output
    from breezeblock.xenapi import srkinds, srs

    with _session(backend, config) as (session, mirror, _settings):
        found = srs.probe(session, mirror, srkinds.find(sr_type), options.properties(key), {})
    if as_json:
        output.as_json(found)
    else:
        columns = sorted({name for item in found for name in item})
        output.table(columns or ("Found",), ([item.get(name) for name in columns] for item in found))


@app.command()
def attach(
    backend: Backend,
    vdi: Vdi,
    vm: Vm,
    read_only: Annotated[bool, typer.Option("--read-only", help="The VM may not write.")] = False,
    config: options.Config = None,
) -> None:
    """Connect a disk to a VM, and plug it if the VM runs."""
    from breezeblock.cli import output
    from breezeblock.xenapi import attach as attaching

    with _session(backend, config) as (session, mirror, _settings):
        made = attaching.attach(session, mirror, vdi, vm, read_only=read_only)
    output.say(f"attached as {made.device or 'device ' + made.userdevice}")


@app.command()
def detach(backend: Backend, vdi: Vdi, vm: Vm, config: options.Config = None) -> None:
    """Unplug a disk from a VM and remove the connection."""
    from breezeblock.xenapi import attach as attaching

    with _session(backend, config) as (session, mirror, _settings):
        attaching.detach(session, mirror, vdi, vm)


@app.command()
def export(
    backend: Backend,
    vdi: Vdi,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to; must not exist.", dir_okay=False)],
    image_format: Annotated[Format, typer.Option("--format", help="Image format.")] = Format.VHD,
    config: options.Config = None,
) -> None:
    """Write a disk into a file, which appears only when all of it is there."""
    from breezeblock.errors import DuplicateError
    from breezeblock.xenapi import transfer

    if file.exists():
        raise DuplicateError(f"{file} exists already.", remedy="Name another file, or remove it.")
    part = file.with_name(f".tmp-{file.name}-{os.getpid()}")
    with _session(backend, config) as (session, mirror, _settings):
        try:
            with part.open("xb") as out:
                for data in transfer.export(session, _disk(mirror, vdi), image_format.value):
                    out.write(data)
                out.flush()
                os.fsync(out.fileno())
            part.rename(file)
        finally:
            part.unlink(missing_ok=True)
    directory = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@app.command("import")
def import_(
    backend: Backend,
    vdi: Vdi,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The image.", exists=True, dir_okay=False)],
    image_format: Annotated[Format, typer.Option("--format", help="Image format; never guessed.")],
    yes: options.Yes = False,
    config: options.Config = None,
) -> None:
    """Write an image file over a disk, which must be large enough. What it held is lost."""
    from breezeblock.xenapi import transfer

    options.confirm(f"Overwrite disk {vdi}?", yes=yes)
    with _session(backend, config) as (session, mirror, _settings), file.open("rb") as image:
        chunks = iter(lambda: image.read(transfer.CHUNK_BYTES), b"")
        transfer.put(session, _disk(mirror, vdi), image_format.value, chunks, file.stat().st_size)


@sr_app.command("list")
def list_(backend: Backend, config: options.Config = None, as_json: options.Json = False) -> None:
    """List the SRs of the pool, ours or not."""
    from breezeblock.cli import output

    with _session(backend, config) as (_unused, mirror, _settings):
        view = mirror.look()
    if as_json:
        output.as_json(list(view.srs.values()))
        return
    output.table(
        ("UUID", "Name", "Type", "Shared", "Plugged", "Used", "Total"),
        (
            (
                sr.uuid,
                sr.name_label,
                sr.type,
                sr.shared,
                f"{sum(pbd.currently_attached for pbd in view.plugs(ref))} of {len(view.plugs(ref))}",
                f"{sr.physical_utilisation / 2**30:.1f} GiB",
                f"{sr.physical_size / 2**30:.1f} GiB",
            )
            for ref, sr in view.srs.items()
        ),
    )


@sr_app.command()
def create(backend: Backend, pool: PoolName, yes: options.Yes = False, config: options.Config = None) -> None:
    """Create a pool's SR from its configuration. What is on its device is lost."""
    from breezeblock.xenapi import srs

    options.confirm(f"Create an SR for {pool}? What is on its storage may be lost.", yes=yes)
    with _session(backend, config) as (session, mirror, settings):
        _tell(srs.create(session, mirror, _wanted(backend, pool, settings)))


@sr_app.command()
def introduce(
    backend: Backend,
    pool: PoolName,
    uuid: Annotated[
        str, typer.Argument(metavar="UUID", help="The SR's uuid on its storage, as probe shows it.")
    ],
    config: options.Config = None,
) -> None:
    """Make an SR that exists on storage known to the XenServer pool. Never to a second pool at once."""
    from breezeblock.cli import server
    from breezeblock.errors import ConflictError
    from breezeblock.xenapi import srs

    for other in _others(server.load(config), backend):
        with _session(other, config) as (_unused, mirror, _settings):
            if any(sr.uuid == uuid for sr in mirror.look().srs.values()):
                raise ConflictError(
                    f"SR {uuid} belongs to the pool of back end {other}: two pools at once destroy it.",
                    remedy="Forget it there first.",
                )
    with _session(backend, config) as (session, mirror, settings):
        _tell(srs.introduce(session, mirror, uuid, _wanted(backend, pool, settings)))


@sr_app.command()
def plug(backend: Backend, pool: PoolName, config: options.Config = None) -> None:
    """Plug a pool's SR on every host that is connected to it."""
    from breezeblock.xenapi import srs

    with _session(backend, config) as (session, mirror, settings):
        _tell(srs.plug(session, mirror, settings.pools[pool].sr))


@sr_app.command()
def repair(backend: Backend, pool: PoolName, config: options.Config = None) -> None:
    """Connect the hosts that a shared SR is missing on, and plug it everywhere."""
    from breezeblock.xenapi import srs

    with _session(backend, config) as (session, mirror, settings):
        _ref, sr = srs.find(mirror.look(), settings.pools[pool].sr)
        _tell(srs.repair(session, mirror, sr))


@sr_app.command()
def forget(backend: Backend, pool: PoolName, yes: options.Yes = False, config: options.Config = None) -> None:
    """Make the pool forget an SR. Its data stays, the marks of its volumes do not: they are lost to us."""
    from breezeblock.xenapi import srs

    options.confirm(f"Forget the SR of {pool}? Its volumes cannot be found any more.", yes=yes)
    with _session(backend, config) as (session, mirror, settings):
        srs.forget(session, mirror, settings.pools[pool].sr)


@sr_app.command()
def destroy(
    backend: Backend, pool: PoolName, yes: options.Yes = False, config: options.Config = None
) -> None:
    """Remove a pool's SR, which must be empty, from its storage."""
    from breezeblock.xenapi import srs

    options.confirm(f"Destroy the SR of {pool}?", yes=yes)
    with _session(backend, config) as (session, mirror, settings):
        srs.destroy(session, mirror, settings.pools[pool].sr)


def _disk(mirror: "Mirror", uuid: str) -> str:
    from breezeblock.errors import NotFoundError

    found = mirror.look().find(uuid)
    if found is None:
        raise NotFoundError(f"There is no disk {uuid}.")
    return found[0]


@contextmanager
def _session(backend: str, given: Any) -> "Iterator[tuple[Session, Mirror, XenServerConfig]]":
    from breezeblock.backends.xenserver_config import account
    from breezeblock.xenapi.mirror import Mirror
    from breezeblock.xenapi.session import Session

    settings = _settings_of(backend, given)
    session = Session(account(backend, settings))
    try:
        yield session, Mirror(session), settings
    finally:
        session.close()


def _settings_of(backend: str, given: Any) -> "XenServerConfig":
    from breezeblock.backends import registry
    from breezeblock.backends.xenserver_config import XenServerConfig
    from breezeblock.cli import server
    from breezeblock.config import split_policy
    from breezeblock.errors import NotFoundError

    section = server.load(given).backends.get(backend)
    if section is None or section.get("kind") != "xenserver":
        raise NotFoundError(f"There is no back end {backend} of kind xenserver in the configuration.")
    _policy, own = split_policy(section, f"[backends.{backend}]")
    settings = registry.read_config(own, f"[backends.{backend}]")
    assert isinstance(settings, XenServerConfig)  # noqa: S101 - the kind was looked at above
    return settings


def _others(config: Any, backend: str) -> list[str]:
    mine = config.backends.get(backend, {}).get("url")
    return [
        name
        for name, section in config.backends.items()
        if name != backend and section.get("kind") == "xenserver" and section.get("url") != mine
    ]


def _wanted(backend: str, pool: str, settings: "XenServerConfig") -> "Wanted":
    from breezeblock.backends.xenserver_config import read_secret
    from breezeblock.errors import NotFoundError
    from breezeblock.xenapi import srkinds
    from breezeblock.xenapi.srs import Wanted

    held: XenPool | None = settings.pools.get(pool)
    if held is None:
        raise NotFoundError(f"Back end {backend} has no pool {pool}.")
    kind = srkinds.find(held.type)
    named = {f"{key}{srkinds.SECRET_SUFFIX}": "" for key in held.secret_files}
    srkinds.check_device_config(kind, {**held.device_config, **named}, f"backends.{backend}.pools.{pool}")
    secrets = {key: read_secret(path, f"{pool}: {key}") for key, path in held.secret_files.items()}
    return Wanted(held.sr, f"Breezeblock {backend}/{pool}", kind, held.device_config, secrets)


def _tell(sr: Any) -> None:
    from breezeblock.cli import output

    output.fields({"uuid": sr.uuid, "name": sr.name_label, "type": sr.type, "shared": sr.shared})
