"""Making, publishing and removing disks of ours on a XenServer pool, safe to be killed anywhere."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from breezeblock.attempt import Attempt
from breezeblock.backends.xenserver_tags import (
    DRAFT,
    MAKING,
    VOLUME,
    Disk,
    leftovers,
    marked_sources,
    of_volume,
    own_marks,
    the_disk,
)
from breezeblock.errors import BreezeblockError, CancelledOperationError
from breezeblock.xenapi import tasks, transfer
from breezeblock.xenapi.failures import XenNotFoundError
from breezeblock.xenapi.mirror import Mirror, View
from breezeblock.xenapi.records import NULL, Vdi, decode
from breezeblock.xenapi.session import Session

SETTLE_S = 120.0
"""How long another operation on a disk may go on before we give up for now."""


class Workshop:
    """The steps that verbs are made of."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.mirror = Mirror(session)

    def run(self, method: str, *params: Any, attempt: Attempt | None = None) -> str:
        """Run a call as a task; cancelling the attempt cancels the task."""
        cancelled = attempt.cancelled if attempt else None
        return tasks.run(self.session, method, *params, cancelled=cancelled)

    def clear(self, target: str) -> View:
        """Remove what killed attempts at making `target` left; wait for what is still at work on it."""
        view = self.mirror.look()
        for disk in leftovers(view, target):
            for task in disk.vdi.current_operations:
                with suppress(BreezeblockError):  # it may be over
                    self.session.call("task.cancel", task)
        view = self.mirror.wait(lambda now: not _busy(leftovers(now, target)), f"work on {target}", SETTLE_S)
        for disk in leftovers(view, target):
            self.destroy(disk)
        return self.mirror.look()

    def settle(self, find: Callable[[View], list[Disk]]) -> View:
        """Wait until nothing goes on with these disks."""
        return self.mirror.wait(lambda view: not _busy(find(view)), "other work on a disk", SETTLE_S)

    def ready(self, volume_id: str, *, clear: str = "", settle: bool = True) -> tuple[View, Disk]:
        """Return a volume's disk when nothing goes on with it, and leftovers of `clear` are gone."""
        view = self.clear(clear) if clear else self.mirror.look()
        if settle and the_disk(view, volume_id).vdi.current_operations:
            view = self.settle(lambda now: of_volume(now, volume_id))
        return view, the_disk(view, volume_id)

    def unmark(self, target: str) -> None:
        """Forget that `target` is being made."""
        for disk in marked_sources(self.mirror.look(), target):
            with suppress(XenNotFoundError):
                self.session.call("VDI.remove_from_other_config", disk.ref, f"{MAKING}{target}")

    def derive(
        self, method: str, source: Disk, target: str, virtual_bytes: int, attempt: Attempt, **marks: str
    ) -> Vdi:
        """Make a disk of another by VDI.snapshot or VDI.clone, grow it, publish it with these marks."""
        stop_if_cancelled(attempt, target)
        self.unmark(target)
        self.session.call("VDI.add_to_other_config", source.ref, f"{MAKING}{target}", attempt.operation_id)
        ref = self.run(method, source.ref, attempt=attempt)
        made = self.record(ref)
        if made.virtual_size < virtual_bytes:
            self.run("VDI.resize", ref, virtual_bytes, attempt=attempt)
        self.publish(ref, target, attempt, **marks)
        self.unmark(target)
        return self.record(ref)

    def create(
        self, sr_ref: str, target: str, virtual_bytes: int, attempt: Attempt, sm_config: Mapping[str, str]
    ) -> tuple[str, Vdi]:
        """Make an empty disk that is not published yet."""
        stop_if_cancelled(attempt, target)
        record = {
            "name_label": f"volume-{target}",
            "name_description": "Made by Breezeblock",
            "SR": sr_ref,
            "virtual_size": virtual_bytes,
            "type": "user",
            "sharable": False,
            "read_only": False,
            "other_config": {VOLUME: target, DRAFT: attempt.operation_id},
            "xenstore_data": {},
            "sm_config": dict(sm_config),
            "tags": [],
        }
        ref = self.run("VDI.create", record, attempt=attempt)
        return ref, self.record(ref)

    def wipe(self, ref: str, vdi: Vdi, attempt: Attempt) -> None:
        """Write zeros all over a disk that may hold what somebody else wrote."""
        size = vdi.virtual_size
        transfer.put(self.session, ref, "raw", transfer.zeros(size), size, attempt.cancelled)

    def copy(self, source: Disk, ref: str, target: str, virtual_bytes: int, attempt: Attempt) -> Vdi:
        """Copy a disk in full into a new one that holds only zeros, and publish that."""
        tasks.run(
            self.session,
            "VDI.copy",
            source.ref,
            NULL,
            NULL,
            ref,
            cancelled=attempt.cancelled,
            progress=lambda part: attempt.progress(int(part * virtual_bytes), virtual_bytes),
        )
        self.publish(ref, target, attempt, volume=target)
        return self.record(ref)

    def publish(self, ref: str, target: str, attempt: Attempt, *, label: str = "", **marks: str) -> None:
        """Name a disk and give it marks of its own, in that order: the marks publish it."""
        stop_if_cancelled(attempt, target)
        own = f"snapshot-{marks['snapshot']}" if "snapshot" in marks else f"volume-{marks['volume']}"
        self.session.call("VDI.set_name_label", ref, label or own)
        held = own_marks(self.record(ref), operation=attempt.operation_id, **marks)
        self.session.call("VDI.set_other_config", ref, held)

    def destroy(self, disk: Disk) -> None:
        """Remove a disk; absent = done."""
        with suppress(XenNotFoundError):
            self.run("VDI.destroy", disk.ref)

    def record(self, ref: str) -> Vdi:
        """Return a disk as it is now."""
        return decode(self.session.call("VDI.get_record", ref), Vdi)


def _busy(found: list[Disk]) -> bool:
    return any(disk.vdi.current_operations for disk in found)


def stop_if_cancelled(attempt: Attempt, target: str) -> None:
    """Raise CancelledOperationError if the operation was asked to stop."""
    if attempt.cancelled():
        raise CancelledOperationError(f"Stopped before changing {target}.")
