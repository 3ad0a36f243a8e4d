"""Where a password would travel so that others can read it."""

from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit


def readable(url: str) -> bool:
    """Tell whether what is sent to an address crosses a network without TLS."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return True
    if parts.scheme != "http":
        return False
    with suppress(ValueError):
        return not ip_address(host).is_loopback
    return host != "localhost"
