"""The commands that run or look after the service itself, on its own machine."""

import contextlib
import enum
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from breezeblock.cli import exits, options

if TYPE_CHECKING:
    from breezeblock.catalog.database import Database
    from breezeblock.config import Config


class Role(enum.StrEnum):
    """Which part of the service a process is."""

    ALL = "all"
    API = "api"
    WORKER = "worker"


database_app = typer.Typer(name="db", no_args_is_help=True, help="The database.")
config_app = typer.Typer(name="config", no_args_is_help=True, help="The configuration.")


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for command in (serve, quickstart, doctor):
        app.command()(command)
    app.add_typer(database_app)
    app.add_typer(config_app)


def load(given: Path | None) -> "Config":
    """Return the configuration that the options, the environment and the usual places give."""
    from breezeblock import config

    return config.load(options.config_file(given), os.environ)


@contextlib.contextmanager
def catalog(given: Path | None) -> Iterator["Database"]:
    """Open the configured database, which must have the newest schema."""
    from breezeblock.catalog import migrate
    from breezeblock.catalog.database import Database

    database = Database(load(given).database.url)
    try:
        migrate.require_current(database)
        yield database
    finally:
        database.dispose()


def serve(
    config: options.Config = None,
    role: Annotated[Role, typer.Option(help="Run the API, the workers, or both.")] = Role.ALL,
) -> None:
    """Run the service in the foreground until SIGTERM or Ctrl-C."""
    from breezeblock.app.serve import serve as run

    run(load(config), role.value)


def quickstart(
    data: Annotated[
        Path, typer.Option(help="Directory for configuration, database, pool and clouds.yaml.")
    ] = Path("data"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 8776,
) -> None:
    """Set up what is missing in a directory, say what to try next, and run the service there."""
    from breezeblock.app import quickstart as start
    from breezeblock.app.serve import serve as run
    from breezeblock.cli import output

    ready = start.prepare(data, port)

    def tell() -> None:
        for line in start.story(ready):
            output.console().print(line, soft_wrap=True)

    run(ready.config, "all", ready=tell)


def doctor(
    config: options.Config = None,
    as_json: options.Json = False,
    limit: Annotated[int, typer.Option(min=1, help="Print at most so many findings.")] = 100,
    repair: Annotated[
        bool, typer.Option("--repair", help="First mend what can be mended safely; the service is stopped.")
    ] = False,
    yes: options.Yes = False,
) -> None:
    """Compare catalog and storage; say what is wrong and what would mend it.

    Changes nothing without --repair. With it, each step is told before it is done, and nothing is removed
    but unfinished work of our own: strangers' files are moved to .breezeblock-quarantine in their pool.
    """
    from breezeblock.app import doctor as examining
    from breezeblock.cli import output
    from breezeblock.observe import configure_logging

    configure_logging("warning", "console")  # what is printed here is the report
    if repair:
        _repair(load(config), yes=yes)
    report = examining.examine(load(config))
    if as_json:
        output.as_json(report)
    else:
        _tell(report, limit)
    if report.findings:
        raise typer.Exit(exits.Exit.FINDINGS)


def _repair(config: "Config", *, yes: bool) -> None:
    from breezeblock.app import repair
    from breezeblock.cli import output
    from breezeblock.errors import BreezeblockError

    with repair.prepared(config) as steps:
        for step in steps:
            output.say(f"MEND: {output.plain(step.text)}")
            if not options.agreed("Do it?", yes=yes):
                continue
            try:
                step.do()
            except BreezeblockError as error:
                output.say(f"  it could not be done: {output.plain(str(error))}")


def _tell(report: Any, limit: int) -> None:
    from breezeblock.cli import output

    findings = sorted(report.findings, key=lambda finding: (finding.severity, finding.subject))
    for finding in findings[:limit]:
        output.console().print(f"{finding.severity.upper()} {output.plain(finding.subject)}", style="bold")
        output.console().print(f"  problem: {output.plain(finding.problem)}")
        output.console().print(f"  remedy:  {output.plain(finding.remedy)}")
    if len(findings) > limit:
        output.say(f"… and {len(findings) - limit} more; --limit shows more, --json all.")
    looked = ", ".join(f"{count} {what}" for what, count in report.looked_at.items())
    output.say(f"{len(findings)} findings. Looked at {looked}.")


@database_app.command()
def upgrade(config: options.Config = None) -> None:
    """Bring the database's schema up to this version. Safe to repeat."""
    from breezeblock.catalog import migrate
    from breezeblock.catalog.database import Database
    from breezeblock.cli import output

    database = Database(load(config).database.url)
    try:
        migrate.upgrade(database)
    finally:
        database.dispose()
    output.say("The database's schema is up to date.")


@config_app.command()
def check(config: options.Config = None) -> None:
    """Check the configuration, the back ends' sections too, without starting anything."""
    from breezeblock.app import compose
    from breezeblock.cli import output

    file = options.config_file(config)
    compose.open_backends(load(file))
    output.say(f"{file or 'The default configuration'} is good.")


@config_app.command()
def show(config: options.Config = None) -> None:
    """Print the configuration in force as JSON: the file, the environment and the defaults."""
    from breezeblock.cli import output

    output.as_json(_without_secrets(load(config)))


def _without_secrets(config: "Config") -> Any:
    import msgspec
    import sqlalchemy

    from breezeblock.shares import sharelist

    plain = msgspec.to_builtins(config)
    plain["database"]["url"] = sqlalchemy.make_url(config.database.url).render_as_string(hide_password=True)
    for section in plain["backends"].values():
        for key in section:
            if key == "shares" and isinstance(section[key], list):
                section[key] = [sharelist.redacted(str(line)) for line in section[key]]
            if any(word in key.lower() for word in ("password", "secret", "token", "credential")):
                section[key] = "***"
    return plain
