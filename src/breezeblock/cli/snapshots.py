"""`breezeblock snapshot …`."""

from typing import Annotated, Any

import typer

from breezeblock.cli import options

app = typer.Typer(name="snapshot", no_args_is_help=True, help="Snapshots: points in time of a volume.")

Name = Annotated[str, typer.Argument(metavar="SNAPSHOT", help="Name or id.", show_default=False)]


@app.command("list")
def list_(
    cloud: options.Cloud = None,
    as_json: options.Json = False,
    all_projects: options.AllProjects = False,
    limit: options.Limit = None,
    volume: Annotated[str | None, typer.Option(help="Only those of this volume.", show_default=False)] = None,
) -> None:
    """List snapshots, newest first."""
    from breezeblock.cli import client, output

    service = client.connect(cloud)
    query: dict[str, Any] = {"all_tenants": 1 if all_projects else None}
    if volume:
        query["volume_id"] = service.find("volume", volume, all_projects=all_projects)["id"]
    items = list(service.pages("/snapshots/detail", "snapshots", limit=limit, **query))
    if as_json:
        output.as_json(items)
        return
    output.table(
        ("ID", "Name", "Status", "Size", "Volume", "Created"),
        (
            (i["id"], i["name"], i["status"], f"{i['size']} GiB", i["volume_id"], i["created_at"])
            for i in items
        ),
        empty="No snapshots.",
    )


@app.command()
def show(
    snapshot: Name,
    cloud: options.Cloud = None,
    as_json: options.Json = False,
    all_projects: options.AllProjects = False,
) -> None:
    """Show one snapshot, and why it failed if it did."""
    from breezeblock.cli import client

    service = client.connect(cloud)
    _show(service, service.find("snapshot", snapshot, all_projects=all_projects), as_json=as_json)


@app.command()
def create(
    volume: Annotated[str, typer.Argument(help="Name or id of the volume.", show_default=False)],
    name: Annotated[str, typer.Argument(help="The snapshot's name.", show_default=False)],
    description: Annotated[str | None, typer.Option(help="Free text.", show_default=False)] = None,
    properties: options.Properties = None,
    cloud: options.Cloud = None,
    as_json: options.Json = False,
    wait: options.Wait = True,
    timeout: options.Timeout = 0,
) -> None:
    """Fix a volume's content of now."""
    from breezeblock.cli import client
    from breezeblock.cli import wait as waiting

    service = client.connect(cloud)
    body: dict[str, Any] = {
        "volume_id": service.find("volume", volume)["id"],
        "name": name,
        "metadata": options.properties(properties),
        **options.given(description=description),
    }
    made = service.post("/snapshots", {"snapshot": body})["snapshot"]
    if wait:
        waiting.for_resource(service, made, timeout_s=timeout)
        made = service.get(f"/snapshots/{made['id']}")["snapshot"]
    _show(service, made, as_json=as_json)


@app.command()
def delete(
    snapshots: Annotated[
        list[str], typer.Argument(metavar="SNAPSHOT...", help="Names or ids.", show_default=False)
    ],
    cloud: options.Cloud = None,
    wait: options.Wait = True,
    timeout: options.Timeout = 0,
    yes: options.Yes = False,
) -> None:
    """Forget snapshots; the volume and its other snapshots keep their content."""
    from breezeblock.cli import client
    from breezeblock.cli import wait as waiting

    service = client.connect(cloud)
    found = [service.find("snapshot", snapshot) for snapshot in snapshots]
    options.confirm(f"Delete {', '.join(snapshots)}?", yes=yes)
    for snapshot in found:
        service.delete(f"/snapshots/{snapshot['id']}")
    for snapshot in found if wait else ():
        waiting.for_resource(service, snapshot, timeout_s=timeout)


def _show(service: Any, snapshot: dict[str, Any], *, as_json: bool) -> None:
    from breezeblock.cli import output
    from breezeblock.cli.volumes import reason

    if as_json:
        output.as_json(snapshot)
        return
    shown = {
        "id": snapshot["id"],
        "name": snapshot["name"],
        "description": snapshot.get("description"),
        "status": snapshot["status"],
        "size": f"{snapshot['size']} GiB",
        "volume": snapshot["volume_id"],
        "metadata": snapshot.get("metadata"),
        "created": snapshot.get("created_at"),
    }
    if snapshot["status"].startswith("error"):
        shown["reason"] = reason(service, snapshot)
    output.fields({key: value for key, value in shown.items() if value not in (None, "", {})})
