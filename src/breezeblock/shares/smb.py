"""SMB shares: their addresses, the mount options that make sense for them, and mount.cifs.

Options are an allow-list: an option of mount.cifs(8) that is not known here is refused with the reason
where there is one, because most of those that are left out lose data, hide errors or open the share.
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address

from breezeblock.errors import ConfigError
from breezeblock.shares import login, sharelist
from breezeblock.shares.login import Login
from breezeblock.shares.mounts import Client, merged
from breezeblock.shares.sharelist import AddressKind, Share

DEFAULT_OPTIONS = (
    "vers=3.1.1,sign,hard,nosuid,nodev,noexec,cache=strict,actimeo=0,nobrl,mapposix,iocharset=utf8,"
    "noserverino,echo_interval=10"
)
"""docs/backends/smb.md says why, for each."""

VERSIONS = {"2.1": (2, 1), "3": (3, 0), "3.0": (3, 0), "3.02": (3, 2), "3.0.2": (3, 2), "3.1.1": (3, 11)}
"""What `vers=` may be; "3" lets the two sides agree on 3.0 or better."""

_FLAGS = re.compile(
    "hard|sign|seal|nobrl|rdma|nodfs|nolease|nounix|nosharesock|cifsacl|modefromsid|idsfromsid|noperm|"
    "(no)?(multichannel|persistenthandles|resilienthandles|forceuid|forcegid|serverino|handlecache|mapposix)|"
    "nosuid|nodev|noexec|noatime|relatime"
)
_NUMBERS: Mapping[str, tuple[int, int]] = {
    "port": (1, 65535),
    "max_channels": (2, 16),
    "echo_interval": (1, 600),
    "actimeo": (0, 1),
    "acregmax": (0, 1),
    "acdirmax": (0, 1),
    "closetimeo": (0, 1),
    "handletimeout": (0, 960_000),
    "max_credits": (20, 60_000),
    "rsize": (4096, 1 << 24),
    "wsize": (4096, 1 << 24),
    "bsize": (16_384, 1 << 24),
}
"""Options with a number, and between what."""
_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MODE = re.compile(r"0?[0-7]{3}")
_WORDS: Mapping[str, re.Pattern[str]] = {
    "vers": re.compile("|".join(re.escape(version) for version in VERSIONS)),
    "sec": re.compile(r"ntlmssp|ntlmsspi|krb5|krb5i|krb5p"),
    "cache": re.compile(r"strict|none"),
    "iocharset": re.compile(r"utf8"),
    "uid": _ID,
    "gid": _ID,
    "cruid": _ID,
    "file_mode": _MODE,
    "dir_mode": _MODE,
    "ip": re.compile(r"[0-9A-Fa-f.:]{2,45}"),
    "srcaddr": re.compile(r"[0-9A-Fa-f.:]{2,45}"),
    "netbiosname": re.compile(r"[A-Za-z0-9-]{1,15}"),
    "servern": re.compile(r"[A-Za-z0-9-]{1,15}"),
}
"""Options with a value, and its form."""
_REFUSED: Mapping[str, str] = {
    "soft": "a time-out would become an I/O error, after which nobody knows what was written",
    "guest": "anybody could read and write every volume; with `allow_guest = true` leave out the username",
    "nostrictsync": "fsync would not reach the server, and finished work could be lost with it",
    "nosync": "fsync would not reach the server, and finished work could be lost with it",
    "strictsync": "it is so anyway",
    "fsc": "another host's changes would not be seen through a local cache",
    "ro": "volumes are written",
    "rw": "shares are mounted writable anyway",
    "remount": "mounts that work are never touched",
    "bind": "it mounts no share",
    "fake": "it mounts nothing",
    "multiuser": "every user's own session would be asked for, and there are none",
    "prefixpath": "write the directory into the address: //server/share/directory",
    "snapshot": "it mounts the past, read-only",
    "sloppy": "options that nobody understands would be ignored",
    "unix": "POSIX extensions exist in SMB 1 only",
    "posix": "they are not finished in any server",
    "sfu": "it turns files into links and devices by their content",
    "credentials": "it goes with the share, not into `mount_options`",
    "noauto": "it means something in fstab only",
    "_netdev": "it means something in fstab only",
    "nofail": "it means something in fstab only",
    "locallease": "leases must be the server's",
    "forcemandatorylock": "QEMU's locks would then keep QEMU itself from writing (see docs/backends/smb.md)",
    "brl": "QEMU's locks would then keep QEMU itself from writing (see docs/backends/smb.md)",
}
_WHY = {
    "vers": "SMB 1 and 2.0 neither encrypt nor protect a session's beginning; allowed are "
    + ", ".join(VERSIONS),
    "sec": "allowed are ntlmssp, ntlmsspi, krb5, krb5i and krb5p; others send weak or no proof of who we are",
    "cache": "with cache=loose another host's changes are not seen; allowed are strict and none",
}


@dataclass(frozen=True, slots=True)
class SmbShare:
    """One share and who we are to it."""

    share: Share
    """With the options that are no secret."""
    login: Login


def read(share: Share) -> SmbShare:
    """Part a share of the list into where and who. Raises ConfigError, which shows no password."""
    try:
        who, rest = login.split(share.options)
    except ValueError as error:
        raise ConfigError(f"The share {share.address}: {error}") from None
    return SmbShare(Share(share.address, rest), who)


def line(one: SmbShare) -> str:
    """Return the line that reads as this share. It holds the password if the share's own line did."""
    who = one.login
    said = {
        "username": who.username,
        "domain": who.domain,
        "password": who.password or "",
        "secret": who.secret,
        "credentials": str(who.file or ""),
    }
    options = [f"{name}={value}" for name, value in said.items() if value]
    return sharelist.line(Share(one.share.address, ",".join([*options, one.share.options]).strip(",")))


