"""Every back end that keeps volumes as chains of files in directories: the contract over `chains`.

What differs between a local directory, NFS and SMB is where a pool's directory is, how it is kept
reachable and how a consumer gets there: `Places`. The rest is here, once.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from breezeblock import chains
from breezeblock.attempt import Attempt
from breezeblock.backends.contract import (
    Adopted,
    Capabilities,
    Connection,
    Data,
    Finding,
    Found,
    Mend,
    Placement,
    Pool,
    Snapped,
    Snapshot,
    Volume,
)
from breezeblock.errors import InvalidInputError, NotFoundError, UnavailableError, UnsupportedError
from breezeblock.shares.space import Space

Format = Literal["raw", "qcow2", "vhd", "vhdx"]
EXTENSIONS = ("vhd", "vhdx")
"""Formats that programs know by the name's extension; Cinder's NFS driver gave none to the others."""
Provisioning = Literal["thin", "thick"]
Cloning = Literal["linked", "full"]


class Places(Protocol):
    """The directories that are a back end's pools. Every method may be called from any thread."""

    @property
    def protocol(self) -> str:
        """`Capabilities.storage_protocol`."""

    def pools(self) -> tuple[str, ...]:
        """Return the pools' names, in the order of the configuration."""

    def start(self, pool: str) -> None:
        """Try to make the pool reachable. Raises UnavailableError."""

    def directory(self, pool: str) -> Path:
        """Return the pool's directory, reachable right now, or raise UnavailableError in limited time.

        Raises ConfigError for a pool that is not configured.
        """

    def space(self, pool: str) -> Space:
        """Look at the pool's room. Raises UnavailableError in limited time."""

    def locator(self, pool: str) -> str:
        """Return what the service is to remember as a volume's place."""

    def connection(self, pool: str, name: str, image_format: str) -> Connection:
        """Say how a consumer reaches the file `name` in the pool."""


