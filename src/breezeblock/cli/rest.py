"""`breezeblock rest`: pools of object stores by themselves, with the verbs of /sys/class/srb."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from breezeblock.cli import options
from breezeblock.cli.attaching import Discard, NoDevice, Relay, State, Steal

if TYPE_CHECKING:
    from breezeblock.app.rest import Rest
    from breezeblock.connect.served import ServedConnector

app = typer.Typer(
    name="rest",
    no_args_is_help=True,
    help="Pools of object stores by themselves: volumes by names of one's own. No service is asked.",
)
Name = Annotated[
    str,
    typer.Argument(metavar="NAME", help="The volume's name, or volume-UUID.", show_default=False),
]
Size = Annotated[
    str,
    typer.Argument(metavar="SIZE", help="Bytes, or with k, M, G, T: 1024 times each.", show_default=False),
]
Urls = Annotated[
    str, typer.Argument(metavar="URL[,URL…]", help="Endpoints of the pool's store.", show_default=False)
]
Backend = Annotated[
    str, typer.Option("--backend", help="The back end, where there are several.", show_default=False)
]
Pool = Annotated[str, typer.Option("--pool", help="Its pool, where there are several.", show_default=False)]


@app.command()
def create(
    name: Name, size: Size, backend: Backend = "", pool: Pool = "", config: options.Config = None
) -> None:
    """Make a volume."""
    _rest(config, backend, pool).create(name, _bytes(size))


@app.command()
def extend(
    name: Name,
    size: Size,
    state: State = None,
    backend: Backend = "",
    pool: Pool = "",
    config: options.Config = None,
) -> None:
    """Make a volume longer, also while it is attached here; its device grows with it."""
    rest = _rest(config, backend, pool)
    rest.extend(name, _bytes(size))
    _connector(rest, state, device=True).grown(rest.data(name))


@app.command()
def destroy(
    name: Name,
    backend: Backend = "",
    pool: Pool = "",
    yes: options.Yes = False,
    config: options.Config = None,
) -> None:
    """Remove a volume with its snapshots; clones keep what they share."""
    options.confirm(f"Destroy {name}?", yes=yes)
    _rest(config, backend, pool).destroy(name)


@app.command()
def attach(
    name: Name,
    state: State = None,
    no_device: NoDevice = False,
    relay: Relay = True,
    discard: Discard = False,
    steal: Steal = False,
    backend: Backend = "",
    pool: Pool = "",
    config: options.Config = None,
) -> None:
    """Make a volume a device of this host; print the device."""
    import sys

    rest = _rest(config, backend, pool)
    connector = _connector(rest, state, device=not no_device, relayed=relay, discard=discard, steal=steal)
    attached = connector.attach(rest.data(name))
    sys.stdout.write(f"{attached.device}\n")


@app.command()
def detach(
    name: Name,
    state: State = None,
    no_device: NoDevice = False,
    discard: Discard = False,
    backend: Backend = "",
    pool: Pool = "",
    config: options.Config = None,
) -> None:
    """Write everything back and take the device away; nothing stays on this host."""
    rest = _rest(config, backend, pool)
    connector = _connector(rest, state, device=not no_device, discard=discard)
    mine = {"backend": rest.backend, "pool": rest.pool, "volume_id": name}
    known = [one for one in connector.records() if mine.items() <= one.items()]
    connector.detach(known[0] if known else rest.data(name))  # it may be gone from the store


@app.command()
def volumes(
    backend: Backend = "", pool: Pool = "", config: options.Config = None, as_json: options.Json = False
) -> None:
    """List the volumes, one a line; the service's by their ids."""
    import sys

    from breezeblock.cli import output

    found = _rest(config, backend, pool).volumes()
    if as_json:
        output.as_json(found)
    else:
        sys.stdout.write("".join(f"{one.name}\n" for one in found))


@app.command()
def add_urls(urls: Urls, backend: Backend = "", pool: Pool = "", config: options.Config = None) -> None:
    """Use further endpoints on this host, at once; each has to show the pool's identity first."""
    rest = _rest(config, backend, pool)
    for url in urls.split(","):
        rest.add_url(url)


@app.command()
def remove_urls(urls: Urls, backend: Backend = "", pool: Pool = "", config: options.Config = None) -> None:
    """Use endpoints no more that were added on this host."""
    rest = _rest(config, backend, pool)
    for url in urls.split(","):
        rest.remove_url(url)


@app.command()
def status(
    backend: Backend = "", pool: Pool = "", config: options.Config = None, as_json: options.Json = False
) -> None:
    """Show the pool's endpoints, and the volumes that this host serves."""
    from breezeblock.cli import output, sizes

    found = _rest(config, backend, pool).status()
    if as_json:
        output.as_json(found)
        return
    output.say(f"Pool {found.pool}")
    output.table(
        ("Endpoint", "State", "Connections", "Read", "Written", "Read takes", "Write takes", "Trouble"),
        (
            (
                one.url,
                one.state,
                one.connections,
                sizes.human(one.bytes_read),
                sizes.human(one.bytes_written),
                f"{one.read_ms:.1f} ms",
                f"{one.write_ms:.1f} ms",
                one.trouble,
            )
            for one in found.endpoints
        ),
    )
    output.table(
        ("Volume", "Length", "Clients", "Waiting", "Journal", "Trouble"),
        (
            (
                one.volume,
                sizes.human(one.length),
                one.connections,
                f"{one.waiting_segments} for {one.waiting_age_s:.1f} s",
                sizes.human(one.journal_bytes),
                one.failed or one.trouble,
            )
            for one in found.attached
        ),
        empty="Nothing is attached here.",
    )


@app.command()
def collect(backend: Backend = "", pool: Pool = "", config: options.Config = None) -> None:
    """Remove what the last look found to be nobody's, and look again. The service does it by itself."""
    from breezeblock.cli import output

    done = _rest(config, backend, pool).collect()
    output.say(f"Removed {done.removed} objects; {done.waiting} go with the next look if nobody needs them.")


@app.command()
def mount(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="An empty directory.", show_default=False)],
    group: Annotated[
        str,
        typer.Option("--group", help="Let this group use them too. Default: only you.", show_default=False),
    ] = "",
    state: State = None,
    no_device: NoDevice = False,
    backend: Backend = "",
    pool: Pool = "",
    config: options.Config = None,
) -> None:
    """Show these verbs as a tree of control files, as /sys/class/srb was, until unmounted or interrupted."""
    from breezeblock.app.control_files import ControlFiles
    from breezeblock.app.control_mount import mount as show

    rest = _rest(config, backend, pool)
    connector = _connector(rest, state and state.absolute(), device=not no_device)
    show(ControlFiles(rest, connector), directory, group=group)


def _rest(config: Path | None, backend: str, pool: str) -> "Rest":
    from breezeblock.app.rest import Rest
    from breezeblock.cli import server
    from breezeblock.observe import configure_logging

    configure_logging("warning", "console")  # what is printed is the answer
    return Rest(server.load(config), backend, pool)


def _connector(
    rest: "Rest",
    state: Path | None,
    *,
    device: bool,
    relayed: bool = True,
    discard: bool = False,
    steal: bool = False,
) -> "ServedConnector":
    from breezeblock.app import attaching
    from breezeblock.connect import linux

    where = state or linux.STATE
    kernel = linux.LinuxConnector(where) if device else None
    return attaching.connector(
        rest.config, where, kernel=kernel, discard=discard, relayed=relayed, steal=steal
    )


def _bytes(text: str) -> int:
    from breezeblock.cli import sizes

    return sizes.of_bytes(f"{text}B" if text.isdecimal() else text)
