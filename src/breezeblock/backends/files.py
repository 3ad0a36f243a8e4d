"""Every back end that keeps volumes as chains of files in directories: the contract over `chains`.

What differs between a local directory, NFS and SMB is where a pool's directory is, how it is kept
reachable and how a consumer gets there: `Places`. The rest is here, once.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from breezeblock import chains
from breezeblock.attempt import Attempt
from breezeblock.backends import file_options, file_reports
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
from breezeblock.backends.file_options import Defaults, check_bytes, format_of
from breezeblock.backends.places import Places
from breezeblock.errors import NotFoundError, UnavailableError, UnsupportedError


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
    defaults: Defaults

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
            thin=self.defaults.provisioning == "thin",
            extend=True,
            snapshots=True,
            revert="any",
            clone=True,
            create_from_snapshot=True,
            adopt=True,
            images=True,
            repair=True,
            linked_clones=True,
            options=file_options.ALLOWED,
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
        file_options.check(volume)
        made = chains.create(
            *self._at(volume),
            volume.virtual_bytes,
            attempt,
            format=format_of(volume, self.defaults),
            thick=file_options.thick(volume, self.defaults),
        )
        return self._placed(volume, made)

    def delete(self, volume: Volume, attempt: Attempt) -> None:
        """Remove the volume with everything of it."""
        directory, usual, volume_id = self._at(volume)
        # Where no attempt lived to tell the format, whatever one of them made goes.
        found = [] if volume.format else chains.named(directory, self.naming, volume_id)
        for naming in dict.fromkeys((usual, *found)):
            chains.delete(
                directory, naming, volume_id, attempt, depth=volume.depth, snapshots=volume.snapshots
            )

    def extend(self, volume: Volume, virtual_bytes: int, attempt: Attempt) -> Placement:
        """Grow the active image, and those below it where a format wants all to be of one length."""
        check_bytes(virtual_bytes)
        grown = chains.extend(*self._at(volume), virtual_bytes, attempt, **self._known(volume))
        return self._placed(volume, grown)

    def snapshot(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Snapped:
        """Put a new overlay on top; what was active until now is the snapshot."""
        made = chains.snapshot(
            *self._at(volume),
            snapshot.id,
            volume.virtual_bytes,
            attempt,
            **self._known(volume),
        )
        return Snapped(volume=self._placed(volume, made))

    def delete_snapshot(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Placement:
        """Merge the snapshot's overlay away."""
        left = chains.delete_snapshot(*self._at(volume), snapshot.id, attempt, **self._known(volume))
        return self._placed(volume, left)

    def revert(self, volume: Volume, snapshot: Snapshot, attempt: Attempt) -> Placement:
        """Give the volume the snapshot's content."""
        reverted = chains.revert(
            *self._at(volume),
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
        return self._derive(source, snapshot, volume, attempt)

    def _derive(
        self, source: Volume, snapshot: Snapshot | None, volume: Volume, attempt: Attempt
    ) -> Placement:
        file_options.check(volume)
        snapshot_id = snapshot.id if snapshot else None
        directory = self.places.directory(volume.pool)
        if file_options.linked(source, volume, self.defaults, self.naming):
            made = chains.clone(
                directory,
                self._naming(source),
                source.id,
                snapshot_id,
                volume.id,
                volume.virtual_bytes,
                attempt,
                source_format=format_of(source, self.defaults),
                source_depth=source.depth,
            )
            return self._placed(volume, made)
        made = chains.copy(
            self.places.directory(source.pool),
            self._naming(volume),
            source.id,
            snapshot_id,
            directory,
            volume.id,
            volume.virtual_bytes,
            attempt,
            source_format=format_of(source, self.defaults),
            source_depth=source.depth,
            source_naming=self._naming(source),
            source_bytes=snapshot.virtual_bytes if snapshot else 0,
            thick=file_options.thick(volume, self.defaults),
            format=format_of(volume, self.defaults),
        )
        return self._placed(volume, made)

    def import_image(self, volume: Volume, path: str, image_format: str, attempt: Attempt) -> Placement:
        """Convert an image into a new volume."""
        file_options.check(volume)
        made = chains.import_image(
            *self._at(volume),
            volume.virtual_bytes,
            Path(path),
            image_format,
            attempt,
            format=format_of(volume, self.defaults),
            thick=file_options.thick(volume, self.defaults),
        )
        return self._placed(volume, made)

    def export_image(
        self, volume: Volume, snapshot: Snapshot | None, path: str, image_format: str, attempt: Attempt
    ) -> None:
        """Flatten a volume or a snapshot into an image."""
        chains.export_image(
            *self._at(volume),
            snapshot.id if snapshot else None,
            Path(path),
            image_format,
            attempt,
            source_bytes=snapshot.virtual_bytes if snapshot else 0,
            format=format_of(volume, self.defaults),
        )

    def examine(self, volume: Volume, reference: str) -> Adopted:
        """Look at a chain or a file that the catalog does not know."""
        directory, naming, reference = self._called(volume, reference)
        found = chains.look(
            directory,
            naming,
            volume.id,
            reference,
            format=volume.format,
            virtual_bytes=volume.virtual_bytes,
        )
        return self._adopted(volume, found)

    def adopt(self, volume: Volume, reference: str, attempt: Attempt) -> Adopted:
        """Make a chain or a file ours: by editing headers and renaming, never by copying."""
        directory, naming, reference = self._called(volume, reference)
        found = chains.adopt(
            directory,
            naming,
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
        chains.release(*self._at(volume), attempt, format=format_of(volume, self.defaults))
        return self._naming(volume).volume(volume.id)

    def _adopted(self, volume: Volume, found: chains.Stranger) -> Adopted:
        return file_reports.adopted(volume.id, self.places.locator(volume.pool), found)

    def flatten(self, volume: Volume, attempt: Attempt) -> Placement:
        """Give the volume a first image of its own."""
        flat = chains.flatten(*self._at(volume), attempt, **self._known(volume))
        return self._placed(volume, flat)

    def shorten(self, volume: Volume, attempt: Attempt) -> Placement:
        """Merge what belongs to no snapshot and no clone."""
        short = chains.shorten(*self._at(volume), attempt, **self._known(volume))
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
            *self._at(volume),
            format_of(volume, self.defaults),
            volume.depth,
        )
        return self.places.connection(volume.pool, name, image_format)

    def disconnect(self, volume: Volume, connector: Mapping[str, Any]) -> None:
        """Do nothing: nothing was granted, and a mount is not ours alone to take away."""

    def check(self, volume: Volume, snapshots: tuple[Snapshot, ...]) -> list[Finding]:
        """Compare files, `.info` and headers with the catalog."""
        problems = chains.check(
            *self._at(volume),
            [snapshot.id for snapshot in snapshots],
            volume.virtual_bytes,
            format_of(volume, self.defaults),
            depth=volume.depth,
        )
        return [
            Finding(subject=one.subject, problem=one.problem, remedy=one.remedy, severity=one.severity)
            for one in problems
        ]

    def mends(self, volume: Volume, snapshots: tuple[Snapshot, ...]) -> list[Mend]:
        """Look for edits cut off, a lost `.info`, leftovers and leaked clusters."""
        found = chains.mends(
            *self._at(volume),
            [snapshot.id for snapshot in snapshots],
            format_of(volume, self.defaults),
        )
        return [Mend(name=one.name, text=one.text, kind=one.kind) for one in found]

    def mend(self, volume: Volume, snapshots: tuple[Snapshot, ...], mend: Mend, attempt: Attempt) -> None:
        """Do one of them."""
        chains.mend(
            *self._at(volume),
            [snapshot.id for snapshot in snapshots],
            chains.Mend(mend.kind, mend.name, mend.text),
            attempt,
            format=format_of(volume, self.defaults),
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

    def _at(self, volume: Volume) -> tuple[Path, chains.Naming, str]:
        """Return what every verb of `chains` begins with; the directory can be reached right now."""
        return self.places.directory(volume.pool), self._naming(volume), volume.id

    def _naming(self, volume: Volume) -> chains.Naming:
        return self.naming.of_format(format_of(volume, self.defaults))

    def _called(self, volume: Volume, reference: str) -> tuple[Path, chains.Naming, str]:
        directory = self.places.directory(volume.pool)
        return directory, *chains.called(directory, self.naming, volume.id, reference, volume.format)

    def _known(self, volume: Volume) -> Any:
        return {"format": format_of(volume, self.defaults), "depth": volume.depth}

    def _placed(self, volume: Volume, image_format: str) -> Placement:
        """Say where the volume is and how deep its chain is, right after a verb: it is known to be whole."""
        locator = self.places.locator(volume.pool)
        try:
            directory, naming = self.places.directory(volume.pool), self.naming.of_format(image_format)
            chain = chains.load(directory, naming, volume.id, image_format, depth=1)
        except NotFoundError:  # a snapshot of a volume that is not there was deleted
            return Placement(locator=locator, format=image_format)
        return file_reports.placed(locator, image_format, chain, self.naming)
