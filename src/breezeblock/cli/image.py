"""`breezeblock image …`: image files by themselves; no service is asked."""

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from breezeblock.cli import exits

if TYPE_CHECKING:
    from breezeblock.attempt import Attempt
    from breezeblock.images import Info

app = typer.Typer(
    name="image", no_args_is_help=True, help="Image files: raw, qcow2, VHD and VHDX. No service is asked."
)


Image = Annotated[Path, typer.Argument(metavar="PATH", help="The image file.", show_default=False)]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="raw, qcow2, vhd or vhdx. Default: what the file claims to be; say it for a disk that a guest "
        "could write to.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Size = Annotated[
    str,
    typer.Option("--size", help="10GiB, 512MiB, 1536B; a bare number is GiB.", show_default=False),
]
ParentFormat = Annotated[
    str | None,
    typer.Option(
        "--parent-format",
        metavar="FORMAT",
        help="The parent's. Default: what it claims to be.",
        show_default=False,
    ),
]
Fixed = Annotated[bool, typer.Option("--fixed", help="VHD, VHDX: all blocks from the start.")]
Sector = Annotated[int, typer.Option("--sector", help="VHDX: bytes in a logical sector.")]
Creator = Annotated[
    str | None,
    typer.Option("--creator", help="VHD: tag it for `windows` (default) or `xen`.", show_default=False),
]


@app.command()
def create(
    path: Image,
    size: Annotated[
        str | None,
        typer.Option("--size", help="10GiB, 512MiB, 1536B; a bare number is GiB.", show_default=False),
    ] = None,
    parent: Annotated[
        Path | None,
        typer.Option("--parent", help="Make a child of this image, beside it.", show_default=False),
    ] = None,
    image_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="raw, qcow2, vhd or vhdx. Default: the parent's.",
            show_default=False,
        ),
    ] = None,
    parent_format: ParentFormat = None,
    fixed: Fixed = False,
    sector: Sector = 512,
    creator: Creator = None,
) -> None:
    """Make an image of zeros, or a child that reads as its parent until it is written to."""
    from breezeblock import images
    from breezeblock.cli import sizes

    options = images.Options(fixed=fixed, sector_bytes=sector, creator=creator)
    with _storage(path):
        if parent is not None:
            if size is not None:
                raise typer.BadParameter("a child has its parent's size: give --size or --parent, not both")
            images.create_child(path, parent, image_format, parent_format, options)
        elif size is None or image_format is None:
            raise typer.BadParameter("give --size and --format, or --parent")
        else:
            images.create(path, image_format, sizes.of_bytes(size), options)


@app.command()
def info(path: Image, image_format: Format = None, as_json: Json = False) -> None:
    """Draw the chain: the image and all its parents."""
    from breezeblock import images
    from breezeblock.cli import output
    from breezeblock.errors import CorruptError

    with _storage(path):
        try:
            layers = images.chain(path, image_format)
        except CorruptError:
            if not as_json:  # where only a parent is wrong, the image itself can still be told of
                output.console().print(_drawn(0, images.probe(path, image_format)), soft_wrap=True)
            raise
    if as_json:
        output.as_json(layers)
        return
    for depth, layer in enumerate(layers):
        output.console().print(_drawn(depth, layer), soft_wrap=True)


def _drawn(depth: int, layer: "Info") -> str:
    from breezeblock.cli import output, sizes

    facts = [
        layer.format,
        sizes.human(layer.virtual_bytes),
        f"{sizes.human(layer.allocated_bytes)} used",
        *(f"{key} {value}" for key, value in layer.details.items() if value not in {None, False, ""}),
    ]
    arrow = f"{'   ' * (depth - 1)}└─ " if depth else ""
    return f"{arrow}{output.plain(layer.name)}  ({', '.join(output.plain(one) for one in facts)})"


@app.command("map")
def map_(path: Image, image_format: Format = None, as_json: Json = False) -> None:
    """Tell for each part of the disk which layer has it, and where in that file."""
    from breezeblock import images

    with _storage(path):
        parts = images.extents(path, image_format)
        if as_json:
            _stream(parts)
            return
        sys.stdout.write(f"{'Start':>16} {'Length':>16} {'Depth':>5}  Where\n")
        for one in parts:
            where = "zeros" if one.zero else "packed" if one.offset is None else str(one.offset)
            sys.stdout.write(f"{one.start:>16} {one.length:>16} {one.depth:>5}  {where}\n")


def _stream(parts: Iterable[Any]) -> None:
    """Print a list that may be long, item by item."""
    import msgspec

    between = "[\n"
    for one in parts:
        sys.stdout.write(between + msgspec.json.encode(one).decode())
        between = ",\n"
    sys.stdout.write("[]\n" if between == "[\n" else "\n]\n")


@app.command()
def read(
    path: Image,
    offset: Annotated[int, typer.Option("--offset", min=0, help="First byte.")] = 0,
    length: Annotated[
        int | None, typer.Option("--length", min=0, help="Bytes. Default: to the end.", show_default=False)
    ] = None,
    image_format: Format = None,
) -> None:
    """Write a part of the disk to standard output."""
    from breezeblock import images

    with _storage(path):
        if length is None:
            length = max(0, images.info(path, image_format).virtual_bytes - offset)
        for piece in images.read(path, offset, length, image_format):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


@app.command()
def write(
    path: Image,
    offset: Annotated[int, typer.Option("--offset", min=0, help="First byte.")] = 0,
    image_format: Format = None,
) -> None:
    """Write standard input into the disk, which nobody may be using."""
    from breezeblock import images
    from breezeblock.cli import output, sizes

    pieces = iter(lambda: sys.stdin.buffer.read(4 << 20), b"")
    with _storage(path):
        output.say(f"{sizes.human(images.write(path, offset, pieces, image_format))} written")


