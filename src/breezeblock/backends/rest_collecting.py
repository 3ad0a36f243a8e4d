"""Giving back, now and then, what no volume of a pool and no snapshot names any more."""

import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import structlog

from breezeblock.backends.rest_pools import Pools
from breezeblock.backends.rest_served import asked
from breezeblock.errors import BreezeblockError, ConflictError
from breezeblock.objects import serving
from breezeblock.objects.log import volumes
from breezeblock.objects.log.collecting import collect
from breezeblock.objects.log.compacting import compact
from breezeblock.objects.stores.port import Store

_log = structlog.get_logger(__name__)

COMPACTED = 256
"""Segments of a pool that are compacted after each collection: at most 256 MiB are written anew."""
_COMPACT_S = 600.0


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
        """Collect one pool now; what cannot be done now is done another time. Only the log needs it."""
        if self._pools.config.pools[pool].layout != "log":
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
        self._compact(pool, done.sparse)

    def _compact(self, pool: str, sparse: Mapping[str, list[int]]) -> None:
        """Have the last live pages of sparse segments written anew, as far as the budget goes.

        A volume that this host serves does it itself; one that somebody else may have is left alone.
        """
        left = COMPACTED
        for volume, every in sparse.items():
            segments = every[:left]
            if not segments or self._ending.is_set():
                return
            try:
                socket = Path(self._pools.config.run_dir, volume)
                if not asked(socket, serving.Compact(segments), timeout_s=_COMPACT_S):
                    self._pools.run(pool, partial(_at_rest, volume=volume, segments=segments))
            except ConflictError:
                continue
            except BreezeblockError as error:
                _log.warning("compact.failed", pool=pool, volume=volume, error=str(error))
                continue
            left -= len(segments)
            _log.info("compact.done", pool=pool, volume=volume, segments=len(segments))


async def _at_rest(store: Store, volume: str, segments: list[int]) -> None:
    """Compact a volume that nobody has. Whoever attaches it meanwhile gets it. Raises ConflictError."""
    device = await volumes.attach(store, volume, at_rest=True)
    try:
        await compact(device, segments)
    finally:
        await device.close()
