"""`breezeblock share check`: tries on the operator's own storage what Breezeblock relies on.

A share is mounted twice, privately, beside any mount that is in use; everything happens in one directory
that is removed again.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from breezeblock.backends import registry
from breezeblock.backends.local import LocalConfig
from breezeblock.backends.nfs import NfsConfig, nfs_shares
from breezeblock.config import split_policy
from breezeblock.errors import BreezeblockError, ConfigError
from breezeblock.shares import mounts, ping, sharelist, trial
from breezeblock.shares.sharelist import Share
from breezeblock.shares.trial import Trial, Verdict, Views

_SOFT = "An I/O error after a time-out: nobody knows then what was written."
_NOLOCK = "Nothing keeps two hosts from writing one volume."


class Checked(msgspec.Struct, frozen=True):
    """One place and what the trials found there."""

    place: str
    verdicts: list[Verdict]

    @property
    def broken(self) -> bool:
        """Whether something that is needed does not hold."""
        return any(verdict.outcome == "broken" for verdict in self.verdicts)


def check(target: str, sections: Mapping[str, Mapping[str, Any]], options: str = "") -> Iterator[Checked]:
    """Try a directory (`/...`), an NFS share (`HOST:/...`), or every pool of a back end in `sections`.

    Raises ConfigError for anything else.
    """
    if target.startswith("/"):
        yield _directory(Path(target))
    elif ":/" in target:
        (share,) = sharelist.inline([f"{target} -o {options}" if options else target], "share", sharelist.NFS)
        yield _share(share, "")
    else:
        yield from _backend(target, sections)


def _backend(name: str, sections: Mapping[str, Mapping[str, Any]]) -> Iterator[Checked]:
    if name not in sections:
        raise ConfigError(
            f"There is no back end {name!r}, and it is neither a directory nor a share.",
            remedy=f"Give a path, HOST:/EXPORT, or one of: {', '.join(sections) or 'none are configured'}.",
        )
    _policy, own = split_policy(sections[name], f"[backends.{name}]")
    config = registry.read_config(own, f"[backends.{name}]")
    if isinstance(config, NfsConfig):
        for share in nfs_shares(name, config):
            yield _share(share, config.mount_options)
    elif isinstance(config, LocalConfig):
        for path in [config.path] if config.path else config.pools.values():
            yield _directory(Path(path))
    else:
        raise ConfigError(f"Back end {name} has no directories to check.")


def _share(share: Share, options: str) -> Checked:
    verdicts = []
    try:
        ping.nfs(share, mounts.merged(options, share.options))
        verdicts.append(Verdict("server answers", "good", "NFS NULL over TCP, outside any mount"))
    except BreezeblockError as error:
        cost = "While it is down, its return is noticed later."
        verdicts.append(Verdict("server answers", "lacking", error.message, cost))
    with ExitStack() as stack:
        try:
            here = stack.enter_context(_mounted(share, options))
        except BreezeblockError as error:
            verdicts.append(Verdict("mounting", "broken", str(error), "The pool is down."))
            return Checked(share.address, verdicts)
        there = _other_way(stack, share, options, here)
        how = _options_at(here)
        verdicts.append(Verdict("mounting", "good", how))
        verdicts += _judge_options(how)
        verdicts += _try_all(here, there or here, apart=there is not None)
    return Checked(share.address, verdicts)


def _other_way(stack: ExitStack, share: Share, options: str, here: Path) -> Path | None:
    """Mount the share as another client would, if that can be had.

    To an NFS 4 server two mounts of one host are one client: what it delegates to the one, the other may
    change without its hearing of it. Another minor version makes another client of us (the client's name
    holds it). NFS 3 delegates nothing.
    """
    found = next((one[5:] for one in _options_at(here).split(",") if one.startswith("vers=")), "")
    other = {"4.2": "vers=4.1", "4.1": "vers=4.2", "4.0": "vers=4.1", "3": "vers=3"}.get(found)
    if other is None:
        return None
    try:
        wanted = Share(share.address, mounts.merged(share.options, other))
        return stack.enter_context(_mounted(wanted, options))
    except BreezeblockError:
        return None


@contextmanager
def _mounted(share: Share, options: str) -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="breezeblock-check-"))
    mounted = mounts.Mounted(share, base, mounts.merged(mounts.DEFAULT_OPTIONS, options), attempts=1)
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
    return Checked(str(path), [*_judge_options(how), *_try_all(path, path, apart=False)])


def _try_all(here: Path, there: Path, *, apart: bool) -> list[Verdict]:
    name = f".breezeblock-check-{secrets.token_hex(6)}"
    prepare = Trial("writing", lambda views: _made(views.here), "The pool cannot be used.")
    first = trial.judge(prepare, Views(here / name, there / name, apart))
    if first.outcome != "good":
        return [first]
    verdicts = [first]
    for number, one in enumerate(trial.TRIALS):
        views = Views(here / name / str(number), there / name / str(number), apart)
        (views.here).mkdir()
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
    if not kind.startswith("nfs"):
        return
    given = options.split(",")
    hard = "hard" in given
    yield Verdict(
        "mounted hard", "good" if hard else "broken", "hard" if hard else "soft", "" if hard else _SOFT
    )
    locked = not {"nolock", "local_lock=all"} & set(given)
    seen = "locks are the server's" if locked else "locks stay on this host"
    yield Verdict("locks at the server", "good" if locked else "lacking", seen, "" if locked else _NOLOCK)
