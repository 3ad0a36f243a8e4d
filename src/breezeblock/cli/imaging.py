"""`breezeblock volume import|export`."""

from typing import Annotated

import typer

from breezeblock.cli import options, volumes

Url = Annotated[str, typer.Argument(help="https:, http: or file: address, as the worker sees it.")]
Format = Annotated[options.ImageFormat, typer.Option("--format", help="What the image is.")]


@volumes.app.command("import")
def import_(
    url: Url,
    size: Annotated[int, typer.Option(min=1, help="Of the volume, in GiB.")],
    format_: Format = options.ImageFormat.QCOW2,
    name: options.NewName = None,
    type_: options.VolumeType = None,
    checksum: Annotated[str | None, typer.Option(help="sha256:… or sha512:… of the image.")] = None,
    cloud: options.Cloud = None,
    wait: options.Wait = True,
    timeout: options.Timeout = 0,
) -> None:
    """Make a volume from an image. It is checked, converted, never adopted as it is."""
    from breezeblock.cli import client, output
    from breezeblock.cli import wait as waiting

    service = client.connect(cloud)
    image = {"url": url, "format": format_.value, **options.given(checksum=checksum)}
    volume = {"size": size, **options.given(name=name, volume_type=type_)}
    made = service.post("/volume_imports", {"volume_import": {"image": image, "volume": volume}})["volume"]
    if wait:
        waiting.for_resource(service, made, timeout_s=timeout)
    output.say(made["id"])


@volumes.app.command()
def export(
    volume: Annotated[str, typer.Argument(metavar="VOLUME", help="Name or id.")],
    url: Url,
    format_: Format = options.ImageFormat.QCOW2,
    cloud: options.Cloud = None,
    wait: options.Wait = True,
    timeout: options.Timeout = 0,
) -> None:
    """Write an available volume as an image: to a new file, or by an HTTP PUT."""
    from breezeblock.cli import client
    from breezeblock.cli import wait as waiting

    service = client.connect(cloud)
    found = service.find("volume", volume)
    image = {"url": url, "format": format_.value}
    service.post("/volume_exports", {"volume_export": {"volume_id": found["id"], "image": image}})
    if wait:
        waiting.for_resource(service, found, timeout_s=timeout)
