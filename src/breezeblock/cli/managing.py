"""`breezeblock volume manage|unmanage` and `breezeblock pool content`: what is on storage already."""

from typing import Annotated

import typer

from breezeblock.cli import options, pools, volumes

Host = Annotated[str, typer.Argument(metavar="POOL", help="As `pool list` names it: name@backend#pool.")]


@volumes.app.command()
def manage(
    pool: Host,
    reference: Annotated[str, typer.Argument(help="The file's name, as `pool content` shows it.")],
    name: options.NewName = None,
    type_: options.VolumeType = None,
    format_: Annotated[
        options.ImageFormat | None, typer.Option("--format", help="What it is, where that is in doubt.")
    ] = None,
    bootable: Annotated[bool, typer.Option("--bootable", help="It can be booted from.")] = False,
    cloud: options.Cloud = None,
    wait: options.Wait = True,
    timeout: options.Timeout = 0,
) -> None:
    """Make something on storage a volume, without a copy (admins)."""
    from breezeblock.cli import client, output
    from breezeblock.cli import wait as waiting

    service = client.connect(cloud)
    wanted = {
        "host": pool,
        "ref": {"source-name": reference, **options.given(format=format_)},
        "bootable": bootable,
        **options.given(name=name, volume_type=type_),
    }
    made = service.post("/manageable_volumes", {"volume": wanted})["volume"]
    if wait:
        waiting.for_resource(service, made, timeout_s=timeout)
    output.say(made["id"])


@volumes.app.command()
def unmanage(
    volume: Annotated[str, typer.Argument(metavar="VOLUME", help="Name or id.")],
    cloud: options.Cloud = None,
    wait: options.Wait = True,
    timeout: options.Timeout = 0,
) -> None:
    """Forget a volume and leave its data where it is (admins)."""
    from breezeblock.cli import client
    from breezeblock.cli import wait as waiting

    service = client.connect(cloud)
    found = service.find("volume", volume)
    service.post(f"/volumes/{found['id']}/action", {"os-unmanage": {}})
    if wait:
        waiting.for_resource(service, found, timeout_s=timeout)


@pools.app.command()
def content(pool: Host, cloud: options.Cloud = None, as_json: options.Json = False) -> None:
    """List what is in a pool and which of it could be managed (admins)."""
    from breezeblock.cli import client, output

    items = client.connect(cloud).get("/manageable_volumes/detail", host=pool)["manageable-volumes"]
    if as_json:
        output.as_json(items)
        return
    rows = (
        (
            item["reference"]["source-name"],
            f"{item['size']} GiB",
            "yes" if item["safe_to_manage"] else "no",
            item["reason_not_safe"] or item["extra_info"],
        )
        for item in items
    )
    output.table(("Name", "Size", "Can be managed", "Why not, or what would change"), rows, empty="Nothing.")
