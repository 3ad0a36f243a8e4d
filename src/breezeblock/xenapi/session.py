"""A session with a pool: logged in when needed, renewed when it expired, and following the master.

A host that is no master says where it is (`HOST_IS_SLAVE`). A host that does not answer is left for the
next one known: those of the configuration, then those that the pool itself named.
"""

import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from breezeblock.errors import BreezeblockError, UnavailableError
from breezeblock.xenapi.failures import SlaveError, XenApiError
from breezeblock.xenapi.methods import METHODS, reads
from breezeblock.xenapi.wire import LostError, NotSentError, Trust, Wire

ROUNDS = 3
"""How often a call is tried anew after redirection, renewal or a host that does not answer."""


@dataclass(frozen=True, slots=True)
class Account:
    """Where to log in, and as whom."""

    urls: tuple[str, ...]
    username: str
    password: str = field(repr=False)
    trust: Trust = field(default_factory=Trust)
    timeout_s: float = 60.0


class Session:
    """Calls to whichever host is the master. Safe for many threads."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._lock = threading.Lock()
        self._wires: dict[str, Wire] = {}
        self._urls = list(account.urls)
        self._ref = ""
        self.epoch = 0
        """Counts the masters: event tokens of one mean nothing to the next."""

    def call(self, method: str, *params: Any) -> Any:
        """Call a method of `methods.METHODS` (or `Async.` of one) and return its value.

        Raises XenApiError, UnavailableError.
        """
        types, _result = METHODS[method.removeprefix("Async.")]
        required = sum(not kind.endswith("?") for kind in types)
        if not required <= len(params) <= len(types):
            raise TypeError(f"{method} takes {types}")
        last: BreezeblockError = UnavailableError("No XenServer host is known.")
        for _round in range(ROUNDS * len(self._urls)):
            wire = self._wire()
            ref = ""
            try:
                ref = self._login(wire)
                return wire.call(method, [ref, *params])
            except SlaveError as error:
                last = error
                self._follow(wire, error.params[0] if error.params else "")
            except NotSentError as error:
                last = error
                self._leave(wire)
            except LostError as error:
                self._leave(wire)
                if not reads(method):
                    raise
                last = error
            except XenApiError as error:
                if error.code != "SESSION_INVALID":
                    raise
                last = error
                self._forget(ref)
        raise last

    def learn(self, addresses: list[str]) -> None:
        """Remember the pool's hosts, for when the master does not answer."""
        with self._lock:
            for address in addresses:
                url = self._url_of(address)
                if url not in self._urls:
                    self._urls.append(url)

    def master(self) -> Wire:
        """Return the host that calls go to now."""
        return self._wire()

    def reference(self) -> str:
        """Return the session's reference, as transfers carry it. It is a secret."""
        return self._login(self._wire())

    def other(self, address: str) -> Wire:
        """Return another host of the pool."""
        url = self._url_of(address)
        with self._lock:
            return self._wires.setdefault(url, Wire(url, self._account.trust, self._account.timeout_s))

    def close(self) -> None:
        """Log out."""
        with self._lock:
            ref, self._ref = self._ref, ""
        wire = self._wire()
        if ref:
            with suppress(BreezeblockError):
                wire.call("session.logout", [ref])
        wire.close()

    def _wire(self) -> Wire:
        with self._lock:
            url = self._urls[0]
            if url not in self._wires:
                self._wires[url] = Wire(url, self._account.trust, self._account.timeout_s)
            return self._wires[url]

    def _login(self, wire: Wire) -> str:
        with self._lock:
            if not self._ref:
                account = self._account
                said = [account.username, account.password, "1.0", "breezeblock"]
                self._ref = str(wire.call("session.login_with_password", said))
            return self._ref

    def _forget(self, ref: str) -> None:
        with self._lock:
            if self._ref == ref:
                self._ref = ""

    def _follow(self, wire: Wire, address: str) -> None:
        url = self._url_of(address)
        with self._lock:
            if self._urls[0] == wire.url:
                self._urls = [url, *(known for known in self._urls if known != url)]
                self._ref = ""
                self.epoch += 1

    def _leave(self, wire: Wire) -> None:
        """Try another host next; a session is the pool's, but a new master may not know it."""
        wire.close()
        with self._lock:
            if self._urls[0] == wire.url and len(self._urls) > 1:
                self._urls = [*self._urls[1:], wire.url]
                self._ref = ""
                self.epoch += 1

    def _url_of(self, address: str) -> str:
        parts = urlsplit(self._account.urls[0])
        name = f"[{address}]" if ":" in address else address
        return f"{parts.scheme}://{name}:{parts.port}" if parts.port else f"{parts.scheme}://{name}"
