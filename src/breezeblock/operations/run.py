"""The one course that every operation takes.

work → publish, or work → undo → fail. *Publish* and *fail* are single transactions that free the rows
by the operation's id, so that doing either again changes nothing. Until publish, any failure or cancel
takes the work back; a killed process takes up the course where its last recorded step ended.
"""

from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa
import structlog

from breezeblock.catalog import operations
from breezeblock.engine.port import Json, Steps
from breezeblock.errors import BreezeblockError, CancelledOperationError, CorruptError
from breezeblock.operations.job import Environment, Job

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Verb:
    """How one kind of operation fills the course."""

    work: Callable[[Job], Json]
    publish: Callable[[sa.Connection, Job, Json], None]
    """Make the result visible, given what `work` returned."""
    fail: Callable[[sa.Connection, Job], None]
    """Free the rows after nothing was published."""
    undo: Callable[[Job], None] | None = None
    """Take back what `work` may have done; None: `work` only ever completes forward."""


def execute(
    environment: Environment,
    verbs: dict[str, Verb],
    executor: str,
    operation_id: str,
    attempt: int,
    steps: Steps,
) -> None:
    """Run one attempt of one operation to its end."""
    with environment.database.write() as connection:  # one that rarely writes
        row = operations.adopt(connection, operation_id, attempt, executor)
    if row is None:
        log.info("operation.replaced")
        return
    if row.backend not in environment.backends:
        # Recovered by a worker that does not have the back end: let one that has it claim it.
        with environment.database.write() as connection:
            operations.requeue(connection, operation_id, attempt)
        return
    job = Job(environment, row, steps)
    verb = verbs[row.kind]
    try:
        result = verb.work(job)
    except BreezeblockError as error:
        _failed(job, verb, error)
    except Exception:
        log.exception("operation.failed", kind=row.kind)
        _failed(job, verb, BreezeblockError("an internal error, see the service's log"))
    else:
        with environment.database.write() as connection:
            if operations.finish(connection, job.id, attempt, "done"):
                verb.publish(connection, job, result)
        log.info("operation.done", kind=row.kind, resource=row.resource_id)


def _failed(job: Job, verb: Verb, error: BreezeblockError) -> None:
    reason = str(error)
    # Corrupt means that something not ours, or damaged, is in the way and nothing was changed: an undo
    # could destroy what is there.
    if verb.undo is not None and not isinstance(error, CorruptError):
        try:
            verb.undo(job)
        except BreezeblockError as also:
            reason = f"{reason} (And what had been done could not be taken back: {also})"
    state = "cancelled" if isinstance(error, CancelledOperationError) else "error"
    with job.environment.database.write() as connection:
        if operations.finish(connection, job.id, job.row.attempts, state, error=reason):
            verb.fail(connection, job)
            operations.add_message(
                connection, job.row, reason, job.environment.message_ttl_s, event=_event(job.row.kind)
            )
    log.warning("operation.failed", kind=job.row.kind, resource=job.row.resource_id, reason=reason)


def _event(kind: str) -> str:
    return f"VOLUME_BREEZEBLOCK_{kind.upper()}"
