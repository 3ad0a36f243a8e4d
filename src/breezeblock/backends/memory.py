"""The reference back end: small enough to be read as the contract's second statement.

Volumes live on tmpfs (or under `path`): they survive the process, not the machine, so nothing is
fsynced. One directory a volume:

    <root>/<volume id>/volume.json     what is published: the blob of the volume and of each snapshot
    <root>/<volume id>/<blob>          sparse file, named `<operation>.<token>` after who made it

Replacing `volume.json` is the only publication. Blobs that it does not name are leftovers, and as
calls about one volume never overlap, every changing verb may remove them at its end.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import msgspec

from breezeblock.attempt import Attempt
from breezeblock.backends.contract import (
    Capabilities,
    Connection,
    Data,
    Finding,
    Found,
    Placement,
    Pool,
    Snapped,
    Snapshot,
    Volume,
)
from breezeblock.backends.copying import copy_data
from breezeblock.backends.sparse import FileData
from breezeblock.backends.unable import Unable
from breezeblock.errors import (
    CancelledOperationError,
    ConflictError,
    InvalidInputError,
    NoSpaceError,
    NotFoundError,
    UnsupportedError,
)

Optional = Literal["extend", "snapshots", "clone", "create_from_snapshot", "data"]
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_STATE = "volume.json"


class MemoryConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="memory"
):
    """Settings of a memory back end."""

    path: str = ""
    """Directory of the volumes, best on tmpfs; empty: a private one that goes when the back end stops."""
    total_bytes: int = 1 << 30
    """What the pool claims to hold; no volume may be larger."""
    lacks: tuple[Optional, ...] = ()
    """Verbs to hide, so that what stands in for them can be tried."""
    revert: Literal["none", "latest", "any"] = "any"


class _Blob(msgspec.Struct, frozen=True):
    file: str
    bytes: int


class _State(msgspec.Struct, frozen=True):
    active: _Blob
    snapshots: dict[str, _Blob] = {}
    """Oldest first."""

    def files(self) -> set[str]:
        return {self.active.file, *(blob.file for blob in self.snapshots.values())}


class MemoryBackend(Unable):
    """Volumes as sparse files on tmpfs, every verb native."""

    def __init__(self, name: str, config: MemoryConfig) -> None:
        self.name = name
        self._config = config
        self._root = Path(config.path) if config.path else Path()

    def start(self) -> None:
        """Make the directory."""
        if self._config.path:
            self._root.mkdir(parents=True, exist_ok=True)
        elif self._root == Path():
            tmpfs = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - mkdtemp is safe there
            self._root = Path(tempfile.mkdtemp(prefix="breezeblock-", dir=tmpfs))

    def stop(self) -> None:
        """Forget a private directory."""
        if not self._config.path and self._root != Path():
            shutil.rmtree(self._root, ignore_errors=True)
            self._root = Path()

    def capabilities(self) -> Capabilities:
        """Everything, less what the configuration hides."""
        lacks = self._config.lacks
        return Capabilities(
            storage_protocol="memory",
            extend="extend" not in lacks,
            snapshots="snapshots" not in lacks,
            revert="none" if "snapshots" in lacks else self._config.revert,
            clone="clone" not in lacks,
            create_from_snapshot="create_from_snapshot" not in lacks and "snapshots" not in lacks,
            data="data" not in lacks,
            max_virtual_bytes=self._config.total_bytes,
        )

    def stats(self) -> list[Pool]:
        """Describe the one pool, named as the back end."""
        total = self._config.total_bytes
        try:
            used = sum(file.stat().st_blocks * 512 for file in self._root.glob("*/*"))
        except OSError as error:
            return [Pool(name=self.name, total_bytes=total, free_bytes=None, up=False, reason=str(error))]
        return [Pool(name=self.name, total_bytes=total, free_bytes=max(0, total - used))]

    def create(self, volume: Volume, attempt: Attempt) -> Placement:
        """Make an empty volume."""
        return self._make(volume, None, attempt)

    def delete(self, volume: Volume, attempt: Attempt) -> None:
        """Unpublish, then remove the directory."""
        home = self._home(volume)
        (home / _STATE).unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            for file in list(home.iterdir()):
                file.unlink(missing_ok=True)
            home.rmdir()

    def extend(self, volume: Volume, virtual_bytes: int, attempt: Attempt) -> Placement:
        """Grow the file, then say so."""
        self._need("extend")
        self._sized(volume.id, virtual_bytes)
        home, state = self._existing(volume)
        if state.active.bytes < virtual_bytes:
            os.truncate(home / state.active.file, virtual_bytes)
            active = _Blob(state.active.file, virtual_bytes)
            self._publish(home, _State(active, state.snapshots), attempt)
        self._tidy(home)
        return _placement(volume)

    def snapshot(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Snapped:
        """Copy the volume's blob."""
        self._need("snapshots")
        home, state = self._existing(volume)
        if snapshot.id not in state.snapshots:
            blob = self._copy(home / state.active.file, home, state.active.bytes, attempt)
            self._publish(home, _State(state.active, state.snapshots | {snapshot.id: blob}), attempt)
        self._tidy(home)
        return Snapped(volume=_placement(volume), locator=snapshot.id)

    def delete_snapshot(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Placement:
        """Unpublish the snapshot, then remove its blob."""
        self._need("snapshots")
        home, state = self._existing(volume)
        if snapshot.id in state.snapshots:
            rest = {key: blob for key, blob in state.snapshots.items() if key != snapshot.id}
            self._publish(home, _State(state.active, rest), attempt)
        self._tidy(home)
        return _placement(volume)

    def revert(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Placement:
        """Publish a copy of the snapshot's blob as the volume's."""
        home, state = self._existing(volume)
        able = self.capabilities().revert
        if able == "none":
            raise UnsupportedError(f"Back end {self.name} cannot revert.")
        old = self._snapshot_blob(state, snapshot)
        if able == "latest" and snapshot.id != list(state.snapshots)[-1]:
            raise ConflictError(
                f"Snapshot {snapshot.id} is not the newest of volume {volume.id}.",
                remedy="Delete the newer snapshots first.",
            )
        blob = self._copy(home / old.file, home, state.active.bytes, attempt)
        self._publish(home, _State(blob, state.snapshots), attempt)
        self._tidy(home)
        return _placement(volume)

    def clone(self, source: Volume, volume: Volume, attempt: Attempt) -> Placement:
        """Make the volume from a copy of the source's blob."""
        self._need("clone")
        home, state = self._existing(source)
        return self._make(volume, _Blob(str(home / state.active.file), state.active.bytes), attempt)

    def create_from_snapshot(
        self, source: Volume, snapshot: Snapshot, volume: Volume, attempt: Attempt
    ) -> Placement:
        """Make the volume from a copy of the snapshot's blob."""
        self._need("snapshots")
        self._need("create_from_snapshot")
        home, state = self._existing(source)
        blob = self._snapshot_blob(state, snapshot)
        return self._make(volume, _Blob(str(home / blob.file), blob.bytes), attempt)

    def flatten(self, volume: Volume, attempt: Attempt) -> Placement:
        """Not offered: every volume is its own."""
        raise UnsupportedError(f"Back end {self.name} has no linked clones, so nothing to flatten.")

    def shorten(self, volume: Volume, attempt: Attempt) -> Placement:
        """Not offered: there are no layers."""
        raise UnsupportedError(f"Back end {self.name} has no linked clones, so nothing to shorten.")

    @contextmanager
    def open_data(
        self, volume: Volume, snapshot: Snapshot | None = None, *, writable: bool = False
    ) -> Iterator[Data]:
        """Open the blob of the volume or of the snapshot."""
        self._need("data")
        if snapshot and writable:
            raise InvalidInputError(f"Snapshot {snapshot.id} cannot be opened for writing.")
        home, state = self._existing(volume)
        blob = self._snapshot_blob(state, snapshot) if snapshot else state.active
        with (home / blob.file).open("r+b" if writable else "rb", buffering=0) as file:
            yield FileData(file.fileno(), blob.bytes)

    def connection_info(self, volume: Volume, connector: Mapping[str, Any]) -> Connection:
        """Name the file."""
        home, state = self._existing(volume)
        return Connection(driver_volume_type="local", data={"device_path": str(home / state.active.file)})

    def disconnect(self, volume: Volume, connector: Mapping[str, Any]) -> None:
        """Do nothing: nothing was granted."""

    def check(self, volume: Volume, snapshots: tuple[Snapshot, ...]) -> list[Finding]:
        """Compare `volume.json`, the blobs and what the catalog says."""
        try:
            home, state = self._existing(volume)
        except NotFoundError as error:
            return [Finding(subject=volume.id, problem=error.message, remedy="Delete the volume.")]
        expected = {
            volume.id: (state.active, volume.virtual_bytes),
            **{item.id: (state.snapshots.get(item.id), item.virtual_bytes) for item in snapshots},
        }
        found = []
        for key, (blob, size) in expected.items():
            if blob is None or not (home / blob.file).exists():
                found.append(Finding(subject=key, problem="Its data is missing.", remedy="Delete it."))
            elif not (home / blob.file).stat().st_size == blob.bytes == size:
                found.append(
                    Finding(subject=key, problem=f"It is not {size} bytes.", remedy="Extend the volume.")
                )
        unknown = state.snapshots.keys() - expected.keys()
        found += [Finding(subject=key, problem="Not in the catalog.", remedy="Delete it.") for key in unknown]
        return found

    def inventory(self) -> Iterator[Found]:
        """Yield volumes, snapshots, their metadata, leftovers and strangers."""
        for home in sorted(self._root.iterdir()):
            if not _ID.fullmatch(home.name):
                yield Found(pool=self.name, name=home.name, volume_id=None, kind="foreign")
                continue
            state = self._load(home)
            owners = {blob.file: key for key, blob in state.snapshots.items()} if state else {}
            for file in sorted(home.iterdir()):
                kind: Literal["volume", "snapshot", "metadata", "temporary"] = "temporary"
                if file.name == _STATE:
                    kind = "metadata"
                elif file.name in owners:
                    kind = "snapshot"
                elif state and file.name == state.active.file:
                    kind = "volume"
                with suppress(FileNotFoundError):
                    yield Found(
                        pool=self.name,
                        name=f"{home.name}/{file.name}",
                        volume_id=home.name,
                        kind=kind,
                        snapshot_id=owners.get(file.name),
                        allocated_bytes=file.stat().st_blocks * 512,
                    )

    def sweep(self, live_operations: frozenset[str]) -> list[str]:
        """Remove blobs and directories that were never published and that nobody works on."""
        live = tuple(f"{operation}{mark}" for operation in live_operations for mark in ".-")
        swept = []
        for found in list(self.inventory()):
            made_by = found.name.rpartition("/")[2].removeprefix(".tmp-")
            if found.kind == "temporary" and not made_by.startswith(live):
                (self._root / found.name).unlink(missing_ok=True)
                swept.append(found.name)
        for home in list(self._root.iterdir()):
            if _ID.fullmatch(home.name) and not live_operations:
                with suppress(OSError):  # not empty
                    home.rmdir()
                    swept.append(home.name)
        return swept

    def _make(self, volume: Volume, content: _Blob | None, attempt: Attempt) -> Placement:
        self._sized(volume.id, volume.virtual_bytes)
        if content and content.bytes > volume.virtual_bytes:
            raise InvalidInputError(
                f"Volume {volume.id} of {volume.virtual_bytes} bytes is smaller than its source "
                f"of {content.bytes} bytes."
            )
        home = self._home(volume)
        home.mkdir(exist_ok=True)
        if self._load(home) is None:
            origin = Path(content.file) if content else None
            self._publish(home, _State(self._copy(origin, home, volume.virtual_bytes, attempt)), attempt)
        self._tidy(home)
        return _placement(volume)

    def _copy(self, origin: Path | None, home: Path, virtual_bytes: int, attempt: Attempt) -> _Blob:
        blob = _Blob(f"{attempt.operation_id}.{attempt.token}", virtual_bytes)
        with (home / blob.file).open("xb", buffering=0) as new:
            new.truncate(virtual_bytes)
            if origin:
                with origin.open("rb", buffering=0) as old:
                    size = min(origin.stat().st_size, virtual_bytes)
                    copy_data(FileData(old.fileno(), size), FileData(new.fileno(), virtual_bytes), attempt)
        return blob

    def _publish(self, home: Path, state: _State, attempt: Attempt) -> None:
        if attempt.cancelled():
            raise CancelledOperationError(f"Stopped before changing volume {home.name}.")
        draft = home / attempt.temp_name
        draft.write_bytes(msgspec.json.encode(state))
        draft.rename(home / _STATE)

    def _tidy(self, home: Path) -> None:
        state = self._load(home)
        keep = {_STATE} | (state.files() if state else set())
        for file in list(home.iterdir()):
            if file.name not in keep:
                file.unlink(missing_ok=True)

    def _load(self, home: Path) -> _State | None:
        try:
            return msgspec.json.decode((home / _STATE).read_bytes(), type=_State)
        except FileNotFoundError:
            return None

    def _existing(self, volume: Volume) -> tuple[Path, _State]:
        home = self._home(volume)
        state = self._load(home)
        if state is None:
            raise NotFoundError(f"Volume {volume.id} is not on back end {self.name}.")
        return home, state

    def _home(self, volume: Volume) -> Path:
        if volume.pool != self.name:
            raise NotFoundError(f"Back end {self.name} has no pool {volume.pool!r}.")
        if not _ID.fullmatch(volume.id):
            raise InvalidInputError(f"{volume.id!r} is no volume id.")
        return self._root / volume.id

    def _need(self, verb: Optional) -> None:
        if verb in self._config.lacks:
            raise UnsupportedError(f"Back end {self.name} does not have {verb}.")

    def _sized(self, subject: str, virtual_bytes: int) -> None:
        if virtual_bytes <= 0 or virtual_bytes % 512:
            raise InvalidInputError(
                f"Volume {subject}: {virtual_bytes} is no positive multiple of 512 bytes."
            )
        if virtual_bytes > self._config.total_bytes:
            raise NoSpaceError(
                f"Volume {subject} of {virtual_bytes} bytes exceeds the pool's {self._config.total_bytes}."
            )

    def _snapshot_blob(self, state: _State, snapshot: Snapshot) -> _Blob:
        try:
            return state.snapshots[snapshot.id]
        except KeyError:
            raise NotFoundError(f"Volume {snapshot.volume_id} has no snapshot {snapshot.id}.") from None


def open_memory(name: str, config: MemoryConfig, _state_dir: Path) -> MemoryBackend:
    """Return the back end, not started."""
    return MemoryBackend(name, config)


def _placement(volume: Volume) -> Placement:
    return Placement(locator=volume.id, format="raw")
