"""`breezeblock operation …`: what the service is doing, and what became of it."""

from typing import Annotated, Any

import typer

from breezeblock.cli import options

app = typer.Typer(
    name="operation", no_args_is_help=True, help="Operations: work that the service does or did."
)

Id = Annotated[str, typer.Argument(metavar="OPERATION", help="Its id.", show_default=False)]


@app.command("list")
def list_(
    cloud: options.Cloud = None,
    as_json: options.Json = False,
    limit: options.Limit = 50,
    state: Annotated[
        str | None, typer.Option(help="queued, running, done, error or cancelled.", show_default=False)
    ] = None,
    volume: Annotated[
        str | None, typer.Option(help="Id of a volume; deleted ones too.", show_default=False)
    ] = None,
) -> None:
    """List operations, newest first; an admin sees those of every project."""
    from breezeblock.cli import client, output

    query: dict[str, Any] = {
        "state": state,
        "volume_id": volume,
    }
    items = list(client.connect(cloud).pages("/operations", "operations", limit=limit, **query))
    if as_json:
        output.as_json(items)
        return
    columns = ("ID", "Kind", "State", "Of", "Progress", "Created", "Reason")
    output.table(
        columns,
        (
            (
                item["id"],
                item["kind"],
                item["state"],
                f"{item['resource_type']} {item['resource_id']}",
                _progress(item),
                item["created_at"],
                item.get("error"),
            )
            for item in items
        ),
        empty="No operations.",
    )


@app.command()
def show(operation: Id, cloud: options.Cloud = None, as_json: options.Json = False) -> None:
    """Show one operation."""
    from breezeblock.cli import client, output

    found = client.connect(cloud).get(f"/operations/{client.quoted(operation)}")["operation"]
    if as_json:
        output.as_json(found)
    else:
        output.fields({key: value for key, value in found.items() if value not in (None, "")})


@app.command()
def watch(
    operation: Id,
    cloud: options.Cloud = None,
    as_json: options.Json = False,
    timeout: options.Timeout = 0,
) -> None:
    """Wait until an operation ended, showing its progress."""
    from breezeblock.cli import client, output
    from breezeblock.cli import wait as waiting

    service = client.connect(cloud)
    found = service.get(f"/operations/{client.quoted(operation)}")["operation"]
    ended = waiting.for_operation(service, found, timeout_s=timeout)
    if as_json:
        output.as_json(ended)
    else:
        output.say(f"{ended['kind']} of {ended['resource_type']} {ended['resource_id']} is done.")


@app.command()
def cancel(operation: Id, cloud: options.Cloud = None) -> None:
    """Ask an operation to stop. It undoes what it did, unless it is already past its last turn."""
    from breezeblock.cli import client, output

    service = client.connect(cloud)
    service.post(f"/operations/{client.quoted(operation)}/action", {"cancel": None})
    output.say(f"Asked. `breezeblock operation watch {operation}` tells how it ends.")


def _progress(item: dict[str, Any]) -> str:
    total = item.get("progress_total") or 0
    return f"{100 * (item.get('progress_done') or 0) // total}%" if total else "-"
