"""`breezeblock volume …`."""

from typing import Annotated, Any

import typer

from breezeblock.cli import options, trees

app = typer.Typer(name="volume", no_args_is_help=True, help="Volumes: list, make, change, delete.")

app.command()(trees.tree)
app.command()(trees.flatten)
app.command()(trees.shorten)

Name = Annotated[str, typer.Argument(metavar="VOLUME", help="Name or id.", show_default=False)]


@app.command("list")
def list_(
    cloud: options.Cloud = None,
    as_json: options.Json = False,
    all_projects: options.AllProjects = False,
    limit: options.Limit = None,
    status: Annotated[str | None, typer.Option(help="Only those in this status.", show_default=False)] = None,
    name: Annotated[str | None, typer.Option(help="Only those with this name.", show_default=False)] = None,
) -> None:
    """List volumes, newest first."""
    from breezeblock.cli import client, output

    query: dict[str, Any] = {"status": status, "name": name, "all_tenants": 1 if all_projects else None}
    items = list(client.connect(cloud).pages("/volumes/detail", "volumes", limit=limit, **query))
    if as_json:
        output.as_json(items)
        return
    columns = ("ID", "Name", "Status", "Size", "Type", "Attached to")
    output.table(
        columns,
        (
            (
                item["id"],
                item["name"],
                item["status"],
                f"{item['size']} GiB",
                item["volume_type"],
                [a.get("host_name") or a.get("server_id") for a in item["attachments"]],
            )
            for item in items
        ),
        empty="No volumes.",
    )


@app.command()
def show(
    volume: Name,
    cloud: options.Cloud = None,
    as_json: options.Json = False,
    all_projects: options.AllProjects = False,
) -> None:
    """Show one volume, and why it failed if it did."""
    from breezeblock.cli import client

    service = client.connect(cloud)
    _show(service, service.find("volume", volume, all_projects=all_projects), as_json=as_json)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="The new volume's name.", show_default=False)],
    size: Annotated[
        str | None,
        typer.Option(
            help="10, 10G, 10GiB, 1TiB; a bare number is GiB. Default: the source's.", show_default=False
        ),
    ] = None,
    snapshot: Annotated[
        str | None, typer.Option(help="Start with this snapshot's content.", show_default=False)
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Start with this volume's content.", show_default=False)
    ] = None,
    volume_type: options.VolumeType = None,
    description: Annotated[str | None, typer.Option(help="Free text.", show_default=False)] = None,
    properties: options.Properties = None,
    cloud: options.Cloud = None,
    as_json: options.Json = False,
    wait: options.Wait = True,
    timeout: options.Timeout = 0,
) -> None:
    """Make a volume: empty, of a snapshot, or of another volume."""
    from breezeblock.cli import client, sizes
    from breezeblock.cli import wait as waiting

    if snapshot and source:
        raise typer.BadParameter("give --snapshot or --source, not both")
    if not (size or snapshot or source):
        raise typer.BadParameter("give --size, --snapshot or --source")
    body: dict[str, Any] = {"name": name, "metadata": options.properties(properties)}
    if size:
        body["size"] = sizes.gibibytes(size)
    service = client.connect(cloud)
    if snapshot:
        body["snapshot_id"] = service.find("snapshot", snapshot)["id"]
    if source:
        body["source_volid"] = service.find("volume", source)["id"]
    body |= options.given(volume_type=volume_type, description=description)
    made = service.post("/volumes", {"volume": body})["volume"]
    if wait:
        waiting.for_resource(service, made, timeout_s=timeout)
        made = service.get(f"/volumes/{made['id']}")["volume"]
    _show(service, made, as_json=as_json)


@app.command("set")
def set_(
    volume: Name,
    name: Annotated[str | None, typer.Option(help="New name.", show_default=False)] = None,
    description: Annotated[str | None, typer.Option(help="New description.", show_default=False)] = None,
    properties: options.Properties = None,
    bootable: Annotated[
        bool | None, typer.Option("--bootable/--not-bootable", help="Mark.", show_default=False)
    ] = None,
    read_only: Annotated[
        bool | None, typer.Option("--read-only/--read-write", help="Mark.", show_default=False)
    ] = None,
    status: Annotated[
        str | None, typer.Option(help="Set the status row itself, unchecked (admins).", show_default=False)
    ] = None,
    cloud: options.Cloud = None,
) -> None:
    """Change a volume's name, description, metadata or marks. See `extend` for its size."""
    from breezeblock.cli import client

    service = client.connect(cloud)
    path = f"/volumes/{service.find('volume', volume)['id']}"
    changes = {"name": name, "description": description}
    changes = {key: value for key, value in changes.items() if value is not None}
    if changes:
        service.put(path, {"volume": changes})
    if properties:
        service.post(f"{path}/metadata", {"metadata": options.properties(properties)})
    actions = (
        (bootable, {"os-set_bootable": {"bootable": bootable}}),
        (read_only, {"os-update_readonly_flag": {"readonly": read_only}}),
        (status, {"os-reset_status": {"status": status}}),
    )
    for wanted, action in actions:
        if wanted is not None:
            service.post(f"{path}/action", action)


