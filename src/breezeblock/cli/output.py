"""What commands print: tables for people, JSON for scripts. Nothing else goes to stdout."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

WIDE = 400
"""Columns when nobody looks: an id that is cut or wrapped is of no use to a pipe."""


def as_json(value: Any) -> None:
    """Print a value as indented JSON."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def console(*, stderr: bool = False) -> Any:
    """Return a rich console for stdout, or for stderr."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else WIDE
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def say(text: str) -> None:
    """Print a line for the person at the terminal: on stderr, so that stdout stays the result."""
    console(stderr=True).print(text)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str = "Nothing found.") -> None:
    """Print rows under headings; the first column is never cut. Says `empty` when there are none."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        drawn.add_column(column, no_wrap=index == 0, overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(plain(cell), style=_STYLES.get(plain(cell), "")) for cell in row))
    if drawn.row_count:
        console().print(drawn)
    else:
        say(empty)


def fields(values: Mapping[str, object]) -> None:
    """Print one object as two columns, field and value."""
    table(("Field", "Value"), ((key, value) for key, value in values.items()))


def plain(value: object) -> str:
    """Return a cell's text. Control characters are shown, not obeyed: names come from users."""
    match value:
        case None | "":
            text = "-"
        case bool():
            text = "yes" if value else "no"
        case Mapping():
            text = ", ".join(f"{key}={plain(item)}" for key, item in value.items()) or "-"
        case list() | tuple():
            text = ", ".join(plain(item) for item in value) or "-"
        case _:
            text = str(value)
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


_STYLES = {
    "available": "green",
    "in-use": "green",
    "up": "green",
    "done": "green",
    "running": "cyan",
    "queued": "cyan",
    "creating": "cyan",
    "deleting": "cyan",
    "error": "red",
    "error_deleting": "red",
    "error_extending": "red",
    "error_attaching": "red",
    "down": "red",
    "cancelled": "yellow",
}
