"""The operations table: the durable queue, and the record of what was asked and how it ended.

A row is written in the transaction that promises the work. A dispatcher claims it: the oldest of its
lane, when none of its lane runs. The claim's `attempts` number goes with the execution everywhere and
is its fence: an execution whose number is no longer the row's has been replaced and must do nothing.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from breezeblock.catalog.clock import later, new_id, now
from breezeblock.catalog.tables import messages, operations, pools, volumes

Row = sa.Row[Any]

LIVE = ("queued", "running")


def enqueue(connection: sa.Connection, **values: Any) -> None:
    """Add an operation to the end of its lane."""
    connection.execute(sa.insert(operations).values(state="queued", created_at=now(), **values))


def get(connection: sa.Connection, operation_id: str) -> Row | None:
    """Return one operation."""
    return connection.execute(_BY_ID, {"wanted": operation_id}).one_or_none()


# Where the work of an operation is: the pool of its volume.
_PLACED = operations.outerjoin(volumes, volumes.c.id == operations.c.volume_id)
_PLACE = sa.func.coalesce(volumes.c.backend + "#" + volumes.c.pool, "")


def _next_of_each_lane() -> sa.Select[Any]:
    """Select queued operations that nothing of their lane stands before."""
    before = operations.alias()
    blocked = sa.exists().where(
        before.c.lane == operations.c.lane,
        sa.or_(
            before.c.state == "running",
            sa.and_(before.c.state == "queued", before.c.id < operations.c.id),
        ),
    )
    down = sa.exists().where(
        pools.c.backend == volumes.c.backend,
        pools.c.name == volumes.c.pool,
        pools.c.up.is_(False),
        pools.c.backend.in_(sa.bindparam("patient", expanding=True)),
    )
    return (
        sa.select(operations.c.id, operations.c.attempts, _PLACE.label("place"))
        .select_from(_PLACED)
        .where(
            operations.c.state == "queued",
            operations.c.backend.in_(sa.bindparam("backends", expanding=True)),
            _PLACE.not_in(sa.bindparam("full", expanding=True)),
            ~blocked,
            ~down,
        )
        .order_by(operations.c.id)
        .limit(sa.bindparam("most"))
    )


# Every operation passes here, so what can be built once is.
_NEXT = _next_of_each_lane()
_CLAIM = (
    sa.update(operations)
    .where(operations.c.id == sa.bindparam("claimed"), operations.c.state == "queued")
    .values(
        state="running",
        executor=sa.bindparam("claimer"),
        attempts=sa.bindparam("attempt"),
        started_at=sa.bindparam("moment"),
    )
)
_BY_ID = sa.select(operations).where(operations.c.id == sa.bindparam("wanted"))


def claim(
    connection: sa.Connection,
    executor: str,
    backends: Iterable[str],
    limit: int,
    *,
    patient: Iterable[str] = (),
    most_of_a_pool: int | None = None,
) -> list[tuple[str, int]]:
    """Make up to `limit` operations ours, oldest first; return (id, attempt number) of each.

    Left in the queue: those on pools that are down, for back ends in `patient`; and those on a pool on
    which `most_of_a_pool` of ours run already, so that a pool that hangs cannot take all places.
    """
    busy = _busy(connection, executor) if most_of_a_pool is not None else Counter()
    most = limit if most_of_a_pool is None else most_of_a_pool
    full = [place for place, count in busy.items() if count >= most]
    wanted = {"backends": list(backends), "most": limit, "patient": list(patient), "full": full}
    claimed = []
    for candidate in connection.execute(_NEXT, wanted).all():
        if most_of_a_pool is not None and busy[candidate.place] >= most:
            continue  # by those before it
        values = {
            "claimed": candidate.id,
            "claimer": executor,
            "attempt": candidate.attempts + 1,
            "moment": now(),
        }
        try:
            with connection.begin_nested():
                if connection.execute(_CLAIM, values).rowcount == 1:
                    claimed.append((candidate.id, candidate.attempts + 1))
                    busy[candidate.place] += 1
        except IntegrityError:
            continue  # another host's clock put a neighbour of the lane first
    return claimed


def _busy(connection: sa.Connection, executor: str) -> Counter[str]:
    """Count our running operations by pool."""
    statement = (
        sa.select(_PLACE, sa.func.count())
        .select_from(_PLACED)
        .where(operations.c.state == "running", operations.c.executor == executor)
        .group_by(_PLACE)
    )
    return Counter({row[0]: row[1] for row in connection.execute(statement)})


def any_queued(connection: sa.Connection, backends: Iterable[str]) -> bool:
    """Say whether something waits for one of these back ends."""
    statement = sa.select(operations.c.id).where(
        operations.c.state == "queued", operations.c.backend.in_(tuple(backends))
    )
    return connection.execute(statement.limit(1)).first() is not None


def requeue(connection: sa.Connection, operation_id: str, attempt: int) -> bool:
    """Give a running operation back, so that any worker may claim it as a new attempt."""
    statement = (
        sa.update(operations)
        .where(
            operations.c.id == operation_id,
            operations.c.state == "running",
            operations.c.attempts == attempt,
        )
        .values(state="queued", executor=None)
    )
    return connection.execute(statement).rowcount == 1


def adopt(connection: sa.Connection, operation_id: str, attempt: int, executor: str) -> Row | None:
    """Return the operation if this attempt is the one that may work on it, noting who does."""
    row = get(connection, operation_id)
    if row is None or row.state != "running" or row.attempts != attempt:
        return None
    if row.executor != executor:
        connection.execute(
            sa.update(operations).where(operations.c.id == operation_id).values(executor=executor)
        )
    return row


def finish(
    connection: sa.Connection, operation_id: str, attempt: int, state: str, *, error: str | None = None
) -> bool:
    """Record how an operation ended; False when it had ended before, or by now is another attempt's."""
    statement = (
        sa.update(operations)
        .where(
            operations.c.id == operation_id,
            operations.c.attempts == attempt,
            operations.c.state.in_(LIVE),
        )
        .values(state=state, error=error, finished_at=now())
    )
    return connection.execute(statement).rowcount == 1


