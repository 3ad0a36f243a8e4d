"""`breezeblock share check`: tries on the operator's own storage what Breezeblock relies on.

A share is mounted twice, privately, beside any mount that is in use; everything happens in one directory
that is removed again.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from breezeblock.backends import registry, smb
from breezeblock.backends.local import LocalConfig
from breezeblock.backends.nfs import NfsConfig, nfs_shares
from breezeblock.config import split_policy
from breezeblock.errors import BreezeblockError, ConfigError
from breezeblock.shares import mounts, ping, sharelist, trial
from breezeblock.shares.sharelist import Share
from breezeblock.shares.smb import SmbShare
from breezeblock.shares.trial import Trial, Verdict
from breezeblock.shares.views import Views

_SOFT = "An I/O error after a time-out: nobody knows then what was written."
_NOLOCK = "Nothing keeps two hosts from writing one volume."
_OWN_LOCKS = {"nolock", "local_lock=all", "nobrl"}
"""Mount options with which locks are this machine's own affair."""
_CIFS_ABSENT_S = 1.0
"""How long Linux's client remembers that a name is not there (fs/smb/client/dir.c, cifs_d_revalidate)."""


class Checked(msgspec.Struct, frozen=True):
    """One place and what the trials found there."""

    place: str
    verdicts: list[Verdict]

    @property
    def broken(self) -> bool:
        """Whether something that is needed does not hold."""
        return any(verdict.outcome == "broken" for verdict in self.verdicts)


@dataclass(frozen=True, slots=True)
class Subject:
    """A share, and how two clients of its server can be had on this one machine."""

    address: str
    ask: Callable[[], None]
    """Ask the server whether it is there, without a mount."""
    asked: str
    """What that is called."""
    mount: Callable[[Path, str], mounts.Mounted]
    """(directory of mount points, options that win) to what mounts it."""
    first: str
    """Options for the first mount."""
    second: Callable[[str], str | None]
    """From the options in force at the first mount to those of the second; None if there can be none."""


def check(
    target: str, sections: Mapping[str, Mapping[str, Any]], state_dir: Path, options: str = ""
) -> Iterator[Checked]:
    """Try a directory (`/...`), a share (`HOST:/...`, `//...`), or every pool of a back end in `sections`.

    `state_dir` is where secrets are kept. Raises ConfigError for anything else.
    """
    line = f"{target} -o {options}" if options else target
    if target.startswith("//"):
        if any(word.lower().startswith("pass") for word in options.split(",")):
            raise ConfigError(
                "A password among the arguments can be seen by everybody on this machine.",
                remedy="Keep it by `breezeblock secret set NAME` and say secret=NAME, or credentials=/FILE.",
            )
        config = smb.SmbConfig(shares=[line])
        for one in smb.smb_shares("share", config).values():
            yield _smb(one, config, state_dir)
    elif target.startswith("/"):
        yield _directory(Path(target))
    elif ":/" in target:
        (share,) = sharelist.inline([line], "share", sharelist.NFS)
        yield _share(_nfs(share, ""))
    else:
        yield from _backend(target, sections, state_dir)


def _backend(name: str, sections: Mapping[str, Mapping[str, Any]], state_dir: Path) -> Iterator[Checked]:
    if name not in sections:
        raise ConfigError(
            f"There is no back end {name!r}, and it is neither a directory nor a share.",
            remedy="Give a path, HOST:/EXPORT, //SERVER/SHARE, or one of: "
            f"{', '.join(sections) or 'none are configured'}.",
        )
    _policy, own = split_policy(sections[name], f"[backends.{name}]")
    config = registry.read_config(own, f"[backends.{name}]")
    if isinstance(config, NfsConfig):
        for share in nfs_shares(name, config):
            yield _share(_nfs(share, config.mount_options))
    elif isinstance(config, smb.SmbConfig):
        for one in smb.smb_shares(name, config).values():
            yield _smb(one, config, state_dir)
    elif isinstance(config, LocalConfig):
        for path in [config.path] if config.path else config.pools.values():
            yield _directory(Path(path))
    else:
        raise ConfigError(f"Back end {name} has no directories to check.")


def _nfs(share: Share, options: str) -> Subject:
    def mount(base: Path, more: str) -> mounts.Mounted:
        wanted = Share(share.address, mounts.merged(share.options, more))
        return mounts.Mounted(wanted, base, mounts.merged(mounts.DEFAULT_OPTIONS, options), attempts=1)

    def other_version(how: str) -> str | None:
        """Name another minor version, which makes another client of us: the client's name holds it.

        To an NFS 4 server two mounts of one host are one client otherwise: what it delegates to the one,
        the other may change without its hearing of it. NFS 3 delegates nothing.
        """
        found = next((one[5:] for one in how.split(",") if one.startswith("vers=")), "")
        return {"4.2": "vers=4.1", "4.1": "vers=4.2", "4.0": "vers=4.1", "3": "vers=3"}.get(found)

    asked = partial(ping.nfs, share, mounts.merged(options, share.options))
    return Subject(share.address, asked, "NFS NULL over TCP", mount, "", other_version)


