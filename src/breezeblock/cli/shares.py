"""`breezeblock share`: the storage below the back ends."""

from pathlib import Path
from typing import Annotated

import typer

from breezeblock.cli import exits, options

app = typer.Typer(name="share", no_args_is_help=True, help="The storage below the back ends.")


@app.callback()
def group() -> None:
    """Hold the commands together."""


@app.command()
def check(
    target: Annotated[
        str,
        typer.Argument(help="A back end of the configuration, HOST:/EXPORT, //SERVER/SHARE, or a directory."),
    ],
    mount: Annotated[str, typer.Option("--options", "-o", help="Mount options for a share.")] = "",
    config: options.Config = None,
    as_json: options.Json = False,
) -> None:
    """Try on real storage what Breezeblock relies on, and say what each failure would cost."""
    from breezeblock.app import share_check
    from breezeblock.cli import output, server
    from breezeblock.config import Config

    # A directory or an NFS export needs no configuration; of an SMB share the secrets' place is asked.
    alone = ":/" in target or (target.startswith("/") and not target.startswith("//"))
    loaded = Config() if alone else server.load(config)
    found = []
    for checked in share_check.check(target, loaded.backends, Path(loaded.service.state_dir), mount):
        found.append(checked)
        if not as_json:
            rows = [(one.name, one.outcome, one.seen, one.cost) for one in checked.verdicts]
            output.say(checked.place)
            output.table(("Trial", "Outcome", "Seen", "What it would cost"), rows)
    if as_json:
        output.as_json(found)
    if any(checked.broken for checked in found):
        raise typer.Exit(exits.Exit.FINDINGS)