def check(options: str, where: str) -> None:
    """Raise ConfigError for an option that is not allowed, or is not what it may be."""
    for option in options.split(",") if options else ():
        problem = _problem(option)
        if problem:
            raise ConfigError(
                f"{where} has the mount option {sharelist.redacted(option)}, "
                f"which cannot be used: {problem}.",
                remedy="Leave it out, or correct it; docs/backends/smb.md lists what is allowed.",
            )


def _problem(option: str) -> str:
    name, equals, value = option.partition("=")
    if _FLAGS.fullmatch(name):
        return "it takes no value" if equals else ""
    if name in _NUMBERS:
        low, high = _NUMBERS[name]
        good = value.isascii() and value.isdigit() and low <= int(value) <= high
        return "" if good else f"a whole number from {low} to {high} is needed"
    if name in _WORDS:
        return (
            ""
            if _WORDS[name].fullmatch(value)
            else _WHY.get(name, "its value is not of the form it must have")
        )
    if name in login.NAMES:
        return "it says who we are, and goes with the share"
    return _REFUSED.get(name, "it is not among those known to be safe")


def check_sense(options: str, who: Login, where: str, *, allow_guest: bool) -> None:
    """Raise ConfigError if options, each of them allowed, make no sense together.

    `options` = all that are in force.
    """
    said = {name: value for name, _, value in (option.partition("=") for option in options.split(","))}
    kerberos = said.get("sec", "").startswith("krb5")
    version = VERSIONS[said["vers"]] if "vers" in said else (3, 11)
    new = [name for name in ("seal", "multichannel", "persistenthandles", "rdma") if name in said]
    problem = ""
    if version < (3, 0) and new:
        problem = f"{' and '.join(new)} began with SMB 3.0, but vers={said['vers']}"
    elif "max_channels" in said and "multichannel" not in said:
        problem = "max_channels needs multichannel"
    elif "persistenthandles" in said and "resilienthandles" in said:
        problem = "persistenthandles and resilienthandles exclude each other"
    elif "guest" in said and not allow_guest:
        problem = "nobody is named, and guests are refused"
    elif "guest" in said and {"sign", "seal"} & said.keys():
        problem = "a guest's session has no key to sign or encrypt with"
    elif kerberos and (who.password is not None or who.secret or who.file):
        problem = f"sec={said['sec']} takes a ticket, not a password"
    elif not kerberos and who.username and who.password is None and not who.secret:
        problem = "the user has no password"
    elif "cruid" in said and not kerberos:
        problem = "cruid names a ticket's owner and needs sec=krb5"
    if problem:
        raise ConfigError(
            f"{where}: {problem}.",
            remedy="See docs/backends/smb.md; a user is given by username= with password=, secret= or "
            "credentials=, or by sec=krb5.",
        )


