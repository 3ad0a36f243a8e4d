"""`breezeblock xenserver …`: SRs of the XenServer pools in the configuration."""

from collections.abc import Iterator
from contextlib import contextmanager
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


Backend = Annotated[str, typer.Argument(metavar="BACKEND", help="The [backends.NAME] section.")]
PoolName = Annotated[str, typer.Argument(metavar="POOL", help="The pool in that section.")]


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
    secret: Annotated[
        list[str] | None,
        typer.Option(
            "--secret", metavar="KEY=FILE", help="A secret key, such as chappassword, and its file."
        ),
    ] = None,
    config: options.Config = None,
    as_json: options.Json = False,
) -> None:
    """Ask a driver what it finds: exports, targets, LUNs, or the SRs on them."""
    from breezeblock.backends.xenserver_config import read_secret
    from breezeblock.cli import output
    from breezeblock.xenapi import srkinds, srs

    kind, keys = srkinds.find(sr_type), options.properties(key)
    for name in keys:
        if name in kind.keys and kind.keys[name].secret:  # others see arguments
            raise typer.BadParameter(f"{name} is a secret: put it into a file, and give --secret {name}=FILE")
    secrets = {name: read_secret(path, name) for name, path in options.properties(secret).items()}
    with opened(backend, config) as (session, mirror, _settings):
        found = srs.probe(session, mirror, kind, keys, secrets)
    if as_json:
        output.as_json(found)
    else:
        columns = sorted({name for item in found for name in item})
        output.table(columns or ("Found",), ([item.get(name) for name in columns] for item in found))


@sr_app.command("list")
def list_(backend: Backend, config: options.Config = None, as_json: options.Json = False) -> None:
    """List the SRs of the pool, ours or not."""
    from breezeblock.cli import output

    with opened(backend, config) as (_unused, mirror, _settings):
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
    with opened(backend, config) as (session, mirror, settings):
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
        with opened(other, config) as (_unused, mirror, _settings):
            if any(sr.uuid == uuid for sr in mirror.look().srs.values()):
                raise ConflictError(
                    f"SR {uuid} belongs to the pool of back end {other}: two pools at once destroy it.",
                    remedy="Forget it there first.",
                )
    with opened(backend, config) as (session, mirror, settings):
        _tell(srs.introduce(session, mirror, uuid, _wanted(backend, pool, settings)))


@sr_app.command()
def plug(backend: Backend, pool: PoolName, config: options.Config = None) -> None:
    """Plug a pool's SR on every host that is connected to it."""
    from breezeblock.xenapi import srs

    with opened(backend, config) as (session, mirror, settings):
        _tell(srs.plug(session, mirror, pool_of(settings, pool).sr))


@sr_app.command()
def repair(backend: Backend, pool: PoolName, config: options.Config = None) -> None:
    """Connect the hosts that a shared SR is missing on, and plug it everywhere."""
    from breezeblock.xenapi import srs

    with opened(backend, config) as (session, mirror, settings):
        _ref, sr = srs.find(mirror.look(), pool_of(settings, pool).sr)
        _tell(srs.repair(session, mirror, sr))


@sr_app.command()
def forget(backend: Backend, pool: PoolName, yes: options.Yes = False, config: options.Config = None) -> None:
    """Make the pool forget an SR. Its data stays, the marks of its volumes do not: they are lost to us."""
    from breezeblock.xenapi import srs

    options.confirm(f"Forget the SR of {pool}? Its volumes cannot be found any more.", yes=yes)
    with opened(backend, config) as (session, mirror, settings):
        srs.forget(session, mirror, pool_of(settings, pool).sr)


@sr_app.command()
def destroy(
    backend: Backend, pool: PoolName, yes: options.Yes = False, config: options.Config = None
) -> None:
    """Remove a pool's SR, which must be empty, from its storage."""
    from breezeblock.xenapi import srs

    options.confirm(f"Destroy the SR of {pool}?", yes=yes)
    with opened(backend, config) as (session, mirror, settings):
        srs.destroy(session, mirror, pool_of(settings, pool).sr)


@contextmanager
def opened(backend: str, given: Any) -> "Iterator[tuple[Session, Mirror, XenServerConfig]]":
    """Log in to the pool of a back end in the configuration."""
    from breezeblock.backends.xenserver_config import account
    from breezeblock.xenapi.mirror import Mirror
    from breezeblock.xenapi.session import Session

    settings = _settings_of(backend, given)
    session = Session(account(backend, settings))
    try:
        yield session, Mirror(session), settings
    finally:
        session.close()


def pool_of(settings: "XenServerConfig", pool: str) -> "XenPool":
    """Return a pool's settings. Raises NotFoundError."""
    from breezeblock.errors import NotFoundError

    if pool not in settings.pools:
        raise NotFoundError(f"There is no pool {pool}.", remedy=f"There are: {', '.join(settings.pools)}.")
    return settings.pools[pool]


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
    from breezeblock.xenapi import srkinds
    from breezeblock.xenapi.srs import Wanted

    held = pool_of(settings, pool)
    kind = srkinds.find(held.type)
    named = {f"{key}{srkinds.SECRET_SUFFIX}": "" for key in held.secret_files}
    srkinds.check_device_config(kind, {**held.device_config, **named}, f"backends.{backend}.pools.{pool}")
    secrets = {key: read_secret(path, f"{pool}: {key}") for key, path in held.secret_files.items()}
    return Wanted(held.sr, f"Breezeblock {backend}/{pool}", kind, held.device_config, secrets)


def _tell(sr: Any) -> None:
    from breezeblock.cli import output

    output.fields({"uuid": sr.uuid, "name": sr.name_label, "type": sr.type, "shared": sr.shared})
