"""`breezeblock cdmi`: a directory as a CDMI server."""

import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(name="cdmi", no_args_is_help=True, help="A directory as a CDMI server.")

PASSWORD = "BREEZEBLOCK_CDMI_PASSWORD"  # noqa: S105 - the variable's name


@app.callback()
def group() -> None:
    """Hold the commands together."""


@app.command()
def serve(
    directory: Annotated[Path, typer.Argument(help="Where the objects lie.", exists=True, file_okay=False)],
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 takes a free one.")] = 8081,
    user: Annotated[str, typer.Option(help=f"Ask for this user and the password in {PASSWORD}.")] = "",
    certificate: Annotated[
        Path | None, typer.Option(help="Serve TLS with this PEM file, key included.")
    ] = None,
) -> None:
    """Serve objects over CDMI 1.0.2 and 1.1 until interrupted; both dialects of ranged writes."""
    import asyncio
    import ssl
    from contextlib import suppress

    from breezeblock.cli import output
    from breezeblock.errors import ConfigError
    from breezeblock.objects.cdmi import CdmiServer
    from breezeblock.observe import configure_logging

    configure_logging("info", "auto")
    password = os.environ.get(PASSWORD, "")
    if user and not password:
        raise ConfigError(f"There is no password for {user}.", remedy=f"Set {PASSWORD}.")
    context = None
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)

    async def run() -> None:
        server = CdmiServer(directory.resolve(), user=user, password=password)
        taken = await server.start(host, port, context)
        output.say(f"Serving {directory} at http{'s' if context else ''}://{host}:{taken}/")
        await asyncio.Event().wait()

    with suppress(KeyboardInterrupt):
        asyncio.run(run())
