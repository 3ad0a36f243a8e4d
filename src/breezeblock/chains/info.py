"""The `.info` file, exactly as Cinder's NFS driver writes it, and the intent journal beside it.

`.info` is a JSON object: "active" names the image in use, and each snapshot's id names the overlay that
was created when that snapshot was taken. A snapshot's data is therefore in the backing file of the
overlay that it names. No file means no snapshots were ever taken. Unlike Cinder's it is replaced
atomically, and has two keys more: "parent" names the image of another volume that this one was cloned
from and rests on; "deleted" says that the volume is gone, and names the topmost of its images that are
kept for the clones that rest on them.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from breezeblock.attempt import Attempt
from breezeblock.chains.naming import Naming, is_id
from breezeblock.errors import CorruptError
from breezeblock.shares import files

MAX_BYTES = 1 << 20
DOCTOR = "`breezeblock doctor` lists the volume's images and the .info that fits them; then restore that."
_T = TypeVar("_T")


class Info(msgspec.Struct, frozen=True):
    """The content of `.info`, checked."""

    active: str
    snapshots: Mapping[str, str]
    """Overlay name per snapshot id."""
    parent: str | None = None
    """The image of another volume that the volume's first image rests on."""
    deleted: str | None = None
    """The topmost image that is kept for clones; the volume itself is gone."""


class Intent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An edit that was begun: the overlay `top` is being merged into `base`."""

    verb: str = "delete_snapshot"
    """Or "shorten": the overlay belongs to no snapshot."""
    snapshot: str = ""
    top: str
    base: str


def read_info(directory: Path, naming: Naming, volume_id: str) -> Info | None:
    """Return the volume's `.info`, None if it has none; CorruptError if it is not what we would write."""
    path = directory / naming.info(volume_id)
    content = files.read_small(path, MAX_BYTES)
    if content is None:
        return None
    table = _decode(path, lambda: msgspec.json.decode(content, type=dict[str, str]))
    active = table.pop("active", None)
    if active is None:
        raise _bad(path, "it names no active image")
    parent, deleted = table.pop("parent", None), table.pop("deleted", None)
    if deleted is not None and not naming.is_image(volume_id, deleted):
        raise _bad(path, f"it keeps {deleted[:80]!a}, which is no image of this volume")
    if parent is not None and (naming.owner(parent) or volume_id) == volume_id:
        raise _bad(path, f"its parent {parent[:80]!a} is no image of another volume")
    for key, name in {"active": active, **table}.items():
        if not naming.is_image(volume_id, name):
            raise _bad(path, f"{key[:80]!a} names {name[:80]!a}, which is no image of this volume")
    for key, name in table.items():
        if not is_id(key):
            raise _bad(path, f"{key[:80]!a} is no snapshot id")
        if name == naming.volume(volume_id):
            raise _bad(path, f"snapshot {key} names the volume's first image, which is no overlay")
    if len(set(table.values())) != len(table):
        raise _bad(path, "two snapshots name the same overlay")
    return Info(active, table, parent, deleted)


def write_info(directory: Path, naming: Naming, volume_id: str, info: Info, attempt: Attempt) -> None:
    """Replace the volume's `.info`."""
    table = {"active": info.active, **info.snapshots}
    if info.parent is not None:
        table["parent"] = info.parent
    if info.deleted is not None:
        table["deleted"] = info.deleted
    content = json.dumps(table, indent=1, sort_keys=True)
    path = directory / naming.info(volume_id)
    files.replace(path, content.encode(), directory / attempt.temp_name, naming.mode)


def read_intent(directory: Path, naming: Naming, volume_id: str) -> Intent | None:
    """Return the edit that was begun and not finished."""
    path = directory / naming.intent(volume_id)
    content = files.read_small(path, MAX_BYTES)
    if content is None:
        return None
    intent = _decode(path, lambda: msgspec.json.decode(content, type=Intent))
    if (
        intent.verb not in {"delete_snapshot", "shorten"}
        or is_id(intent.snapshot) != (intent.verb == "delete_snapshot")
        or not all(naming.is_image(volume_id, name) for name in (intent.top, intent.base))
        or intent.top in {intent.base, naming.volume(volume_id)}
    ):
        raise _bad(path, "it does not describe a merge within this volume")
    return intent


def write_intent(directory: Path, naming: Naming, volume_id: str, intent: Intent, attempt: Attempt) -> None:
    """Record an edit before its first step."""
    path = directory / naming.intent(volume_id)
    files.replace(path, msgspec.json.encode(intent), directory / attempt.temp_name, naming.mode)


def _decode(path: Path, decode: Callable[[], _T]) -> _T:
    try:
        return decode()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _bad(path, f"it is not the JSON it must be: {str(error)[:200]}") from error


def _bad(path: Path, problem: str) -> CorruptError:
    return CorruptError(f"{path}: {problem}.", remedy=DOCTOR)
