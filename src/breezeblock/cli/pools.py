"""`breezeblock pool …`."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from breezeblock.cli import exits, options

if TYPE_CHECKING:
    from breezeblock.app.takeover import Outcome, Takeover

Pool = Annotated[str, typer.Argument(metavar="BACKEND[#POOL]", help="The pool; its name may be left out.")]
Project = Annotated[
    str | None, typer.Option(help="Enter every volume into this project (name or id).", show_default=False)
]
VolumeType = Annotated[
    str | None, typer.Option("--type", help="Give every volume this type.", show_default=False)
]
Lists = Annotated[
    list[Path] | None,
    typer.Option(
        "--list",
        metavar="FILE",
        help="JSON of GET /volumes/detail?all_tenants=1 or /snapshots/detail, ours or Cinder's: names, "
        "projects, types. May be given again.",
        show_default=False,
    ),
]
Doubtful = Annotated[
    options.ImageFormat | None,
    typer.Option("--format", help="Of images that begin like QCOW2 but may be raw.", show_default=False),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]

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


@app.command()
def images(cloud: options.Cloud = None, as_json: options.Json = False) -> None:
    """List the images that pools keep, so that volumes from them are made at once (admins)."""
    from breezeblock.cli import client, output

    items = client.connect(cloud).get("/cached_images")["cached_images"]
    if as_json:
        output.as_json(items)
        return
    columns = ("ID", "Pool", "State", "Image", "Format", "Size", "Volumes", "Uses", "Last used")
    output.table(
        columns,
        (
            (
                *(item["id"], item["pool"], item["state"], item["url"], item["format"]),
                f"{item['virtual_bytes'] / 2**30:.0f} GiB",
                *(item["volumes"], item["uses"], item["used_at"]),
            )
            for item in items
        ),
        empty="No images.",
    )


@app.command()
def evict(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="Its id.", show_default=False)],
    cloud: options.Cloud = None,
) -> None:
    """Let an image that a pool keeps go; what volumes rest on stays until they are gone too (admins)."""
    from breezeblock.cli import client

    client.connect(cloud).delete(f"/cached_images/{image}")


def _row(name: str, facts: dict[str, Any]) -> tuple[object, ...]:
    sizes = (facts.get(f"{key}_capacity_gb") for key in ("free", "total", "provisioned"))
    return (
        name,
        facts.get("backend_state"),
        *(f"{size:.1f} GiB" if isinstance(size, int | float) else size for size in sizes),
        facts.get("storage_protocol"),
        facts.get("reason"),
    )


@app.command()
def rebuild(
    pool: Pool,
    project: Project = None,
    type_: VolumeType = None,
    lists: Lists = None,
    format_: Doubtful = None,
    dry_run: DryRun = False,
    as_json: options.Json = False,
    config: options.Config = None,
) -> None:
    """Enter the volumes and snapshots of our own pool that the catalog lacks. Changes nothing there."""
    with _takeover(config, pool, project, type_, lists, format_, edit=False) as work:
        _tell(work.plan() if dry_run else work.carry_out(), as_json=as_json)


@app.command()
def adopt(
    pool: Pool,
    project: Project = None,
    type_: VolumeType = None,
    lists: Lists = None,
    format_: Doubtful = None,
    dry_run: DryRun = False,
    as_json: options.Json = False,
    yes: options.Yes = False,
    config: options.Config = None,
) -> None:
    """Take over the volumes and snapshots that Cinder's NFS driver left in a pool; copies nothing."""
    with _takeover(config, pool, project, type_, lists, format_, edit=True) as work:
        if not dry_run:
            options.confirm(
                f"Has every other service stopped using {pool}, and is every volume detached?", yes=yes
            )
        _tell(work.plan() if dry_run else work.carry_out(), as_json=as_json)


@contextmanager
def _takeover(
    config: Path | None,
    where: str,
    project: str | None,
    type_: str | None,
    lists: list[Path] | None,
    format_: options.ImageFormat | None,
    *,
    edit: bool,
) -> "Iterator[Takeover]":
    from breezeblock.app import compose, known, takeover
    from breezeblock.cli.server import load
    from breezeblock.errors import NotFoundError

    loaded = load(config)
    name, _, pool = where.partition("#")
    backends, policies = compose.open_backends(loaded)
    if name not in backends:
        raise NotFoundError(f"There is no [backends.{name}] in the configuration.")
    told = known.read(lists or [])
    database = compose.open_database(loaded)
    try:
        with database.read() as connection:
            owner = takeover.project_id(connection, project) if project else ""
        wishes = takeover.Wishes(
            edit=edit,
            project_id=owner,
            volume_type=type_ or "",
            format=format_.value if format_ else "",
            volumes={one.id: one for one in told.volumes},
            snapshots={one.id: one for one in told.snapshots},
        )
        yield takeover.Takeover(loaded, database, backends[name], policies[name], pool, wishes)
    finally:
        backends[name].stop()
        database.dispose()


def _tell(outcomes: "Iterable[Outcome]", *, as_json: bool) -> None:
    from breezeblock.cli import output

    counts: dict[str, int] = {}
    told = []
    for one in outcomes:
        counts[one.state] = counts.get(one.state, 0) + 1
        if as_json:
            told.append(one)
        elif one.state != "known":
            _tell_one(one)
    if as_json:
        output.as_json(told)
    else:
        output.say(", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "No volumes.")
    if counts.get("left"):
        raise typer.Exit(exits.Exit.FINDINGS)


def _tell_one(one: "Outcome") -> None:
    from breezeblock.cli import output

    about = one.reason or f"{one.virtual_bytes} bytes, {one.format}, {one.snapshots} snapshots"
    output.console().print(f"{one.state.upper()} {one.volume_id}: {output.plain(about)}", soft_wrap=True)
    for edit in one.edits:
        output.console().print(f"  {output.plain(edit)}", soft_wrap=True)