def in_force(one: SmbShare, defaults: str, mount_options: str) -> str:
    """Return all options that a share is mounted with but those that say who we are."""
    options = merged(DEFAULT_OPTIONS, defaults, mount_options, one.share.options)
    if one.login.anonymous and ",sec=krb5" not in f",{options}":
        # A guest's session has no key to sign with.
        asked = merged(mount_options, one.share.options).split(",")
        options = ",".join(option for option in options.split(",") if option != "sign" or option in asked)
        return f"{options},guest"
    return options


def _identity(address: str) -> str:
    shown = repr(sharelist.redacted(address))
    if "\\" in address:
        raise ValueError(f"{shown} has backslashes; write //SERVER/SHARE, also for Windows servers.")
    if not address.startswith("//"):
        raise ValueError(f"{shown} is no SMB share; an SMB share is //SERVER/SHARE[/DIRECTORY].")
    host, *parts = address[2:].split("/")
    if not parts or not parts[0]:
        raise ValueError(f"{shown} names no share; an SMB share is //SERVER/SHARE[/DIRECTORY].")
    if not _is_host(host):
        raise ValueError(f"{shown} does not name a server by its name or its address.")
    parts = [part for part in parts if part]
    for part in parts:
        if part in {".", ".."} or re.search(r'[\x00-\x1f"\\:|<>*?]', part) or part != part.rstrip(". "):
            raise ValueError(f"{shown} holds {part!r}, which no server can have as a share or directory.")
    if parts[0].upper() == "IPC$":
        raise ValueError(f"{shown} is no share of files.")
    return unicodedata.normalize("NFC", "/".join(["/", host, *parts]).casefold())


def _is_host(host: str) -> bool:
    if ":" in host:
        try:
            IPv6Address(host)
        except ValueError:
            return False
        return True
    return re.fullmatch(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?", host) is not None


def host(address: str) -> str:
    """Return the server that an address names."""
    return address[2:].partition("/")[0]


def inside(address: str) -> tuple[str, str]:
    """Return (share, directory in it) of an address; the directory is empty for the share itself."""
    name, _, rest = address[2:].partition("/")[2].partition("/")
    return name, "/".join(part for part in rest.split("/") if part)


ADDRESSES = AddressKind(example="//server/volumes -o username=breezeblock,secret=server", identity=_identity)

_FAILURES = {
    "2": "the server has no such share or directory",
    "13": "the server refused the user, the password or the user's rights on the share",
    "16": "the server or the mount point is busy",
    "22": "the server does not offer the log-in that sec= asks for, or this kernel lacks an option",
    "95": "the server does not offer what the options ask for (version, encryption, signing, fail-over)",
    "101": "the network to the server is unreachable",
    "110": "the server did not answer",
    "111": "no SMB server answers on that port",
    "112": "the server is down, or ended the connection",
    "113": "there is no way to the server",
    "115": "the server did not answer",
    "126": "there is no usable Kerberos ticket or key for this share",
    "127": "the password has expired and must be changed on the server",
    "128": "the account was locked or its credentials were revoked",
    "129": "the server rejected the credentials",
}


def explain(complaint: str) -> str:
    """Put what mount.cifs said into words; its numbers are those of errno(3)."""
    found = re.search(r"mount error\((\d+)\): (.*?)(?: Refer to the mount\.cifs|\.?$)", complaint)
    if found is None:
        return complaint
    known = _FAILURES.get(found[1])
    if found[1] == "111":  # its own words run together here
        return f"{known} (Connection refused)"
    return f"{known} ({found[2].strip()})" if known else found[2].strip()


def _folded(source: str) -> str:
    try:
        return _identity(source)
    except ValueError:
        return source


CIFS = Client(program="mount.cifs", packages="cifs-utils", options="", normal=_folded, explain=explain)
