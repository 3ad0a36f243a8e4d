"""The contract between Breezeblock and a storage back end.

Plain values in, plain values out. A back end never sees HTTP, the catalog or the engine: it is told
of a volume by a `Volume`, and answers with what must be remembered about it (`Placement`). What a
volume *is* there (a chain of files, a VDI on an SR, an object prefix) is its own affair; the service
keeps only the opaque `locator` and `format` it was given and hands them back on the next call.

**Every verb may be killed at any instruction and is then called again with the same arguments and a
fresh `Attempt`.** It must find out how far the last attempt came, and finish. A verb whose work is
already complete returns the same answer as the first time. The verb that undoes another is the
ordinary opposite (`delete` undoes `create`, `clone` and `create_from_snapshot`; `delete_snapshot`
undoes `snapshot`), which therefore accepts anything that a killed attempt leaves behind, and treats
what is absent as success.

Calls about one volume never overlap: the service runs one operation a volume at a time, and making a
volume from another one holds both. (The reading verbs `connection_info`, `check`, `stats` and
`inventory` may run at any time.) Verbs block; the service calls them from worker threads.

**What is made from a volume may share its storage, but never its fate**: either may be deleted,
reverted, extended or flattened first, as may the snapshot between them, and calls about the two may
overlap. Who shares with whom is the back end's affair, and is kept beside the volumes; the service is told
in `Placement`. No verb may cost more on a storage with many volumes than on one with few, given
`Volume.depth`; the exceptions are `inventory`, `sweep`, and mending what is damaged.

Required: `start stop stats capabilities create delete connection_info disconnect check inventory
sweep`. Everything else is optional and declared in `Capabilities`; calling a verb that is not
declared raises `UnsupportedError`. `backends.copying` supplies correct slow defaults above the
contract for back ends that declare `data`.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

import msgspec

from breezeblock.attempt import Attempt


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """A volume, as a back end is told of it."""

    id: str
    """RFC 4122 text, lower case."""
    virtual_bytes: int
    """What the consumer sees; a positive multiple of 512."""
    pool: str
    """One of the names that `stats` gave."""
    locator: str = ""
    """The back end's own address for it, from `Placement`; empty before the first one."""
    format: str = ""
    """What the back end called its format in `Placement`; empty where there is none. For chains of files
    it is that of the first image, which never changes; hosts learn the active one's on connecting."""
    options: Mapping[str, str] = {}
    """What the volume type asks for; keys and values are among `Capabilities.options`."""
    depth: int = 0
    """`Placement.depth`, 1 for a volume that is being made. 0 = not known: the back end then finds out,
    which may take a look at everything there is."""
    snapshots: tuple[str, ...] = ()
    """The ids of the volume's snapshots, also of those that failed; told to `delete`."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A point in time of one volume."""

    id: str
    volume_id: str
    virtual_bytes: int
    """The volume's virtual bytes when the snapshot was taken."""
    locator: str = ""


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """What the service must remember to find a volume again."""

    locator: str
    format: str = ""
    depth: int = 1
    """How many images, one on the other, are looked through to read the volume."""
    hidden_layers: int = 0
    """How many of them belong to no snapshot, and are there because volumes made from this one rest, or
    rested, on what is below. `shorten` takes away those that nobody needs any more."""
    reclaimable_bytes: int = 0
    """What the hidden layers take on storage: the most that `shorten` could give back."""
    parent: str = ""
    """The id of the volume (which may be gone) whose storage this one shares."""


