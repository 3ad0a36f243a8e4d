"""`breezeblock type …`: volume types."""

from typing import Annotated, Any

import typer

from breezeblock.cli import options
from breezeblock.errors import NotFoundError

app = typer.Typer(name="type", no_args_is_help=True, help="Volume types: what volumes may ask for.")

Name = Annotated[str, typer.Argument(metavar="TYPE", help="Name or id.", show_default=False)]
Specs = Annotated[
    list[str] | None,
    typer.Option("--property", metavar="KEY=VALUE", help="Extra spec; repeat for more.", show_default=False),
]


@app.command("list")
def list_(cloud: options.Cloud = None, as_json: options.Json = False) -> None:
    """List volume types."""
    from breezeblock.cli import client, output

    items = list(client.connect(cloud).pages("/types", "volume_types"))
    if as_json:
        output.as_json(items)
        return
    output.table(
        ("ID", "Name", "Public", "Extra specs", "Description"),
        ((i["id"], i["name"], i["is_public"], i.get("extra_specs"), i.get("description")) for i in items),
        empty="No volume types.",
    )


@app.command()
def show(name: Name, cloud: options.Cloud = None, as_json: options.Json = False) -> None:
    """Show one volume type."""
    from breezeblock.cli import client, output

    found = find(client.connect(cloud), name)
    if as_json:
        output.as_json(found)
    else:
        output.fields(found)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="The new type's name.", show_default=False)],
    specs: Specs = None,
    description: Annotated[str | None, typer.Option(help="Free text.", show_default=False)] = None,
    public: Annotated[
        bool, typer.Option("--public/--private", help="For every project, or only for those given access.")
    ] = True,
    cloud: options.Cloud = None,
    as_json: options.Json = False,
) -> None:
    """Make a volume type (admins)."""
    from breezeblock.cli import client, output

    body: dict[str, Any] = {
        "name": name,
        "os-volume-type-access:is_public": public,
        "extra_specs": options.properties(specs),
    }
    if description:
        body["description"] = description
    made = client.connect(cloud).post("/types", {"volume_type": body})["volume_type"]
    if as_json:
        output.as_json(made)
    else:
        output.fields(made)


@app.command("set")
def set_(name: Name, specs: Specs = None, cloud: options.Cloud = None) -> None:
    """Add or change extra specs (admins)."""
    from breezeblock.cli import client

    service = client.connect(cloud)
    path = f"/types/{find(service, name)['id']}/extra_specs"
    service.post(path, {"extra_specs": options.properties(specs)})


@app.command()
def delete(name: Name, cloud: options.Cloud = None) -> None:
    """Delete a volume type that no volume has (admins)."""
    from breezeblock.cli import client

    service = client.connect(cloud)
    service.delete(f"/types/{find(service, name)['id']}")


def find(service: Any, name: str) -> dict[str, Any]:
    """Return the type with this id or name."""
    items: list[dict[str, Any]] = list(service.pages("/types", "volume_types"))
    found = next((item for item in items if name in {item["id"], item["name"]}), None)
    if found is None:
        raise NotFoundError(
            f"there is no volume type {name!r}",
            remedy=f"There are: {', '.join(item['name'] for item in items) or 'none'}.",
        )
    return found
