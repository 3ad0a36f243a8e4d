"""Share lists: which shares a back end uses, one a line, as `ADDRESS [-o OPTIONS] [# comment]`.

The same syntax serves a file and the strings of the TOML configuration. A list is taken whole or not
at all: a share that is silently left out looks like an empty pool, and a volume in it like a lost one.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from breezeblock.errors import ConfigError

MAX_FILE_BYTES = 1 << 20
MAX_LINE_CHARACTERS = 4096

_FORM = "allowed is: ADDRESS [-o OPTION[,OPTION...]] [# comment], with \\040 for a space in ADDRESS"
_SECRET = re.compile(r"(?i)\b(pass\w*|pwd|secret\w*|cred\w*|token)\s*=.*", re.DOTALL)
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_OPTION = re.compile(r"[A-Za-z0-9_.:-]+(?:=[!-+\--~]*)?")
"""A name, then perhaps `=` and a value of printable ASCII without spaces and commas."""
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Share:
    """One share: where it is, and how this one is mounted."""

    address: str
    """Decoded: a space is a space. Exactly the string that consumers hash for their mount point."""
    options: str = ""
    """Mount options joined by commas, without `-o`; empty for none."""


@dataclass(frozen=True, slots=True)
class AddressKind:
    """What an address may look like; `identity` raises ValueError saying what is wrong."""

    example: str
    identity: Callable[[str], str]
    """The address in its one normal spelling, to find the same share named twice."""


def read(path: Path, kind: AddressKind) -> tuple[Share, ...]:
    """Read a share list file. Raises ConfigError as `file_lines` and `parse` do."""
    return parse(file_lines(path, kind), kind)


def inline(lines: Iterable[str], where: str, kind: AddressKind) -> tuple[Share, ...]:
    """Read shares given as strings; `where` names the setting for messages. Raises ConfigError."""
    return parse(inline_lines(lines, where), kind)


def inline_lines(lines: Iterable[str], where: str) -> list[tuple[str, str]]:
    """Return (place, line) pairs for `parse`."""
    return [(f"{where}[{index}]", line) for index, line in enumerate(lines)]


def file_lines(path: Path, kind: AddressKind) -> list[tuple[str, str]]:
    """Return (place, line) pairs for `parse` from a file, without blank lines and comments.

    Raises ConfigError when it cannot be read, is over `MAX_FILE_BYTES`, is no UTF-8 or names no share.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"The share list {path} cannot be read: {error.strerror}.",
            remedy=f"Make it a readable text file with one share a line, such as {kind.example}.",
        ) from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"The share list {path} is over {MAX_FILE_BYTES} bytes, the largest allowed.")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"The share list {path} is not UTF-8 text in line {number}.") from error
    lines = [
        (f"{path} line {number}", line.removesuffix("\r"))
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip() and not line.strip().startswith("#")
    ]
    if not lines:
        raise ConfigError(
            f"The share list {path} names no share.", remedy=f"Add one, such as {kind.example}."
        )
    return lines


def parse(lines: Iterable[tuple[str, str]], kind: AddressKind) -> tuple[Share, ...]:
    """Turn (place, line) pairs into shares, or raise one ConfigError that tells of every bad line."""
    shares: list[Share] = []
    problems: list[str] = []
    seen: dict[str, str] = {}
    for place, line in lines:
        try:
            share, identity = _share(line, kind)
        except ValueError as error:
            problems.append(f"{place}: {error} The text is {_shown(line)}.")
            continue
        if identity in seen:
            problems.append(
                f"{place}: the share {share.address} is already named in {seen[identity]}; "
                "one share is one pool and is named once."
            )
            continue
        seen[identity] = place
        shares.append(share)
    if problems:
        raise ConfigError("\n".join(problems), remedy=f"Correct the share list ({_FORM}).")
    return tuple(shares)


def line(share: Share) -> str:
    """Return the line that parses to this share."""
    address = share.address.replace(" ", "\\040")
    return f"{address} -o {share.options}" if share.options else address


def _share(line: str, kind: AddressKind) -> tuple[Share, str]:
    if len(line) > MAX_LINE_CHARACTERS:
        raise ValueError(f"the line is over {MAX_LINE_CHARACTERS} characters.")
    if _CONTROL.search(line):
        raise ValueError("the line holds a control character.")
    words = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].split()
    if not words:
        raise ValueError(f"there is no share; {_FORM}.")
    address = words[0].replace("\\040", " ")
    identity = kind.identity(address)
    return Share(address, _options(words[1:])), identity


def _options(words: list[str]) -> str:
    if len(words) % 2 or any(word != "-o" for word in words[::2]):
        raise ValueError(f"after the address {_FORM.removeprefix('allowed is: ADDRESS ')} is allowed.")
    joined = ",".join(words[1::2])
    check_options(joined)
    return joined


def check_options(options: str) -> None:
    """Raise ValueError unless `options` is empty or a comma-joined list of mount options."""
    for option in options.split(",") if options else ():
        if not _OPTION.fullmatch(option):
            raise ValueError(
                f"{redacted(option)!r} is no mount option; allowed are NAME and NAME=VALUE, "
                "joined by commas without spaces."
            )


def redacted(text: str) -> str:
    """Return `text` with everything after the first name that announces a secret left out."""
    return _SECRET.sub(r"\1=***", text)


def _shown(line: str) -> str:
    return repr(redacted(line[:200]) + ("..." if len(line) > 200 else ""))


def _nfs_identity(address: str) -> str:
    bracketed, closing, rest = address[1:].partition("]") if address.startswith("[") else ("", "", "")
    if closing:
        host = f"[{_ipv6(bracketed)}]"
        colon, path = rest[:1], rest[1:]
    else:
        host, colon, path = address.partition(":")
        if not _HOST.fullmatch(host):
            raise ValueError(
                f"{redacted(address)!r} does not begin with a host name, an IPv4 address or an IPv6 address "
                "in brackets; an NFS share is HOST:/EXPORT."
            )
    if colon != ":" or not path.startswith("/"):
        raise ValueError(f"{redacted(address)!r} is no NFS share; an NFS share is HOST:/EXPORT.")
    if any(part in {".", ".."} for part in path.split("/")):
        raise ValueError(f"{redacted(address)!r} has '.' or '..' in its path; write the export's own path.")
    return f"{host.lower()}:/{'/'.join(part for part in path.split('/') if part)}"


def _ipv6(text: str) -> str:
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        raise ValueError(f"{text!r} in brackets is no IPv6 address.") from None


NFS = AddressKind(example="192.0.2.10:/export/volumes", identity=_nfs_identity)
