"""What wraps every back end: one concern a file, each of the back end's own shape."""

from prometheus_client import REGISTRY, CollectorRegistry

from breezeblock.backends.contract import Backend
from breezeblock.backends.copying import with_copies
from breezeblock.backends.decorators.concurrency import limit_concurrency
from breezeblock.backends.decorators.deadline import add_deadline
from breezeblock.backends.decorators.metrics import add_metrics
from breezeblock.backends.decorators.retry import add_retry


def wrap(
    backend: Backend,
    *,
    concurrency: int = 8,
    deadline_seconds: float = 60.0,
    tries: int = 3,
    registry: CollectorRegistry = REGISTRY,
) -> Backend:
    """Return `backend` as the service uses it.

    From the inside out: missing verbs by copying; a limit on changing verbs at once; a deadline on
    reading ones; retries, outside the limit so that waiting for the next try takes no slot; metrics,
    outermost so that they show what callers saw.
    """
    wrapped = with_copies(backend)
    wrapped = limit_concurrency(wrapped, at_once=concurrency)
    wrapped = add_deadline(wrapped, seconds=deadline_seconds)
    wrapped = add_retry(wrapped, tries=tries)
    return add_metrics(wrapped, registry=registry)


__all__ = ["add_deadline", "add_metrics", "add_retry", "limit_concurrency", "wrap"]
