"""The machine's own object store: a CDMI server beside the worker, on a thread of its own."""

import asyncio
import datetime as dt
import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from breezeblock import vault
from breezeblock.config import Config
from breezeblock.errors import BreezeblockError, ConfigError
from breezeblock.objects.cdmi import CdmiServer

HOST = "127.0.0.1"
log = structlog.get_logger(__name__)


def certificate() -> str:
    """Return a new certificate for this machine's loopback address, signed by itself, and its key, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Breezeblock's object store")])
    now, address = dt.datetime.now(dt.UTC), x509.IPAddress(ipaddress.ip_address(HOST))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=36500))
        .add_extension(x509.SubjectAlternativeName([address]), critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return (secret + made.public_bytes(serialization.Encoding.PEM)).decode()


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
    context = _context(section.certificate) if section.certificate else None
    loop = uvloop.new_event_loop()
    server = CdmiServer(root.resolve(), user=section.user, password=password)
    try:
        loop.run_until_complete(server.start(HOST, section.port, context))
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


def _context(certificate: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate)
    except OSError as error:  # SSLError is one
        raise ConfigError(f"cdmi.certificate: {certificate} cannot be used: {error}.") from error
    return context


def _nothing() -> None:
    """End what was never begun."""