class Snapped(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of `snapshot`: taking one may move or convert the volume's active image."""

    volume: Placement
    locator: str = ""


class Ancestor(msgspec.Struct, frozen=True, kw_only=True):
    """A volume whose storage another one shares."""

    id: str
    gone: bool
    """It was deleted; what is left of it is there for those that share it."""


class Adopted(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of `adopt`: what the service must remember of a volume that was there before."""

    volume: Placement
    virtual_bytes: int
    snapshots: tuple[Snapshot, ...] = ()
    """The oldest first."""
    ancestors: tuple[Ancestor, ...] = ()
    """`volume.parent`, what that one shares storage with, and so on."""
    edits: tuple[str, ...] = ()
    """From `examine`: what `adopt` would change on storage, a sentence each."""


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """How a host reaches a volume: the `connection_info` of the Block Storage API.

    `data` is shown to API users with the attachment, so it holds a secret only where the back end is
    configured to need one there.
    """

    driver_volume_type: str
    data: dict[str, Any]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something `check` found: what is wrong, and what would mend it."""

    subject: str
    problem: str
    remedy: str
    severity: Literal["warning", "error"] = "error"


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a back end can do beyond the required verbs."""

    storage_protocol: str
    """As Cinder's: `nfs`, `file`, `smbfs`, `xenserver`, `nbd` …"""
    thin: bool = True
    extend: bool = False
    snapshots: bool = False
    """`snapshot` and `delete_snapshot` of any snapshot, in any order."""
    online_snapshots: bool = False
    """`snapshot` and `delete_snapshot` while hosts use the volume. What a host has not sent off by then may
    be missing, as after a power cut."""
    revert: Literal["none", "latest", "any"] = "none"
    clone: bool = False
    create_from_snapshot: bool = False
    adopt: bool = False
    """`examine`, `adopt` and `release`."""
    repair: bool = False
    """`mends`, `mend` and `quarantine`."""
    images: bool = False
    """`import_image` and `export_image`."""
    linked_clones: bool = False
    """`clone` and `create_from_snapshot` can share instead of copying: the option `clone` is `linked` or
    `full`. Then `flatten` and `shorten` are there too."""
    data: bool = False
    """`open_data` works, so that `backends.copying` can stand in for missing verbs."""
    read_only: bool = False
    """Volumes are adopted, and never made, written, extended or removed from storage; hosts read them."""
    max_virtual_bytes: int | None = None
    options: Mapping[str, tuple[str, ...]] = {}
    """Per option name the values a volume type may ask for."""
    only_by_type: bool = False
    """The operator's policy, not the back end's: volumes come here only where their type asks for it."""
    facts: Mapping[str, str] = {}
    """What else a volume type's extra specs are compared with, and `get_pools` shows."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A way to a pool's storage, as the service and the volumes that its host uses go it."""

    url: str
    state: str
    trouble: str
    """Its last failure."""
    connections: int
    requests: int
    """On their way now."""
    asked: int
    """Requests; they and what follows are counted since their users began."""
    failed: int
    bytes_read: int
    bytes_written: int
    read_ms: float
    """What a read takes, lately."""
    write_ms: float


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """How the ways to a pool are, and what will trouble it later: of storage that merges chains by itself."""

    deepest_chain: int | None = None
    """The most images that any volume of it is read through; None where nobody looked."""
    unmerged_images: int = 0
    """How many images wait to be merged by the storage itself."""
    unmerged_bytes: int = 0
    """At most so much is free when they are."""
    full_in_s: float | None = None
    """When it is full if it goes on filling as it did; None where that cannot be said."""
    chain_full_in_s: float | None = None
    """When its deepest chain is as deep as the storage allows if it goes on growing as it did."""
    endpoints: tuple[Endpoint, ...] = ()
    """Where a pool has several, or may have."""


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """A place where volumes can be put, and how it is right now."""

    name: str
    total_bytes: int | None
    """None where the storage does not tell."""
    free_bytes: int | None
    up: bool = True
    reason: str = ""
    """Why it is not up."""
    capabilities: Capabilities | None = None
    """What this pool can do, where that differs from its back end's other pools."""
    health: Health = Health()
    findings: tuple[Finding, ...] = ()
    """What its operator should know, for the doctor."""


class Mend(msgspec.Struct, frozen=True, kw_only=True):
    """Something that `mend` can make right without losing anything."""

    name: str
    text: str
    """What it does, beginning with a verb."""
    kind: str


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """Something that `inventory` saw on storage."""

    pool: str
    name: str
    volume_id: str | None
    """The volume it belongs to by its name, or None for a stranger's."""
    kind: Literal["volume", "snapshot", "layer", "kept", "metadata", "temporary", "foreign", "offered"]
    """`layer`: in use, but of no snapshot. `kept`: of a deleted volume, for volumes that share it.
    `offered`: a stranger's, who put it there to be adopted."""
    snapshot_id: str | None = None
    allocated_bytes: int = 0


class Data(Protocol):
    """A volume's or snapshot's bytes, shaped as ovirt-imageio and nbdkit have it."""

    virtual_bytes: int

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes."""

    def write(self, offset: int, data: bytes) -> None:
        """Write all of `data`; durable after `flush`."""

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeros, freeing it where the storage can."""

    def flush(self) -> None:
        """Return when everything written is durable."""

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """Yield (offset, length, is data) in order, covering the range; not data = reads as zeros."""


class Backend(Protocol):
    """Storage that volumes live on. The module's docstring holds the rules for all verbs."""

    name: str
    """The name of its section in the configuration."""

    def start(self) -> None:
        """Get ready (mount, log in). Unreachable storage is no error: its pools are then not `up`."""

    def stop(self) -> None:
        """Let go of what `start` took. Nothing that consumers use is taken away."""

    def capabilities(self) -> Capabilities:
        """Say what it can do. Constant while the process lives."""

    def stats(self) -> list[Pool]:
        """Describe every pool, each a real look at the storage."""

    def create(self, volume: Volume, attempt: Attempt) -> Placement:
        """Make an empty volume that reads as zeros. Raises NoSpaceError, InvalidInputError."""

    def delete(self, volume: Volume, attempt: Attempt) -> None:
        """Remove the volume with everything of it, including leftovers of killed attempts."""

    def extend(self, volume: Volume, virtual_bytes: int, attempt: Attempt) -> Placement:
        """Grow it to at least `virtual_bytes`; new bytes read as zeros; never shrinks."""

    def snapshot(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Snapped:
        """Fix the volume's content of now under `snapshot.id`."""

    def delete_snapshot(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Placement:
        """Forget a snapshot; the volume and every other snapshot keep their content."""

    def revert(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Placement:
        """Give the volume the snapshot's content, keeping its virtual bytes; snapshots stay.

        With `Capabilities.revert == "latest"` only the newest snapshot is accepted.
        """

    def clone(self, source: Volume, volume: Volume, attempt: Attempt) -> Placement:
        """Make `volume` with the content of `source`, zeros beyond; neither minds the other afterwards."""

    def create_from_snapshot(
        self, source: Volume, snapshot: Snapshot, volume: Volume, attempt: Attempt
    ) -> Placement:
        """Make `volume` with the content of `snapshot` (of `source`), zeros beyond."""

    def import_image(self, volume: Volume, path: str, image_format: str, attempt: Attempt) -> Placement:
        """Make `volume` with the content of the image file at `path` of this machine, zeros beyond.

        The image comes from anywhere: it is checked before a tool sees it, and always converted.
        """

    def export_image(
        self, volume: Volume, snapshot: Snapshot | None, path: str, image_format: str, attempt: Attempt
    ) -> None:
        """Write the volume or a snapshot of it as one image file to `path` of this machine."""

    def examine(self, volume: Volume, reference: str) -> Adopted:
        """Say what `adopt` with the same arguments would do; changes nothing, raises what it would raise."""

    def adopt(self, volume: Volume, reference: str, attempt: Attempt) -> Adopted:
        """Make what is called `reference` (a name of `inventory`) the volume, copying no data.

        `volume.virtual_bytes` may be 0: as many as there are. `volume.format` decides where storage leaves
        a doubt. Something that bears the volume's own name comes with its snapshots; their ids stay.
        Raises NotFoundError, ConflictError (in use, or in doubt), InvalidInputError, CorruptError.
        """

    def release(self, volume: Volume, attempt: Attempt) -> str:
        """Leave the volume to somebody else, whole and with nothing pending; return its reference."""

    def flatten(self, volume: Volume, attempt: Attempt) -> Placement:
        """Give the volume its own copy of what it shares with the one it was made from.

        Raises ConflictError while volumes made from this one share its storage.
        """

    def shorten(self, volume: Volume, attempt: Attempt) -> Placement:
        """Merge the hidden layers that nobody needs; at most `Attempt.io_bytes_per_s`. Stops on request."""

    def open_data(
        self, volume: Volume, snapshot: Snapshot | None = None, *, writable: bool = False
    ) -> AbstractContextManager[Data]:
        """Open the bytes of a volume or (never writable) of a snapshot of it."""

    def connection_info(self, volume: Volume, connector: Mapping[str, Any]) -> Connection:
        """Say how the host that `connector` describes reaches the volume."""

    def disconnect(self, volume: Volume, connector: Mapping[str, Any]) -> None:
        """Withdraw what `connection_info` granted to that host; nothing granted = success."""

    def check(self, volume: Volume, snapshots: tuple[Snapshot, ...]) -> list[Finding]:
        """Compare the volume on storage with what the catalog believes; changes nothing."""

    def mends(self, volume: Volume, snapshots: tuple[Snapshot, ...]) -> list[Mend]:
        """Say what of the volume could safely be made right by what the catalog says; changes nothing."""

    def mend(self, volume: Volume, snapshots: tuple[Snapshot, ...], mend: Mend, attempt: Attempt) -> None:
        """Do one of `mends`; nothing if it is no longer one. Nobody may use the volume meanwhile."""

    def quarantine(self, found: Found) -> str:
        """Move something of nobody's aside, never remove it; return where it is now."""

    def inventory(self) -> Iterator[Found]:
        """Yield everything in every reachable pool; changes nothing."""

    def sweep(self, live_operations: frozenset[str]) -> list[str]:
        """Remove temporary work of operations that are not in `live_operations`; return the names."""
