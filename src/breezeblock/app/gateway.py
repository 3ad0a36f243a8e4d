"""The machine's own object store: a CDMI server beside the worker, on a thread of its own."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
import uvloop

from breezeblock import vault
from breezeblock.config import Config
from breezeblock.errors import BreezeblockError, ConfigError
from breezeblock.objects.cdmi import CdmiServer

HOST = "127.0.0.1"
log = structlog.get_logger(__name__)


def start(config: Config) -> Callable[[], None]:
    """Serve `[cdmi]` if there is such a section; return what ends that. Raises ConfigError if it cannot."""
    section = config.cdmi
    if not section.directory:
        return _nothing
    stop = _serve(config)
    log.info("cdmi.serving", host=HOST, port=section.port, directory=section.directory)
    return stop


@contextmanager
def lent(config: Config) -> Iterator[None]:
    """Serve it meanwhile, for those who look at a stopped service; not where the service itself does.

    Where it cannot be served, the pools that use it are down, and say so.
    """
    try:
        stop = _serve(config) if config.cdmi.directory else _nothing
    except BreezeblockError:
        stop = _nothing
    try:
        yield
    finally:
        stop()


def _serve(config: Config) -> Callable[[], None]:
    section = config.cdmi
    password = vault.at(Path(config.service.state_dir)).get(section.secret)
    root = Path(section.directory)
    if not root.is_dir():
        raise ConfigError(f"cdmi.directory: {root} is no directory.", remedy="Make it, or mount it.")
    loop = uvloop.new_event_loop()
    server = CdmiServer(root.resolve(), user=section.user, password=password)
    try:
        loop.run_until_complete(server.start(HOST, section.port))
    except OSError as error:
        loop.close()
        raise ConfigError(
            f"cdmi.port: {HOST}:{section.port} cannot be listened on: {error.strerror or error}.",
            remedy="Choose another port there, and in the urls of the pools that use it.",
        ) from error
    thread = threading.Thread(target=loop.run_forever, name="cdmi", daemon=True)
    thread.start()

    def stop() -> None:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)

    return stop


def _nothing() -> None:
    """End what was never begun."""