def _smb(one: SmbShare, config: smb.SmbConfig, state_dir: Path) -> Checked:
    if (directory := smb.local_directory(one, config)) is not None:
        return _directory(directory)
    once = msgspec.structs.replace(config, mount_attempts=1)
    return _share(
        Subject(
            one.share.address,
            partial(ping.smb, one.share, smb.in_force(one, config)),
            "SMB NEGOTIATE",
            lambda base, more: smb.mounted(one, once, state_dir, base, more),
            # Who has a connection of his own is a client of his own, whose leases the other's work breaks.
            "nosharesock",
            lambda _how: "nosharesock",
        )
    )


def _share(share: Subject) -> Checked:
    verdicts = []
    try:
        share.ask()
        verdicts.append(Verdict("server answers", "good", f"{share.asked}, outside any mount"))
    except BreezeblockError as error:
        cost = "While it is down, its return is noticed later."
        verdicts.append(Verdict("server answers", "lacking", error.message, cost))
    with ExitStack() as stack:
        try:
            here = stack.enter_context(_mounted(share, share.first))
        except BreezeblockError as error:
            verdicts.append(Verdict("mounting", "broken", str(error), "The pool is down."))
            return Checked(share.address, verdicts)
        how = _options_at(here)
        there = _other_way(stack, share, how)
        verdicts.append(Verdict("mounting", "good", how))
        verdicts += _judge_options(how)
        verdicts += _try_all(here, there or here, how, apart=there is not None)
    return Checked(share.address, verdicts)


def _other_way(stack: ExitStack, share: Subject, how: str) -> Path | None:
    """Mount the share as another client would, if that can be had."""
    options = share.second(how)
    if options is None:
        return None
    try:
        return stack.enter_context(_mounted(share, options))
    except BreezeblockError:
        return None


@contextmanager
def _mounted(share: Subject, options: str) -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="breezeblock-check-"))
    mounted = share.mount(base, options)
    try:
        yield mounted.path()
    finally:
        mounted.let_go()
        if mounts.source_at(mounted.point) is None:
            shutil.rmtree(base, ignore_errors=True)


def _directory(path: Path) -> Checked:
    if not path.is_dir():
        raise ConfigError(f"{path} is no directory.", remedy="Name an existing one.")
    how = _options_at(path)
    return Checked(str(path), [*_judge_options(how), *_try_all(path, path, how, apart=False)])


def _try_all(here: Path, there: Path, how: str, *, apart: bool) -> list[Verdict]:
    """Run the trials on a mount whose type and options are `how`."""
    absent_s = _CIFS_ABSENT_S if how.startswith("cifs ") else 0.0
    options = set(how.partition(" ")[2].split(","))
    name = f".breezeblock-check-{secrets.token_hex(6)}"
    prepare = Trial("writing", lambda views: _made(views.here), "The pool cannot be used.")
    first = trial.judge(prepare, Views(here / name, there / name, apart))
    if first.outcome != "good":
        return [first]
    verdicts = [first]
    for number, one in enumerate(trial.TRIALS):
        views = Views(here / name / str(number), there / name / str(number), apart, absent_s)
        if one.locks and _OWN_LOCKS & options:
            views = Views(views.here, views.here, apart=False)  # what they are to do, they do on this machine
        views.here.mkdir()
        verdicts.append(trial.judge(one, views))
        if verdicts[-1].seen.startswith("no answer"):
            return verdicts  # nothing more will answer either
    shutil.rmtree(here / name, ignore_errors=True)
    return verdicts


def _made(directory: Path) -> str:
    directory.mkdir(0o770)
    room = os.statvfs(directory)
    return f"{room.f_bavail * room.f_frsize} of {room.f_blocks * room.f_frsize} bytes free"


def _options_at(path: Path) -> str:
    """Return type and options of the mount that a path is on, as the kernel tells them."""
    best, found = "", ""
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines():
        _source, point, kind, options, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if (str(path) == point or f"{path}/".startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, found = point, f"{kind} {options}"
    return found


def _judge_options(how: str) -> Iterator[Verdict]:
    kind, _, options = how.partition(" ")
    if not kind.startswith("nfs") and kind != "cifs":
        return
    given = set(options.split(","))
    hard = "hard" in given
    yield Verdict(
        "mounted hard", "good" if hard else "broken", "hard" if hard else "soft", "" if hard else _SOFT
    )
    locked = not _OWN_LOCKS & given
    seen = "locks are the server's" if locked else "locks stay on this host"
    yield Verdict("locks at the server", "good" if locked else "lacking", seen, "" if locked else _NOLOCK)
