"""Shares as Windows reaches them: by their UNC names, without a mount, through a mapping without a letter.

What Windows itself has to be asked is asked of `windows.ps1`, which takes one JSON object on standard
input and prints one. Nothing here has been run on Windows: the logic is tested against a stand-in for that
script.
"""

import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from threading import Lock
from typing import Any

import msgspec

from breezeblock.errors import UnavailableError
from breezeblock.shares.login import Login

SCRIPT = Path(__file__).with_name("windows.ps1")
POWERSHELL = (
    "powershell.exe",
    "-NoProfile",
    "-NonInteractive",
    "-ExecutionPolicy",
    "Bypass",
    "-File",
    str(SCRIPT),
)
MAX_ANSWER_BYTES = 1 << 20

Ask = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Asks the script; raises UnavailableError with what it complained of."""


class _Answer(msgspec.Struct):
    ok: bool
    error: str = ""
    value: dict[str, Any] = {}


def script(command: Sequence[str] = POWERSHELL, timeout_s: float = 30.0) -> Ask:
    """Return what asks the script by starting it. Passwords go through standard input only."""

    def ask(question: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            done = subprocess.run(
                command,
                input=msgspec.json.encode(question),
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"PowerShell did not answer within {timeout_s:g} s.") from None
        except OSError as error:
            raise UnavailableError(f"PowerShell cannot be started: {error.strerror}.") from error
        try:
            answer = msgspec.json.decode(done.stdout[:MAX_ANSWER_BYTES], type=_Answer)
        except msgspec.MsgspecError:
            raise UnavailableError(f"PowerShell ended with {done.returncode} and no answer.") from None
        if not answer.ok:
            raise UnavailableError(f"Windows refused to {question.get('do')} the share: {answer.error[:500]}")
        return answer.value

    return ask


def unc(address: str) -> str:
    """Return the UNC name of //SERVER/SHARE[/DIRECTORY]."""
    return address.replace("/", "\\").rstrip("\\")


def root(address: str) -> str:
    r"""Return the UNC name of the share itself, \\SERVER\SHARE: what is mapped."""
    return "\\".join(unc(address).split("\\")[:4])


def same(one: str, other: str) -> bool:
    """Tell whether two names are one to Windows, which takes no notice of case and of the kind of slash."""
    return PureWindowsPath(one) == PureWindowsPath(other)


@dataclass(slots=True)
class UncWay:
    """One share, mapped for every user of the machine, so that Hyper-V's own processes reach it as well."""

    address: str
    login: Callable[[], Login]
    """Returns who we are, the password in plain; asked anew for each mapping."""
    privacy: bool = False
    """Refuse a connection that is not encrypted."""
    ask: Ask = field(default_factory=script)
    _lock: Lock = field(default_factory=Lock)
    _local: str | None = None
    _knows: bool = False
    """Whether Windows was asked if the share is of this machine."""

    @property
    def point(self) -> Path:
        """The directory: the UNC name, or that on this machine for a share of its own."""
        return Path(self._local or unc(self.address))

    def path(self) -> Path:
        """Map the share if it is not mapped and works. Raises UnavailableError."""
        with self._lock:
            if not self._knows:
                self._local, self._knows = self._own_directory(), True
            if self._local is None and not self._works():
                self._map()
        return self.point

    def let_go(self) -> None:
        """Drop the mapping, not by force: what has files open through it keeps it."""
        if self._local is None:
            with suppress(UnavailableError):
                self.ask({"do": "unmap", "remote": root(self.address)})

    def _own_directory(self) -> str | None:
        """Return the directory behind a share of this machine's own; its UNC name must not be used then."""
        found = self.ask({"do": "local", "remote": root(self.address)}).get("path")
        if not found:
            return None
        inside = unc(self.address)[len(root(self.address)) :]
        return f"{str(found).rstrip(chr(92))}{inside}"

    def _works(self) -> bool:
        """Look first: a mapping may be there and lead nowhere, or a domain account may need none."""
        return bool(self.ask({"do": "look", "remote": unc(self.address)}).get("works"))

    def _map(self) -> None:
        who = self.login()
        question: dict[str, Any] = {"do": "map", "remote": root(self.address), "privacy": self.privacy}
        if who.username:
            domain = f"{who.domain}\\" if who.domain else ""
            question |= {"username": f"{domain}{who.username}", "password": who.password or ""}
        self.ask(question)
        if not self._works():
            raise UnavailableError(
                f"{unc(self.address)} is mapped, but its directory cannot be seen.",
                remedy="Check the rights of the account on the share and on the directory.",
            )