@dataclass(slots=True)
class FileBackend:
    """Volumes as files, in any `Places`; stateless apart from them.

    `Placement.format` is the format of the image that a volume began with. It never changes, and the
    format of the chain's upper images follows from it, so it is all that must be remembered; what a
    consumer is to open is in `connection_info`.
    """

    name: str
    places: Places
    naming: chains.Naming
    format: Format = "raw"
    """For volumes whose type does not ask for one."""
    provisioning: Provisioning = "thin"
    clone_mode: Cloning = "linked"

    def start(self) -> None:
        """Try to reach every pool at once; `stats` tells of those that were not."""
        self._each(self._started)

    def _started(self, pool: str) -> None:
        try:
            self.places.start(pool)
        except UnavailableError:
            return  # stats tells

    def stop(self) -> None:
        """Leave everything as it is: consumers on this host may use the same mounts."""

    def capabilities(self) -> Capabilities:
        """Say what it can do."""
        return Capabilities(
            storage_protocol=self.places.protocol,
            thin=self.provisioning == "thin",
            extend=True,
            snapshots=True,
            revert="any",
            clone=True,
            create_from_snapshot=True,
            adopt=True,
            images=True,
            repair=True,
            linked_clones=True,
            options={
                "format": chains.FORMATS,
                "provisioning": ("thin", "thick"),
                "clone": ("linked", "full"),
            },
        )

    def stats(self) -> list[Pool]:
        """Look at every pool at once, so that a dead one costs its time-out only once."""
        return self._each(self._pool)

    def _pool(self, name: str) -> Pool:
        try:
            space = self.places.space(name)
        except UnavailableError as error:
            return Pool(name=name, total_bytes=None, free_bytes=None, up=False, reason=str(error))
        return Pool(name=name, total_bytes=space.total_bytes, free_bytes=space.free_bytes)

    def _each(self, task: Any) -> list[Any]:
        names = self.places.pools()
        if len(names) == 1:
            return [task(names[0])]
        with ThreadPoolExecutor(max_workers=min(len(names), 32)) as threads:
            return list(threads.map(task, names))

    def create(self, volume: Volume, attempt: Attempt) -> Placement:
        """Make an empty volume."""
        wanted, thick = self._wanted(volume)
        directory = self.places.directory(volume.pool)
        made = chains.create(
            directory,
            self._naming(volume),
            volume.id,
            volume.virtual_bytes,
            attempt,
            format=wanted,
            thick=thick,
        )
        return self._placed(volume, made)

    def delete(self, volume: Volume, attempt: Attempt) -> None:
        """Remove the volume with everything of it."""
        directory = self.places.directory(volume.pool)
        for naming in self._namings(volume, directory):
            chains.delete(
                directory, naming, volume.id, attempt, depth=volume.depth, snapshots=volume.snapshots
            )

    def extend(self, volume: Volume, virtual_bytes: int, attempt: Attempt) -> Placement:
        """Grow the active image; the layers below keep their size."""
        _check_bytes(virtual_bytes)
        directory = self.places.directory(volume.pool)
        grown = chains.extend(
            directory, self._naming(volume), volume.id, virtual_bytes, attempt, **self._known(volume)
        )
        return self._placed(volume, grown)

    def snapshot(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Snapped:
        """Put a new overlay on top; what was active until now is the snapshot."""
        made = chains.snapshot(
            self.places.directory(volume.pool),
            self._naming(volume),
            volume.id,
            snapshot.id,
            volume.virtual_bytes,
            attempt,
            **self._known(volume),
        )
        return Snapped(volume=self._placed(volume, made))

    def delete_snapshot(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Placement:
        """Merge the snapshot's overlay away."""
        directory = self.places.directory(volume.pool)
        left = chains.delete_snapshot(
            directory, self._naming(volume), volume.id, snapshot.id, attempt, **self._known(volume)
        )
        return self._placed(volume, left)

    def revert(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Placement:
        """Give the volume the snapshot's content."""
        reverted = chains.revert(
            self.places.directory(volume.pool),
            self._naming(volume),
            volume.id,
            snapshot.id,
            volume.virtual_bytes,
            attempt,
            **self._known(volume),
        )
        return self._placed(volume, reverted)

    def clone(self, source: Volume, volume: Volume, attempt: Attempt) -> Placement:
        """Put an overlay on the source's image, or copy it whole; to another pool always the latter."""
        return self._derive(source, None, volume, attempt)

    def create_from_snapshot(
        self, source: Volume, snapshot: Snapshot, volume: Volume, attempt: Attempt
    ) -> Placement:
        """Put an overlay on the snapshot's image, or copy it whole; to another pool always the latter."""
        return self._derive(source, snapshot.id, volume, attempt)

    def _derive(self, source: Volume, snapshot_id: str | None, volume: Volume, attempt: Attempt) -> Placement:
        wanted, thick = self._wanted(volume)
        directory = self.places.directory(volume.pool)
        if self._linked(source, volume, thick=thick):
            made = chains.clone(
                directory,
                self._naming(source),
                source.id,
                snapshot_id,
                volume.id,
                volume.virtual_bytes,
                attempt,
                source_format=self._format(source),
                source_depth=source.depth,
            )
            return self._placed(volume, made)
        made = chains.copy(
            self.places.directory(source.pool),
            self.naming.of_format(wanted),
            source.id,
            snapshot_id,
            directory,
            volume.id,
            volume.virtual_bytes,
            attempt,
            source_format=self._format(source),
            source_depth=source.depth,
            source_naming=self._naming(source),
            thick=thick,
            format=wanted,
        )
        return self._placed(volume, made)

    def import_image(self, volume: Volume, path: str, image_format: str, attempt: Attempt) -> Placement:
        """Convert an image into a new volume."""
        wanted, thick = self._wanted(volume)
        made = chains.import_image(
            self.places.directory(volume.pool),
            self._naming(volume),
            volume.id,
            volume.virtual_bytes,
            Path(path),
            image_format,
            attempt,
            format=wanted,
            thick=thick,
        )
        return self._placed(volume, made)

    def export_image(
        self, volume: Volume, snapshot: Snapshot | None, path: str, image_format: str, attempt: Attempt
    ) -> None:
        """Flatten a volume or a snapshot into an image."""
        chains.export_image(
            self.places.directory(volume.pool),
            self._naming(volume),
            volume.id,
            snapshot.id if snapshot else None,
            Path(path),
            image_format,
            attempt,
            format=self._format(volume),
        )

    def examine(self, volume: Volume, reference: str) -> Adopted:
        """Look at a chain or a file that the catalog does not know."""
        directory = self.places.directory(volume.pool)
        found = chains.look(
            directory,
            self._naming(volume),
            volume.id,
            reference,
            format=volume.format,
            virtual_bytes=volume.virtual_bytes,
        )
        return self._adopted(volume, found)

    def adopt(self, volume: Volume, reference: str, attempt: Attempt) -> Adopted:
        """Make a chain or a file ours: by editing headers and renaming, never by copying."""
        found = chains.adopt(
            self.places.directory(volume.pool),
            self._naming(volume),
            volume.id,
            reference,
            attempt,
            format=volume.format,
            virtual_bytes=volume.virtual_bytes,
        )
        placed = self._placed(volume, found.format)
        return msgspec.structs.replace(self._adopted(volume, found), volume=placed)

    def release(self, volume: Volume, attempt: Attempt) -> str:
        """Finish what was begun; the files stay as they are, as Cinder's driver would have left them."""
        directory = self.places.directory(volume.pool)
        naming = self._naming(volume)
        chains.release(directory, naming, volume.id, attempt, format=self._format(volume))
        return naming.volume(volume.id)

    def _adopted(self, volume: Volume, found: chains.Stranger) -> Adopted:
        return Adopted(
            volume=Placement(
                locator=self.places.locator(volume.pool), format=found.format, depth=len(found.layers)
            ),
            virtual_bytes=found.virtual_bytes,
            snapshots=tuple(
                Snapshot(id=snapshot_id, volume_id=volume.id, virtual_bytes=virtual_bytes)
                for snapshot_id, virtual_bytes in found.snapshots
            ),
            edits=found.edits,
        )

    def _linked(self, source: Volume, volume: Volume, *, thick: bool) -> bool:
        """Say whether a clone shares; by default it does unless what it must be leaves no choice."""
        made = chains.above(self._format(source))
        asked, kind = volume.options.get("clone"), volume.options.get("format", made)
        problem = ""
        if source.pool != volume.pool:
            problem = f"its source is in pool {source.pool}"
        elif thick:
            problem = "its space is to be reserved"
        elif kind not in {made, "raw"} or (kind == "raw" and made != "qcow2"):
            problem = f"it is to be {kind}, and what rests on its source is {made}"
        elif self._naming(source) != self.naming.of_format(made):
            problem = f"{made} cannot rest on {self._format(source)} where names end in the format"
        elif asked is None and kind == "raw":
            problem = "a raw image rests on nothing"
        if asked == "linked" and problem:
            raise InvalidInputError(f"Volume {volume.id} cannot be a linked clone: {problem}.")
        return (asked or self.clone_mode) == "linked" and not problem

    def flatten(self, volume: Volume, attempt: Attempt) -> Placement:
        """Give the volume a first image of its own."""
        directory = self.places.directory(volume.pool)
        flat = chains.flatten(directory, self._naming(volume), volume.id, attempt, **self._known(volume))
        return self._placed(volume, flat)

    def shorten(self, volume: Volume, attempt: Attempt) -> Placement:
        """Merge what belongs to no snapshot and no clone."""
        directory = self.places.directory(volume.pool)
        short = chains.shorten(directory, self._naming(volume), volume.id, attempt, **self._known(volume))
        return self._placed(volume, short)

    def open_data(
        self, volume: Volume, snapshot: Snapshot | None = None, *, writable: bool = False
    ) -> AbstractContextManager[Data]:
        """Not offered: every verb that would need it is there."""
        del volume, snapshot, writable
        raise UnsupportedError(f"Back end {self.name} does not open the bytes of volumes.")

    def connection_info(self, volume: Volume, connector: Mapping[str, Any]) -> Connection:
        """Name the active file; the consumer reaches the directory by itself."""
        del connector  # every host is told the same
        name, image_format = chains.active(
            self.places.directory(volume.pool),
            self._naming(volume),
            volume.id,
            self._format(volume),
            volume.depth,
        )
        return self.places.connection(volume.pool, name, image_format)

    def disconnect(self, volume: Volume, connector: Mapping[str, Any]) -> None:
        """Do nothing: nothing was granted, and a mount is not ours alone to take away."""

    def check(self, volume: Volume, snapshots: tuple[Snapshot, ...]) -> list[Finding]:
        """Compare files, `.info` and headers with the catalog."""
        problems = chains.check(
            self.places.directory(volume.pool),
            self._naming(volume),
            volume.id,
            [snapshot.id for snapshot in snapshots],
            volume.virtual_bytes,
            self._format(volume),
            depth=volume.depth,
        )
        return [
            Finding(subject=one.subject, problem=one.problem, remedy=one.remedy, severity=one.severity)
            for one in problems
        ]

    def mends(self, volume: Volume, snapshots: tuple[Snapshot, ...]) -> list[Mend]:
        """Look for edits cut off, a lost `.info`, leftovers and leaked clusters."""
        found = chains.mends(
            self.places.directory(volume.pool),
            self._naming(volume),
            volume.id,
            [snapshot.id for snapshot in snapshots],
            self._format(volume),
        )
        return [Mend(name=one.name, text=one.text, kind=one.kind) for one in found]

    def mend(self, volume: Volume, snapshots: tuple[Snapshot, ...], mend: Mend, attempt: Attempt) -> None:
        """Do one of them."""
        chains.mend(
            self.places.directory(volume.pool),
            self._naming(volume),
            volume.id,
            [snapshot.id for snapshot in snapshots],
            chains.Mend(mend.kind, mend.name, mend.text),
            attempt,
            format=self._format(volume),
        )

    def quarantine(self, found: Found) -> str:
        """Move a stranger's file into a directory of its own."""
        return chains.quarantine(self.places.directory(found.pool), found.name)

    def inventory(self) -> Iterator[Found]:
        """Yield every file in every reachable pool."""
        for pool, directory in self._reachable().items():
            for item in chains.inventory(directory, self.naming):
                yield Found(
                    pool=pool,
                    name=item.name,
                    volume_id=item.volume_id,
                    kind=item.kind,
                    snapshot_id=item.snapshot_id,
                    allocated_bytes=item.allocated_bytes,
                )

    def sweep(self, live_operations: frozenset[str]) -> list[str]:
        """Remove dead operations' temporary files from every reachable pool."""
        removed: list[str] = []
        for directory in self._reachable().values():
            removed += chains.sweep(directory, live_operations)
        return removed

    def _reachable(self) -> dict[str, Path]:
        found = {}
        for pool in self.places.pools():
            try:
                found[pool] = self.places.directory(pool)
            except UnavailableError:
                continue  # what is there waits until the pool is back; stats tells why it is away
        return found

    def _wanted(self, volume: Volume) -> tuple[str, bool]:
        """Return the format and whether to preallocate, for a volume that is to be made."""
        _check_bytes(volume.virtual_bytes)
        allowed = self.capabilities().options
        for key, value in volume.options.items():
            if value not in allowed.get(key, ()):
                choices = ", ".join(allowed.get(key, ())) or f"only the options {', '.join(allowed)}"
                raise InvalidInputError(
                    f"Volume {volume.id}: the volume type asks for {key} = {value!r}; allowed is {choices}."
                )
        provisioning = volume.options.get("provisioning", self.provisioning)
        return volume.options.get("format", self.format), provisioning == "thick"

    def _format(self, volume: Volume) -> str:
        return volume.format or volume.options.get("format", self.format)

    def _naming(self, volume: Volume) -> chains.Naming:
        return self.naming.of_format(self._format(volume))

    def _namings(self, volume: Volume, directory: Path) -> list[chains.Naming]:
        """Return how the volume is named; every way in which something is, where that was never noted."""
        naming = self._naming(volume)
        if volume.format:
            return [naming]
        found = [one for one in self.naming.variants() if chains.is_named(directory, one, volume.id)]
        return [naming, *(one for one in found if one != naming)]

    def _known(self, volume: Volume) -> Any:
        return {"format": self._format(volume), "depth": volume.depth}

    def _placed(self, volume: Volume, image_format: str) -> Placement:
        """Say where the volume is and how deep its chain is, right after a verb: it is known to be whole."""
        locator = self.places.locator(volume.pool)
        directory = self.places.directory(volume.pool)
        try:
            naming = self.naming.of_format(image_format)
            chain = chains.load(directory, naming, volume.id, image_format, depth=1)
        except NotFoundError:  # a snapshot of a volume that is not there was deleted
            return Placement(locator=locator, format=image_format)
        return Placement(
            locator=locator,
            format=image_format,
            depth=len(chain.layers),
            hidden_layers=len(chain.hidden),
            reclaimable_bytes=sum(layer.allocated_bytes for layer in chain.hidden),
            parent=self.naming.owner(chain.layers[len(chain.own)].name) or ""
            if len(chain.layers) > len(chain.own)
            else "",
        )


def _check_bytes(virtual_bytes: int) -> None:
    if virtual_bytes <= 0 or virtual_bytes % 512 or virtual_bytes >= 1 << 63:
        raise InvalidInputError(
            f"A volume of {virtual_bytes} bytes cannot be made; allowed are multiples of 512 below 2^63."
        )
