"""A process that serves one image, or another server's export, over NBD."""

import asyncio
import signal
import ssl
from collections.abc import Callable
from pathlib import Path

import structlog
import uvloop

from breezeblock.errors import BreezeblockError, ConfigError
from breezeblock.objects.nbd import Device, RemoteDevice, Server, client, raw_device

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
    context = _trusted(tcp, tls)
    with raw_device(image, read_only=read_only) as device:
        uvloop.run(_serve(device, device.refresh, name, unix, tcp, context))


def relay(
    uri: str, *, unix: Path | None, tcp: tuple[str, int] | None = None, tls: Path | None = None
) -> None:
    """Serve another server's export, under the same name, and outlive that server; TCP as in `serve`.

    SIGHUP asks for the export's length again.
    """
    where = client.place(uri)
    context = _trusted(tcp, tls)

    async def main() -> None:
        device = RemoteDevice(where)
        await device.open()
        tasks = set()

        async def ask_again() -> None:
            try:
                await device.refresh()
            except BreezeblockError as error:
                log.warning("nbd.refresh_failed", why=error.message)

        def refresh() -> None:
            task = asyncio.get_running_loop().create_task(ask_again())
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        await _serve(device, refresh, where.export, unix, tcp, context)

    uvloop.run(main())


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
        raise ConfigError(
            f"Cannot listen on {unix if unix is not None else tcp}: {error}.",
            remedy="The directory must exist, the path be shorter than 100 bytes, the port be free.",
        ) from error
    log.info("nbd.serving", export=name, bytes=device.length)
    await ended.wait()
    await server.stop()


def _trusted(tcp: tuple[str, int] | None, tls: Path | None) -> ssl.SSLContext | None:
    if tcp is not None and tls is None:
        raise ConfigError("NBD over TCP needs TLS.", remedy="Give --tls DIRECTORY with the certificates.")
    return tls_context(tls) if tls is not None else None


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
