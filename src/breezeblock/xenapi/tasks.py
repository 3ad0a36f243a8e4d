"""Long calls as tasks: waited for by events, with progress and cancelling."""

import math
import re
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from breezeblock.errors import BreezeblockError, CancelledOperationError, UnavailableError
from breezeblock.xenapi.failures import XenNotFoundError, failure
from breezeblock.xenapi.methods import ASYNC
from breezeblock.xenapi.records import Batch, Task, decode
from breezeblock.xenapi.session import Session

_RESULT = re.compile(r"<value>(?:<string>)?([^<]*)(?:</string>)?</value>|([^<]*)")
_RUNNING = {"pending", "cancelling"}


def run(
    session: Session,
    method: str,
    *params: Any,
    cancelled: Callable[[], bool] | None = None,
    progress: Callable[[float], None] | None = None,
) -> str:
    """Run a call as a task and return its result, a reference or nothing.

    Raises XenApiError with what the task failed of, CancelledOperationError if `cancelled` said so and
    the task stopped, UnavailableError if the task was lost.
    """
    if method not in ASYNC:
        raise TypeError(f"{method} is not called as a task")
    ref = session.call(f"Async.{method}", *params)
    try:
        task = wait(session, ref, cancelled=cancelled, progress=progress)
    finally:
        with suppress(BreezeblockError):
            session.call("task.destroy", ref)
    return outcome(task, method)


def wait(
    session: Session,
    ref: str,
    *,
    cancelled: Callable[[], bool] | None = None,
    progress: Callable[[float], None] | None = None,
    limit_s: float = math.inf,
) -> Task:
    """Return the task when it has ended. Raises UnavailableError if it was forgotten, or after `limit_s`."""
    token, asked, end = "", False, time.monotonic() + limit_s
    while True:
        if time.monotonic() > end:
            raise UnavailableError(f"A task of XenServer did not end within {limit_s:g} seconds.")
        if cancelled and not asked and cancelled():
            asked = True
            with suppress(BreezeblockError):  # it may be over, or not be of the kind that stops
                session.call("task.cancel", ref)
        batch = decode(
            session.call(
                "event.from", [f"task/{ref}"], token, 1.0 if cancelled or limit_s < math.inf else 20.0
            ),
            Batch,
        )
        token = batch.token
        for event in batch.events:
            if event.ref != ref:
                continue
            if event.operation == "del":
                raise UnavailableError("A task of XenServer was forgotten before it ended.")
            task = decode(event.snapshot, Task)
            if task.status not in _RUNNING:
                return task
            if progress:
                progress(task.progress)
        if not batch.events:
            _still_there(session, ref)


def outcome(task: Task, method: str) -> str:
    """Return the result of a task that ended, or raise what it failed of."""
    if task.status == "success":
        match = _RESULT.fullmatch(task.result)
        return (match[1] or match[2] or "") if match else ""
    code, *params = task.error_info or ["INTERNAL_ERROR"]
    if task.status == "cancelled" or code == "TASK_CANCELLED":
        raise CancelledOperationError(f"XenServer stopped {method}.")
    raise failure(code, tuple(params), method)


def _still_there(session: Session, ref: str) -> None:
    try:
        session.call("task.get_record", ref)
    except XenNotFoundError as error:
        raise UnavailableError("A task of XenServer was forgotten before it ended.") from error
