"""`breezeblock secret …`: passwords that back ends need, kept encrypted on this machine."""

from typing import TYPE_CHECKING, Annotated

import typer

from breezeblock.cli import options

if TYPE_CHECKING:
    from breezeblock.vault import Vault

app = typer.Typer(
    name="secret", no_args_is_help=True, help="Passwords of back ends, kept encrypted on this machine."
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="What back ends call it.", show_default=False)]


def _vault(config: options.Config) -> "Vault":
    from pathlib import Path

    from breezeblock import vault
    from breezeblock.cli import server

    return vault.at(Path(server.load(config).service.state_dir))


@app.command("set")
def set_(name: Name, config: options.Config = None) -> None:
    """Keep a secret, in place of an earlier one. It is asked for, or read from standard input."""
    import sys

    from breezeblock.cli import output

    if sys.stdin.isatty():
        secret = typer.prompt(f"Secret {name}", hide_input=True, confirmation_prompt=True, err=True)
    else:
        secret = sys.stdin.read().removesuffix("\n").removesuffix("\r")
    _vault(config).set(name, secret)
    output.say(f"The secret {name} is kept. Shares take it by secret={name}.")


@app.command("list")
def list_(config: options.Config = None, as_json: options.Json = False) -> None:
    """List the names of secrets, never what they are."""
    from breezeblock.cli import output

    names = _vault(config).names()
    if as_json:
        output.as_json(names)
    else:
        output.table(("Name",), ((name,) for name in names), empty="No secrets.")


@app.command()
def delete(name: Name, config: options.Config = None) -> None:
    """Forget a secret."""
    from breezeblock.cli import output

    _vault(config).remove(name)
    output.say(f"The secret {name} is gone.")


@app.command()
def rotate(config: options.Config = None) -> None:
    """Encrypt all secrets with a new key and forget the old one. Safe to repeat after a crash."""
    from breezeblock.cli import output

    count = _vault(config).rotate()
    output.say(f"{count} secrets are encrypted with a new key.")
