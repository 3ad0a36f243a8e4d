"""Giving back, now and then, what no volume of a pool and no snapshot names any more."""

import threading

import structlog

from breezeblock.backends.rest_pools import Pools
from breezeblock.errors import BreezeblockError
from breezeblock.objects.log.collecting import collect

_log = structlog.get_logger(__name__)


class Collector:
    """A thread that collects every pool in turn. Several hosts may do so: one at a time gets its way."""

    def __init__(self, backend: str, pools: Pools) -> None:
        self._backend, self._pools = backend, pools
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, the first time after the interval: who only looks at a back end does not stay that long."""
        if self._pools.config.collect_interval_s and self._thread is None:
            self._ending.clear()
            self._thread = threading.Thread(target=self._run, name=f"collect-{self._backend}", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End; a collection that is at work is left to itself, as it may be killed anywhere."""
        self._ending.set()
        self._thread = None

    def _run(self) -> None:
        while not self._ending.wait(self._pools.config.collect_interval_s):
            for pool in self._pools.config.pools:
                self.collect(pool)

    def collect(self, pool: str) -> None:
        """Collect one pool now; what cannot be done now is done another time. Flat pools need none."""
        if self._pools.config.pools[pool].layout == "flat":
            return
        try:
            done = self._pools.run(pool, collect)
        except BreezeblockError as error:
            _log.warning("collect.failed", backend=self._backend, pool=pool, error=str(error))
            return
        except Exception:  # noqa: BLE001 - the thread goes on: other pools have room to give back
            _log.exception("collect.failed", backend=self._backend, pool=pool)
            return
        _log.info(
            "collect.done",
            backend=self._backend,
            pool=pool,
            removed=done.removed,
            removed_bytes=done.removed_bytes,
            waiting=done.waiting,
            live_bytes=done.live_bytes,
        )
