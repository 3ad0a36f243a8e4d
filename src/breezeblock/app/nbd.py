"""A process that serves one image, or another server's export, over NBD."""

import asyncio
import signal
import ssl
from collections.abc import Callable
from pathlib import Path

import structlog
import uvloop

from breezeblock.errors import ConfigError
from breezeblock.objects.nbd import Device, Relay, Server, client, raw_device

log = structlog.get_logger()


def serve(
    image: Path,
    *,
    name: str = "",
    unix: Path | None = None,
    tcp: tuple[str, int] | None = None,
    tls: Path | None = None,
    read_only: bool = False,
) -> None:
    """Serve a raw image until SIGTERM or Ctrl-C; SIGHUP takes notice that it was made longer.

    Over TCP only with TLS: the protocol knows no passwords, so certificates say who may come.
    """
    if tcp is not None and tls is None:
        raise ConfigError("NBD over TCP needs TLS.", remedy="Give --tls DIRECTORY with the certificates.")
    context = tls_context(tls) if tls is not None else None
    with raw_device(image, read_only=read_only) as device:
        uvloop.run(_serve(device, device.refresh, name, unix, tcp, context))


def relay(uri: str, *, unix: Path) -> None:
    """Serve what another server exports, and outlive that server; until SIGTERM or Ctrl-C."""
    try:
        relay = Relay(client.place(uri), unix)
    except OSError as error:
        raise _deaf(unix, error) from error
    relay.run()


async def _serve(
    device: Device,
    refresh: Callable[[], None],
    name: str,
    unix: Path | None,
    tcp: tuple[str, int] | None,
    tls: ssl.SSLContext | None,
) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    loop.add_signal_handler(signal.SIGINT, ended.set)
    loop.add_signal_handler(signal.SIGHUP, refresh)
    server = Server({name: device}, tls=tls)
    try:
        if unix is not None:
            await server.listen_unix(unix)
        if tcp is not None:
            await server.listen_tcp(*tcp)
    except OSError as error:
        raise _deaf(unix if unix is not None else tcp, error) from error
    log.info("nbd.serving", export=name, bytes=device.length)
    await ended.wait()
    await server.stop()


def _deaf(where: object, error: OSError) -> ConfigError:
    return ConfigError(
        f"Cannot listen on {where}: {error}.",
        remedy="The directory must exist, the path be shorter than 100 bytes, the port be free.",
    )


def tls_context(directory: Path) -> ssl.SSLContext:
    """Return what a server needs for TLS with clients that have certificates.

    The names of the files are those of QEMU and nbdkit: `ca-cert.pem`, `server-cert.pem`, `server-key.pem`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(directory / "ca-cert.pem")
        context.load_cert_chain(directory / "server-cert.pem", directory / "server-key.pem")
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"The certificates in {directory} cannot be used: {error}.",
            remedy="ca-cert.pem, server-cert.pem and server-key.pem must be there and belong together.",
        ) from error
    return context
