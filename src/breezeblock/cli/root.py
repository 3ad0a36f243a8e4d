"""All commands under one name."""

from typing import Annotated

import typer

from breezeblock import __version__
from breezeblock.cli import (
    attaching,
    cdmi,
    image,
    nbd,
    operations,
    pools,
    rest,
    secrets,
    server,
    shares,
    snapshots,
    types,
    users,
    volumes,
    xenserver,
)
from breezeblock.cli import imaging as _imaging  # noqa: F401 - adds commands to volumes
from breezeblock.cli import managing as _managing  # noqa: F401 - adds commands to volumes and pools
from breezeblock.cli import xenserver_disks as _disks  # noqa: F401 - adds commands to xenserver

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Block storage on the storage you already own: the service, and the command to use it.",
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 refused, 5 unreachable, "
    "6 findings, 7 still running.",
)
server.register(app)
attaching.register(app)
for group in (volumes, snapshots, types, pools, shares, operations, users):
    app.add_typer(group.app)
for group in (image, xenserver, nbd, rest, cdmi, secrets):
    app.add_typer(group.app)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options that stand before the command."""
