"""`breezeblock nbd`: block devices over NBD, on this machine. No service is asked."""

import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from breezeblock.cli import exits, options
from breezeblock.cli.attaching import State

if TYPE_CHECKING:
    from breezeblock.connect.linux import LinuxConnector

app = typer.Typer(
    name="nbd", no_args_is_help=True, help="Block devices over NBD, on this machine. No service is asked."
)

Uri = Annotated[
    str,
    typer.Argument(
        metavar="URI",
        help="nbd+unix:///EXPORT?socket=/PATH or nbd://HOST:PORT/EXPORT.",
        show_default=False,
    ),
]


@app.command()
def serve(
    image: Annotated[Path, typer.Argument(metavar="PATH", help="A raw image.", show_default=False)],
    socket: Annotated[
        Path | None, typer.Option("--socket", help="Listen on this Unix socket.", show_default=False)
    ] = None,
    tcp: Annotated[
        str | None,
        typer.Option("--tcp", metavar="HOST:PORT", help="Listen on TCP; needs --tls.", show_default=False),
    ] = None,
    tls: Annotated[
        Path | None,
        typer.Option(
            "--tls",
            metavar="DIRECTORY",
            help="Speak TLS only, with ca-cert.pem, server-cert.pem and server-key.pem from here.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="The export's name.")] = "",
    read_only: Annotated[bool, typer.Option("--read-only", help="Refuse writes.")] = False,
) -> None:
    """Serve a raw image over NBD until SIGTERM or Ctrl-C; SIGHUP takes notice that it was made longer."""
    from breezeblock.app import nbd
    from breezeblock.observe import configure_logging

    configure_logging("info", "auto")
    if socket is None and tcp is None:
        raise typer.BadParameter("give --socket or --tcp")
    nbd.serve(
        image,
        name=name,
        unix=socket.absolute() if socket is not None else None,
        tcp=_host_and_port(tcp) if tcp is not None else None,
        tls=tls,
        read_only=read_only,
    )


@app.command()
def relay(
    uri: Uri,
    socket: Annotated[Path, typer.Option("--socket", help="Listen on this Unix socket.", show_default=False)],
) -> None:
    """Serve another server's export and outlive it: what it did not answer is sent again at once.

    Between a server and the kernel this makes the stall as short as the server's absence.
    """
    from breezeblock.app import nbd

    nbd.relay(uri, unix=socket.absolute())


@app.command("list")
def list_(state: State = None, as_json: options.Json = False) -> None:
    """Tell what belongs on this host, and its devices."""
    from breezeblock.cli import output

    found = [(record.uri, device) for record, device in _connector(state).attached()]
    if as_json:
        output.as_json([{"uri": uri, "device": device} for uri, device in found])
    else:
        output.table(("URI", "Device"), found, empty="Nothing is attached.")


@app.command()
def extend(uri: Uri, state: State = None) -> None:
    """Let the device have the length that its export has now."""
    from breezeblock.cli import output, sizes
    from breezeblock.connect import linux

    output.say(f"{sizes.human(_connector(state).extend(linux.connection_data(uri)))} long now")


@app.command()
def keep(
    state: State = None,
    once: Annotated[bool, typer.Option("--once", help="Look once instead of staying.")] = False,
    config: options.Config = None,
) -> None:
    """Attach again what belongs on this host, and give devices whose server died new connections.

    Volumes of object stores are served again first. Run it as a service of each host. Exit code 6 with --once
    if something could not be attached.
    """
    from breezeblock.app import attaching
    from breezeblock.cli import output, server
    from breezeblock.connect import linux
    from breezeblock.observe import configure_logging

    connector, loaded = _connector(state), server.load(config)
    configure_logging(loaded.logging.level, loaded.logging.format)
    served = attaching.connector(loaded, state or linux.STATE, kernel=connector)
    if once:
        failures = [
            *served.restore(),
            *(failure.error for failure in connector.restore()),
            *served.activate(),
        ]
        for failure in failures:
            output.say(str(failure))
        if failures:
            raise typer.Exit(exits.Exit.FINDINGS)
        return
    stopped: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        stopped.append(number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    attaching.keep(served, connector, lambda: bool(stopped))


def _connector(state: Path | None) -> "LinuxConnector":
    from breezeblock.connect import linux

    return linux.LinuxConnector(state or linux.STATE)


def _host_and_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise typer.BadParameter(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)
