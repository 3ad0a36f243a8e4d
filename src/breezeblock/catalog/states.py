"""Which states a volume, snapshot and attachment can be in, and what may lead from one to another.

The one table of them: services compare-and-set by it, `docs/states.md` and the tests are made from it.
"""

from typing import Literal

import msgspec

Resource = Literal["volume", "snapshot", "attachment", "operation"]


class Transition(msgspec.Struct, frozen=True):
    """A verb that moves a resource from one of `sources`, while it works, to `during`, and at its end.

    `during` empty: the verb leaves the status alone while it works. `failed` empty: a failure before
    anything was published puts the previous status back.
    """

    resource: Resource
    verb: str
    sources: tuple[str, ...]
    during: str
    done: str
    """Empty: the row is gone."""
    failed: str = ""
    note: str = ""


TRANSITIONS: tuple[Transition, ...] = (
    Transition("volume", "create", (), "creating", "available", "error"),
    Transition("volume", "clone", (), "creating", "available", "error", "of an available volume"),
    Transition(
        "volume", "create_from_snapshot", (), "creating", "available", "error", "of an available snapshot"
    ),
    Transition(
        "volume",
        "delete",
        ("available", "error", "error_deleting", "error_extending"),
        "deleting",
        "",
        "error_deleting",
        "no snapshots unless cascade, no attachments",
    ),
    Transition("volume", "extend", ("available",), "extending", "available", "error_extending"),
    Transition("volume", "revert", ("available",), "reverting", "available", "error"),
    Transition(
        "volume", "manage", (), "managing", "available", "error_managing", "a failure removes the row"
    ),
    Transition(
        "volume",
        "unmanage",
        ("available", "error", "error_managing", "error_unmanaging"),
        "unmanaging",
        "",
        "error_unmanaging",
        "no snapshots, no attachments; the data stays",
    ),
    Transition("volume", "import", (), "downloading", "available", "error", "from an image"),
    Transition(
        "volume", "keep_image", (), "downloading", "cached", "error", "of nobody's, to make others from"
    ),
    Transition(
        "volume",
        "evict",
        ("cached", "error", "error_deleting"),
        "deleting",
        "",
        "error_deleting",
        "of an image",
    ),
    Transition(
        "volume", "export", ("available",), "uploading", "available", note="a failure changes nothing"
    ),
    Transition("volume", "flatten", ("available",), "", "available", note="no clones rest on it"),
    Transition("volume", "shorten", ("available",), "", "available"),
    Transition("volume", "reserve", ("available",), "", "reserved", note="an attachment without a connector"),
    Transition("volume", "begin_attaching", ("available",), "", "attaching", note="the old `os-reserve`"),
    Transition("volume", "attach", ("available", "reserved"), "attaching", "in-use", "error_attaching"),
    Transition("volume", "begin_detaching", ("in-use",), "", "detaching"),
    Transition("volume", "roll_detaching", ("detaching",), "", "in-use"),
    Transition("volume", "detach", ("in-use", "attaching", "reserved", "detaching"), "", "available"),
    Transition("snapshot", "create", (), "creating", "available", "error", "of an available volume"),
    Transition(
        "snapshot", "delete", ("available", "error", "error_deleting"), "deleting", "", "error_deleting"
    ),
    Transition("snapshot", "manage", (), "managing", "available", "error", "a failure removes the row"),
    Transition("snapshot", "revert", ("available",), "restoring", "available"),
    Transition("attachment", "connect", ("reserved",), "attaching", "attaching", "error_attaching"),
    Transition("attachment", "complete", ("attaching",), "", "attached"),
    Transition("attachment", "delete", ("reserved", "attaching", "attached", "error_attaching"), "", ""),
    Transition("operation", "claim", ("queued",), "", "running"),
    Transition("operation", "finish", ("running",), "", "done", "error"),
    Transition("operation", "cancel", ("queued", "running"), "", "cancelled"),
)

_BY_VERB = {(t.resource, t.verb): t for t in TRANSITIONS}

ADMIN_VOLUME_STATES = (
    "attaching",
    "available",
    "awaiting-transfer",
    "backing-up",
    "creating",
    "deleting",
    "detaching",
    "downloading",
    "error",
    "error_attaching",
    "error_deleting",
    "error_extending",
    "extending",
    "in-use",
    "maintenance",
    "reserved",
    "retyping",
    "reverting",
    "uploading",
)
"""What `os-reset_status` accepts for a volume."""

ADMIN_SNAPSHOT_STATES = ("available", "creating", "deleting", "error", "error_deleting", "restoring")
"""What `os-reset_status` accepts for a snapshot."""


def transition(resource: Resource, verb: str) -> Transition:
    """Return the table's row for a verb on a resource."""
    return _BY_VERB[resource, verb]


def transient(resource: Resource) -> frozenset[str]:
    """Return the states that a live operation must own: everything that ends in *ing by our verbs."""
    return frozenset(
        t.during for t in TRANSITIONS if t.resource == resource and t.during and t.during != t.done
    )