@app.command()
def check(path: Image, image_format: Format = None, as_json: Json = False) -> None:
    """Look at all tables of the image and its parents. Exit code 6 if something is wrong."""
    from breezeblock import images
    from breezeblock.cli import output

    with _storage(path):
        found = images.check(path, image_format)
    if as_json:
        output.as_json(found)
    else:
        output.table(
            ("Image", "Wrong", "At byte", "Repairable"),
            ((one.name, one.text, one.offset, one.repairable) for one in found),
            empty="Nothing is wrong.",
        )
    if found:
        raise typer.Exit(exits.Exit.FINDINGS)


@app.command()
def repair(path: Image, image_format: Format = None, as_json: Json = False) -> None:
    """Mend what can be mended in one file without losing anything; print what was done."""
    from breezeblock import images
    from breezeblock.cli import output

    with _storage(path):
        done = images.repair(path, image_format)
    if as_json:
        output.as_json(done)
    else:
        output.table(("Mended",), ((one,) for one in done), empty="Nothing to mend.")


@app.command()
def merge(
    path: Image,
    replace: Annotated[
        bool, typer.Option("--replace", help="Let the parent take the image's identity and name.")
    ] = False,
    into: Annotated[
        str | None, typer.Option("--into", help="The parent's name, to be sure of it.", show_default=False)
    ] = None,
    image_format: Format = None,
) -> None:
    """Write what the image holds into its parent, which must have no other child.

    Can be stopped and run again. Afterwards both read the same.
    """
    from breezeblock import images
    from breezeblock.cli import output

    with _storage(path), _bar("Merging") as attempt:
        holder = images.merge(path, image_format, replace_child=replace, into=into, attempt=attempt)
    output.say(f"{holder} has the content")


@app.command()
def reparent(
    path: Image,
    parent: Annotated[
        Path, typer.Option("--parent", help="Reads the same as the parent it replaces.", show_default=False)
    ],
    image_format: Format = None,
    parent_format: ParentFormat = None,
) -> None:
    """Record another parent, in the same directory. Only headers change."""
    from breezeblock import images

    with _storage(path):
        images.reparent(path, parent, image_format, parent_format)


@app.command()
def resize(path: Image, size: Size, image_format: Format = None) -> None:
    """Grow the disk; of a VHD or VHDX chain every layer grows. Shrinking is refused."""
    from breezeblock import images
    from breezeblock.cli import sizes

    with _storage(path):
        images.grow(path, sizes.of_bytes(size), image_format)


@app.command()
def flatten(path: Image, image_format: Format = None) -> None:
    """Let the image hold everything itself; its parents stay as they are."""
    from breezeblock import images

    with _storage(path), _bar("Flattening") as attempt:
        images.flatten(path, image_format, attempt)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="The image to read.", show_default=False)],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The new file.", show_default=False)],
    target_format: Annotated[
        str,
        typer.Option("--format", metavar="FORMAT", help="Of the new file.", show_default=False),
    ],
    source_format: Annotated[
        str | None,
        typer.Option(
            "--source-format",
            metavar="FORMAT",
            help="Of the image to read. Default: what it claims to be.",
            show_default=False,
        ),
    ] = None,
    fixed: Fixed = False,
    sector: Sector = 512,
    creator: Creator = None,
) -> None:
    """Write what an image and its parents read as into a new file."""
    from breezeblock import images

    options = images.Options(fixed=fixed, sector_bytes=sector, creator=creator)
    with _storage(target), _bar("Converting") as attempt:
        images.convert(source, target, target_format, source_format, options, attempt)


@app.command()
def compare(
    one: Annotated[Path, typer.Argument(metavar="A", help="An image.", show_default=False)],
    other: Annotated[Path, typer.Argument(metavar="B", help="Another.", show_default=False)],
    image_format: Format = None,
    other_format: Annotated[
        str | None,
        typer.Option(
            "--other-format",
            metavar="FORMAT",
            help="Of the other image. Default: what it claims to be.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare what two images read as. Exit code 6 if they differ."""
    from breezeblock import images
    from breezeblock.cli import output

    with _storage(one), _bar("Comparing") as attempt:
        place = images.compare(one, other, (image_format, other_format), attempt)
    if as_json:
        sys.stdout.write(json.dumps({"equal": place is None, "first_difference": place}) + "\n")
    else:
        output.say("They are equal." if place is None else f"They differ, first at byte {place}.")
    if place is not None:
        raise typer.Exit(exits.Exit.FINDINGS)


@contextmanager
def _storage(path: Path) -> Iterator[None]:
    """Tell the kernel's errors as our own."""
    from breezeblock.errors import DuplicateError, NotFoundError
    from breezeblock.shares import files

    with files.storage_errors(str(path)):
        try:
            yield
        except FileExistsError as error:
            raise DuplicateError(f"{error.filename2 or path} exists already.") from error
        except FileNotFoundError as error:
            raise NotFoundError(f"{error.filename or path} does not exist.") from error
        except BrokenPipeError:
            # Whoever read our output has enough: nothing of it may be flushed at the end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _bar(text: str) -> Iterator["Attempt"]:
    """Show progress on a terminal; Ctrl-C stops between two pieces, and the verb can be run again."""
    import secrets

    from rich.progress import Progress

    from breezeblock.attempt import Attempt
    from breezeblock.cli import output

    console = output.console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(text, total=None)
        yield Attempt(
            "image",
            secrets.token_hex(8),
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