def set_progress(connection: sa.Connection, operation_id: str, done: int, total: int) -> None:
    """Note how far long work has come, in bytes."""
    connection.execute(
        sa.update(operations)
        .where(operations.c.id == operation_id, operations.c.state == "running")
        .values(progress_done=done, progress_total=total)
    )


def request_cancel(connection: sa.Connection, operation_id: str) -> bool:
    """Ask a live operation to stop; it does so at its next safe point, or completes."""
    statement = (
        sa.update(operations)
        .where(operations.c.id == operation_id, operations.c.state.in_(LIVE))
        .values(cancel_requested=True)
    )
    return connection.execute(statement).rowcount == 1


def cancel_requested(connection: sa.Connection, operation_id: str) -> bool:
    """Say whether an operation was asked to stop."""
    statement = sa.select(operations.c.cancel_requested).where(operations.c.id == operation_id)
    return bool(connection.execute(statement).scalar())


def live(connection: sa.Connection, *, executor: str | None = None) -> list[Row]:
    """Return every queued and running operation, or those that one executor runs."""
    statement = sa.select(operations).where(operations.c.state.in_(LIVE))
    if executor is not None:
        statement = statement.where(operations.c.executor == executor, operations.c.state == "running")
    return list(connection.execute(statement.order_by(operations.c.id)))


def busy_executors(connection: sa.Connection) -> set[str]:
    """Return the executors that running operations belong to."""
    statement = sa.select(operations.c.executor).where(operations.c.state == "running").distinct()
    return {name for name in connection.execute(statement).scalars() if name}


def add_message(connection: sa.Connection, operation: Row, text: str, ttl_s: int, event: str) -> None:
    """Tell the owner of an operation's resource why it failed (API `messages`)."""
    connection.execute(
        sa.insert(messages).values(
            id=new_id(),
            project_id=operation.project_id,
            request_id=operation.request_id,
            event_id=event,
            user_message=text,
            message_level="ERROR",
            resource_type=f"VOLUME_{operation.resource_type.upper()}"
            if operation.resource_type == "snapshot"
            else operation.resource_type.upper(),
            resource_uuid=operation.resource_id,
            created_at=now(),
            expires_at=later(ttl_s),
        )
    )


def prune(connection: sa.Connection, finished_before: str) -> int:
    """Forget operations that ended before a time, and messages that expired; return how many."""
    gone = connection.execute(sa.delete(operations).where(operations.c.finished_at < finished_before))
    connection.execute(sa.delete(messages).where(messages.c.expires_at < now()))
    return gone.rowcount
