"""Every verb is accepted in exactly the states that the table of transitions gives."""

from collections.abc import Callable

import pytest
from running import ADMIN, ME, Running

from breezeblock.catalog import rows, tables
from breezeblock.catalog.states import (
    ADMIN_SNAPSHOT_STATES,
    ADMIN_VOLUME_STATES,
    TRANSITIONS,
    Transition,
    transient,
    transition,
)
from breezeblock.errors import ConflictError
from breezeblock.service import attachments, legacy_attach, snapshots, volumes
from breezeblock.service.core import GIB


def reserve(run: Running, volume_id: str) -> None:
    attachments.create(run.service, ME, attachments.NewAttachment(volume_id=volume_id))


VOLUME_VERBS: dict[str, Callable[[Running, str], None]] = {
    "delete": lambda run, id_: volumes.delete(run.service, ME, id_),
    "extend": lambda run, id_: volumes.extend(run.service, ME, id_, 2 * GIB),
    "reserve": reserve,
    "begin_attaching": lambda run, id_: legacy_attach.reserve(run.service, ME, id_),
    "begin_detaching": lambda run, id_: legacy_attach.begin_detaching(run.service, ME, id_),
    "roll_detaching": lambda run, id_: legacy_attach.roll_detaching(run.service, ME, id_),
}


@pytest.mark.parametrize("verb", VOLUME_VERBS)
def test_volume_verbs_keep_to_the_table(run: Running, verb: str) -> None:
    step = transition("volume", verb)
    for status in ADMIN_VOLUME_STATES:
        volume = run.volume()
        with run.database.write() as connection:
            rows.update(connection, tables.volumes, volume, status=status)
        if status in step.sources:
            VOLUME_VERBS[verb](run, volume)
            run.until_volume(volume, step.done or "gone")
        else:
            with pytest.raises(ConflictError, match=status):
                VOLUME_VERBS[verb](run, volume)


def test_snapshot_deletion_keeps_to_the_table(run: Running) -> None:
    step = transition("snapshot", "delete")
    volume = run.volume()
    for status in ADMIN_SNAPSHOT_STATES:
        snapshot = run.snapshot(volume)
        snapshots.reset_status(run.service, ADMIN, snapshot, status)
        if status in step.sources:
            snapshots.delete(run.service, ME, snapshot)
            run.until_snapshot(snapshot, "gone")
        else:
            with pytest.raises(ConflictError, match=status):
                snapshots.delete(run.service, ME, snapshot)


def test_the_table_is_whole() -> None:
    """Each transition starts where another ends, and each transient state has a way out by failure."""
    by_resource: dict[str, list[Transition]] = {}
    for step in TRANSITIONS:
        by_resource.setdefault(step.resource, []).append(step)
    for resource in ("volume", "snapshot"):
        reachable = {s for step in by_resource[resource] for s in (step.during, step.done, step.failed) if s}
        for step in by_resource[resource]:
            assert set(step.sources) <= reachable, step
            if step.during in transient(resource):
                unchanged = step.sources == (step.done,)  # a failure puts back what was
                assert step.failed or unchanged or step.verb == "revert", step