@app.command()
def unset(
    volume: Name,
    key: Annotated[list[str], typer.Option("--property", metavar="KEY", help="Key; repeat for more.")],
    cloud: options.Cloud = None,
) -> None:
    """Remove metadata keys of a volume."""
    from breezeblock.cli import client

    service = client.connect(cloud)
    found = service.find("volume", volume)
    for each in key:
        service.delete(f"/volumes/{found['id']}/metadata/{client.quoted(each)}")


@app.command()
def extend(
    volume: Name,
    size: Annotated[str, typer.Argument(help="The new size: 10, 10G, 10GiB, 1TiB; a bare number is GiB.")],
    cloud: options.Cloud = None,
    wait: options.Wait = True,
    timeout: options.Timeout = 0,
) -> None:
    """Grow a volume; what is new reads as zeros. Volumes never shrink."""
    from breezeblock.cli import client, sizes
    from breezeblock.cli import wait as waiting

    service = client.connect(cloud)
    found = service.find("volume", volume)
    service.post(f"/volumes/{found['id']}/action", {"os-extend": {"new_size": sizes.gibibytes(size)}})
    if wait:
        waiting.for_resource(service, found, timeout_s=timeout)


@app.command()
def revert(
    volume: Name,
    snapshot: Annotated[str, typer.Argument(help="Name or id of one of its snapshots.", show_default=False)],
    cloud: options.Cloud = None,
    wait: options.Wait = True,
    timeout: options.Timeout = 0,
    yes: options.Yes = False,
) -> None:
    """Give a volume the content of one of its snapshots. What was written since is lost."""
    from breezeblock.cli import client
    from breezeblock.cli import wait as waiting

    service = client.connect(cloud)
    found, wanted = service.find("volume", volume), service.find("snapshot", snapshot)
    options.confirm(f"Lose what was written to {volume} since {snapshot} was taken?", yes=yes)
    service.post(f"/volumes/{found['id']}/action", {"revert": {"snapshot_id": wanted["id"]}})
    if wait:
        waiting.for_resource(service, found, timeout_s=timeout)


@app.command()
def delete(
    volumes: Annotated[
        list[str], typer.Argument(metavar="VOLUME...", help="Names or ids.", show_default=False)
    ],
    cloud: options.Cloud = None,
    cascade: Annotated[bool, typer.Option(help="Its snapshots too.")] = False,
    force: Annotated[bool, typer.Option(help="Whatever its status (admins).")] = False,
    wait: options.Wait = True,
    timeout: options.Timeout = 0,
    yes: options.Yes = False,
) -> None:
    """Delete volumes with everything on them."""
    from breezeblock.cli import client
    from breezeblock.cli import wait as waiting

    service = client.connect(cloud)
    found = [service.find("volume", volume) for volume in volumes]
    options.confirm(f"Delete {', '.join(volumes)} with all data?", yes=yes)
    for volume in found:
        if force:
            service.post(f"/volumes/{volume['id']}/action", {"os-force_delete": {}})
        else:
            service.delete(f"/volumes/{volume['id']}", cascade=True if cascade else None)
    for volume in found if wait else ():
        waiting.for_resource(service, volume, timeout_s=timeout)


def _show(service: Any, volume: dict[str, Any], *, as_json: bool) -> None:
    from breezeblock.cli import output

    if as_json:
        output.as_json(volume)
        return
    shown = {
        "id": volume["id"],
        "name": volume["name"],
        "description": volume.get("description"),
        "status": volume["status"],
        "size": f"{volume['size']} GiB",
        "type": volume.get("volume_type"),
        "bootable": volume.get("bootable"),
        "from snapshot": volume.get("snapshot_id"),
        "from volume": volume.get("source_volid"),
        "metadata": volume.get("metadata"),
        "created": volume.get("created_at"),
        "on": volume.get("os-vol-host-attr:host"),
        "attached to": [a.get("host_name") or a.get("server_id") for a in volume.get("attachments", ())],
    }
    if volume["status"].startswith("error"):
        shown["reason"] = reason(service, volume)
    output.fields({key: value for key, value in shown.items() if value not in (None, "", [], {})})


def reason(service: Any, resource: dict[str, Any]) -> str:
    """Return why the newest failure of a resource happened, as its operation or a message has it."""
    from breezeblock.cli import wait as waiting

    operation = waiting.latest(service, resource)
    if operation and operation.get("error"):
        return str(operation["error"])
    messages = service.get("/messages", resource_uuid=resource["id"], limit=1)["messages"]
    return str(messages[0]["user_message"]) if messages else "no reason was recorded"
