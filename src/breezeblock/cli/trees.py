"""`breezeblock volume tree`, `flatten` and `shorten`."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from breezeblock.cli import options

MIB = 1 << 20
Name = Annotated[str, typer.Argument(metavar="VOLUME", help="Name or id.", show_default=False)]


def tree(
    cloud: options.Cloud = None,
    as_json: options.Json = False,
    all_projects: options.AllProjects = False,
) -> None:
    """Show which volumes rest on which, how deep their chains are, and what could be given back."""
    from breezeblock.cli import client, output

    items = client.connect(cloud).get("/chains", all_tenants=1 if all_projects else None)["chains"]
    if as_json:
        output.as_json(items)
        return
    columns = ("Volume", "Name", "Layers", "Limit", "Snapshots", "Hidden", "Reclaimable")
    output.table(columns, rows(items), empty="Every volume is one image, and none rests on another.")


def rows(items: list[dict[str, Any]]) -> Iterator[tuple[object, ...]]:
    """Yield one row a volume, clones below and indented under what they rest on."""
    children: dict[str | None, list[dict[str, Any]]] = {}
    known = {item["id"] for item in items}
    for item in items:
        parent = item["parent_id"] if item["parent_id"] in known else None
        children.setdefault(parent, []).append(item)
    waiting = [(item, 0) for item in reversed(children.get(None, []))]
    while waiting:
        item, level = waiting.pop()
        yield _row(item, level)
        waiting += [(child, level + 1) for child in reversed(children.get(item["id"], []))]


def _row(item: dict[str, Any], level: int) -> tuple[object, ...]:
    indent = "" if level == 0 else "   " * (level - 1) + "└─ "
    if item["deleted"]:
        return (indent + item["id"], item["name"], "deleted, kept for clones", "", "", "", "")
    return (
        indent + item["id"],
        item["name"],
        item["depth"] or "?",
        item["max_chain_depth"] or "none",
        item["snapshots"],
        item["hidden_layers"],
        f"{item['reclaimable_bytes'] / MIB:.1f} MiB",
    )


def flatten(
    volume: Name, cloud: options.Cloud = None, wait: options.Wait = True, timeout: options.Timeout = 0
) -> None:
    """Give a clone its own copy of what it shares with the volume that it was made from."""
    _act("breezeblock-flatten", volume, cloud, timeout, wait=wait)


def shorten(
    volume: Name, cloud: options.Cloud = None, wait: options.Wait = True, timeout: options.Timeout = 0
) -> None:
    """Merge the layers of a volume that neither a snapshot nor a clone needs."""
    _act("breezeblock-shorten", volume, cloud, timeout, wait=wait)


def _act(action: str, volume: str, cloud: str | None, timeout: float, *, wait: bool) -> None:
    from breezeblock.cli import client
    from breezeblock.cli import wait as waiting

    service = client.connect(cloud)
    found = service.find("volume", volume)
    service.post(f"/volumes/{found['id']}/action", {action: {}})
    if wait:
        waiting.for_resource(service, found, timeout_s=timeout)
