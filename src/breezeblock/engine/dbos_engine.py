"""The engine port on DBOS Transact. The only file that imports it.

DBOS keeps its tables in the catalog's database and writes through the catalog's own connections, so
that SQLite has one writer at a time without busy waits. Rules learnt the hard way: the application
version is pinned, or work queued by another version of the code would wait for ever; values are JSON,
never pickle, or whoever can write to the database could run code; DBOS's own cancel is never used,
because it skips our finish.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import structlog
from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, SetWorkflowID

from breezeblock import errors
from breezeblock.catalog.database import Database
from breezeblock.engine.port import Body, Json

APPLICATION_VERSION = "1"
MAX_RECOVERIES = 3
LIVE_STATES = {"PENDING", "ENQUEUED", "DELAYED"}
ENDED_STATES = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]

log = structlog.get_logger(__name__)


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a step came to, as DBOS records it."""

    value: Json = None
    error: str = ""
    message: str = ""
    remedy: str = ""


class DbosSteps:
    """Durable steps inside the DBOS workflow that the calling thread runs."""

    def step(self, name: str, work: Callable[[], Json]) -> Json:
        """Run `work` as a checkpointed step."""
        return _unfold(DBOS.run_step({"name": name}, lambda: _fold(work)))


class DbosEngine:
    """One executor. DBOS is a singleton, so there is one in a process."""

    def __init__(self, database: Database, executor_id: str, threads: int, body: Body) -> None:
        self._database = database
        self._config: DBOSConfig = {
            "name": "breezeblock",
            "system_database_url": database.url.render_as_string(hide_password=False),
            "system_database_engine": database.writer,
            "application_version": APPLICATION_VERSION,
            "executor_id": executor_id,
            "serializer": DBOSPortableJSONSerializer(),
            "max_executor_threads": threads,
            "log_level": "WARNING",
            "run_migrations": True,
        }
        _Running.body = body

    def launch(self) -> None:
        """Begin, and go on with what this executor left unfinished."""
        DBOS(config=self._config)
        # DBOS brings a console handler of its own; its records go the way of all others.
        dbos_log = logging.getLogger("dbos")
        dbos_log.handlers.clear()
        dbos_log.propagate = True
        DBOS.launch()

    def start(self, operation_id: str, attempt: int) -> None:
        """Record an execution and begin it."""
        with SetWorkflowID(_workflow_id(operation_id, attempt)):
            DBOS.start_workflow(run_operation, operation_id, attempt)

    def is_live(self, operation_id: str, attempt: int) -> bool:
        """Ask DBOS."""
        status = DBOS.get_workflow_status(_workflow_id(operation_id, attempt))
        return status is not None and status.status in LIVE_STATES

    def forget(self, older_than_s: float) -> None:
        """Delete workflow records; they are of use only while an operation can still be resumed."""
        moment = (datetime.now(UTC) - timedelta(seconds=older_than_s)).isoformat()
        while True:
            ended = DBOS.list_workflows(
                status=ENDED_STATES, completed_before=moment, limit=500, load_input=False, load_output=False
            )
            if not ended:
                return
            DBOS.delete_workflows([workflow.workflow_id for workflow in ended])

    def shutdown(self, timeout_s: float) -> None:
        """Stop taking part; unfinished workflows stay pending in the database."""
        DBOS.destroy(workflow_completion_timeout_sec=int(timeout_s))


class _Running:
    """The body of the engine that is launched: DBOS finds workflow functions by name, at import."""

    body: Body | None = None


@DBOS.workflow(name="run_operation", max_recovery_attempts=MAX_RECOVERIES)
def run_operation(operation_id: str, attempt: int) -> None:
    """Run one operation's body; an error that escapes it is the engine's to record and ours to log."""
    body = _Running.body
    if body is None:
        raise errors.UnavailableError("the engine was not launched by this process")
    with structlog.contextvars.bound_contextvars(operation_id=operation_id, attempt=attempt):
        try:
            body(operation_id, attempt, DbosSteps())
        except Exception:
            log.exception("operation.escaped")
            raise


def _workflow_id(operation_id: str, attempt: int) -> str:
    return f"{operation_id}.{attempt}"


def _fold(work: Callable[[], Json]) -> dict[str, Any]:
    """Errors become values, because a recorded exception would come back as another class."""
    try:
        outcome = Outcome(value=work())
    except errors.BreezeblockError as error:
        outcome = Outcome(error=type(error).__name__, message=error.message, remedy=error.remedy)
    except Exception:
        log.exception("step.failed")
        outcome = Outcome(error="BreezeblockError", message="an internal error, see the service's log")
    folded: dict[str, Any] = msgspec.to_builtins(outcome)
    return folded


def _unfold(recorded: dict[str, Any]) -> Json:
    outcome = msgspec.convert(recorded, Outcome)
    if not outcome.error:
        return outcome.value
    kind = getattr(errors, outcome.error, errors.BreezeblockError)
    raise kind(outcome.message, remedy=outcome.remedy)
