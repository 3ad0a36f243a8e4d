"""Options and arguments that several commands share, so that they read and behave the same."""

import enum
import sys
from pathlib import Path
from typing import Annotated

import typer


class ImageFormat(enum.StrEnum):
    """A format that images, and a volume's first image, can have."""

    RAW = "raw"
    QCOW2 = "qcow2"
    VHD = "vhd"
    VHDX = "vhdx"


Cloud = Annotated[
    str | None,
    typer.Option("--cloud", help="Entry of clouds.yaml to use.", envvar="OS_CLOUD", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, as the API gives it.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the operation ended.")]
Timeout = Annotated[
    float, typer.Option("--timeout", help="Seconds to wait at most; 0 = for ever. Exit code 7 when over.")
]
NewName = Annotated[str | None, typer.Option("--name", help="What the volume is to be called.")]
VolumeType = Annotated[str | None, typer.Option("--type", help="Volume type.", show_default=False)]
AllProjects = Annotated[bool, typer.Option("--all-projects", help="Of every project (admins).")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="At most so many.", show_default=False)]
Properties = Annotated[
    list[str] | None,
    typer.Option("--property", metavar="KEY=VALUE", help="Metadata; repeat for more.", show_default=False),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Configuration file. Default: breezeblock.toml here, in ./data or in /etc/breezeblock.",
        envvar="BREEZEBLOCK_CONFIG",
        show_default=False,
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask. Without a terminal nobody is asked.")]


def properties(given: list[str] | None) -> dict[str, str]:
    """Return KEY=VALUE options as a mapping; a usage error for anything else."""
    pairs = [text.partition("=") for text in given or ()]
    for key, sign, _ in pairs:
        if not key or not sign:
            raise typer.BadParameter(f"{key!r} is not KEY=VALUE", param_hint="--property")
    return {key: value for key, _, value in pairs}


def given(**values: str | None) -> dict[str, str]:
    """Return those options that were given, for a request's body."""
    return {key: value for key, value in values.items() if value}


def config_file(given: Path | None) -> Path | None:
    """Return the configuration file to use: the given one, else the nearest that exists, else None."""
    places = (
        Path("breezeblock.toml"),
        Path("data/breezeblock.toml"),
        Path("/etc/breezeblock/breezeblock.toml"),
    )
    return given or next((place for place in places if place.is_file()), None)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before data is lost, where somebody can answer; a script has decided already."""
    if not yes and sys.stdin.isatty():
        typer.confirm(question, abort=True, err=True)


def agreed(question: str, *, yes: bool) -> bool:
    """Ask before one step of several; a script has decided already."""
    return yes or not sys.stdin.isatty() or typer.confirm(question, err=True)
