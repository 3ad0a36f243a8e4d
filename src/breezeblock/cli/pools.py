"""`breezeblock pool …`."""

from typing import Any

import typer

from breezeblock.cli import options

app = typer.Typer(name="pool", no_args_is_help=True, help="Pools: the places where volumes are put.")


@app.command("list")
def list_(cloud: options.Cloud = None, as_json: options.Json = False) -> None:
    """List pools with their room (admins)."""
    from breezeblock.cli import client, output

    items = client.connect(cloud).get("/scheduler-stats/get_pools", detail="true")["pools"]
    if as_json:
        output.as_json(items)
        return
    columns = ("Pool", "State", "Free", "Total", "Promised", "Protocol", "Reason")
    output.table(columns, (_row(item["name"], item["capabilities"]) for item in items), empty="No pools.")


def _row(name: str, facts: dict[str, Any]) -> tuple[object, ...]:
    sizes = (facts.get(f"{key}_capacity_gb") for key in ("free", "total", "provisioned"))
    return (
        name,
        facts.get("backend_state"),
        *(f"{size:.1f} GiB" if isinstance(size, int | float) else size for size in sizes),
        facts.get("storage_protocol"),
        facts.get("reason"),
    )
