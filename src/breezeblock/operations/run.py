"""The one course that every operation takes.

work → publish, or work → undo → fail. *Publish* and *fail* are single transactions that free the rows
by the operation's id, so that doing either again changes nothing. Until publish, any failure or cancel
takes the work back; a killed process takes up the course where its last recorded step ended.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
import structlog

from breezeblock.catalog import numbering, operations
from breezeblock.engine.port import Json, Steps
from breezeblock.errors import BreezeblockError, CancelledOperationError, CorruptError, PoolDownError
from breezeblock.operations.job import Environment, Job

CANCELLED = "The operation was cancelled on request."

Row = sa.Row[Any]

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
    verbs: Mapping[str, Verb],
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
    with structlog.contextvars.bound_contextvars(request_id=row.request_id):
        _run(Job(environment, row, steps), verbs[row.kind])


def _run(job: Job, verb: Verb) -> None:
    try:
        result = verb.work(job)
    except BreezeblockError as error:
        if not (isinstance(error, PoolDownError) and _waits(job, error)):
            _failed(job, verb, error)
    except Exception:
        log.exception("operation.failed", kind=job.row.kind)
        _failed(job, verb, BreezeblockError("an internal error, see the service's log"))
    else:
        with job.environment.database.write() as connection:
            if operations.finish(connection, job.id, job.row.attempts, "done"):
                verb.publish(connection, job, result)
        log.info("operation.done", kind=job.row.kind, resource=job.row.resource_id)


def give_up(environment: Environment, verbs: Mapping[str, Verb], operation_id: str, attempt: int) -> None:
    """End an operation at which the process died again and again: it must not die of it for ever."""
    with environment.database.read() as connection:
        row = operations.get(connection, operation_id)
    if row is None or row.attempts != attempt or row.kind not in verbs:
        return
    reason = "given up: the service ended each time while it was at work on it, see its log."
    _record_failure(Job(environment, row, _NoSteps()), verbs[row.kind], "error", reason)


def cancel_queued(
    connection: sa.Connection, environment: Environment, verbs: Mapping[str, Verb], row: Row
) -> bool:
    """End an operation that nobody has begun, inside a transaction; False when it is no longer so."""
    if row.state != "queued" or row.attempts:
        return False
    job = Job(environment, row, _NoSteps())
    job.cancelled = True
    return _end(connection, job, verbs[row.kind], "cancelled", CANCELLED)


def _waits(job: Job, why: PoolDownError) -> bool:
    """Put the operation back into the queue, where it waits for its pool, if that is to be."""
    if not job.may_wait():
        return False
    with job.environment.database.write() as connection:
        operations.requeue(connection, job.id, job.row.attempts)
    log.info("operation.waits", kind=job.row.kind, resource=job.row.resource_id, reason=str(why))
    return True


def _failed(job: Job, verb: Verb, error: BreezeblockError) -> None:
    reason = str(error)
    # Corrupt means that something not ours, or damaged, is in the way and nothing was changed: an undo
    # could destroy what is there.
    if verb.undo is not None and not isinstance(error, CorruptError):
        try:
            verb.undo(job)
        except BreezeblockError as also:
            # The whole course is begun anew then, and comes to the undo again if it must.
            if isinstance(also, PoolDownError) and _waits(job, also):
                return
            reason = f"{reason} (And what had been done could not be taken back: {also})"
    job.cancelled = isinstance(error, CancelledOperationError)
    _record_failure(job, verb, "cancelled" if job.cancelled else "error", reason)


def _record_failure(job: Job, verb: Verb, state: str, reason: str) -> None:
    with job.environment.database.write() as connection:
        numbering.take_turn(connection)  # a failure may queue something: what gets rid of what was begun
        _end(connection, job, verb, state, reason)
    log.warning("operation.failed", kind=job.row.kind, resource=job.row.resource_id, reason=reason)


def _end(connection: sa.Connection, job: Job, verb: Verb, state: str, reason: str) -> bool:
    if not operations.finish(connection, job.id, job.row.attempts, state, error=reason):
        return False
    verb.fail(connection, job)
    ttl_s = job.environment.message_ttl_s
    operations.add_message(connection, job.row, reason, ttl_s, event=_event(job.row.kind))
    return True


def _event(kind: str) -> str:
    return f"VOLUME_BREEZEBLOCK_{kind.upper()}"


class _NoSteps:
    """For what ends without any work."""

    def step(self, name: str, work: Callable[[], Json]) -> Json:
        raise AssertionError(f"step {name} ({work}) of an operation that is not run")
