"""The worker: the part of the process that touches storage."""

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

import msgspec
import structlog

from breezeblock.app.compose import image_policy
from breezeblock.backends.contract import Backend
from breezeblock.catalog import invariants, operations, pools
from breezeblock.catalog.clock import later
from breezeblock.catalog.database import Database
from breezeblock.catalog.image_cache import Limits
from breezeblock.config import Config, PoolPolicy
from breezeblock.engine.dispatcher import Dispatcher
from breezeblock.engine.lease import Lease
from breezeblock.engine.port import Engine, Steps
from breezeblock.errors import BreezeblockError
from breezeblock.operations import imaging
from breezeblock.operations.job import Environment
from breezeblock.operations.run import execute, give_up
from breezeblock.operations.table import VERBS
from breezeblock.service import layers

FIRST_LOOK_S, FIRST_LOOK_EVER_S = 1.0, 5.0
"""How long the start waits for slow storage to be looked at; later it is looked at anyway."""
LEASE_WAIT_S = 5.0
KEEP_WORKFLOWS_S = 3600
RECOVER_INTERVAL_S = 10.0
DOWN_INTERVAL_S = 2.0
"""How often a back end is looked at while one of its pools is down."""

log = structlog.get_logger(__name__)


class Worker:
    """Back ends, engine and dispatcher of one executor, and what they do regularly."""

    def __init__(
        self,
        config: Config,
        database: Database,
        backends: Mapping[str, Backend],
        policies: Mapping[str, PoolPolicy],
        make_engine: Callable[[Database, str, int, Callable[[str, int, Steps], None]], Engine],
        *,
        alone: bool,
    ) -> None:
        self._config = config
        self._database = database
        self._backends = backends
        self._policies = policies
        self._executor_id = config.executor_id
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._down: dict[str, set[str]] = {name: set() for name in backends}
        """The pools that were down when last looked at."""
        self._look_soon = {name: threading.Event() for name in backends}
        self.lease = Lease(database, self._executor_id)
        self._environment = Environment(
            database=database,
            backends=backends,
            message_ttl_s=config.engine.keep_finished_days * 86400,
            images=image_policy(config),
            image_cache=lambda name: Limits(
                images=policies[name].image_cache_images, virtual_bytes=policies[name].image_cache_bytes
            ),
            patient=frozenset(name for name, policy in policies.items() if policy.when_down == "wait"),
            look=self.look,
        )
        # A place more than the dispatcher fills: recovered work has to fit beside new work.
        threads = config.engine.concurrency * 2
        self._engine = make_engine(database, self._executor_id, threads, self._execute)
        self.dispatcher = Dispatcher(
            database,
            self._engine,
            self._executor_id,
            backends,
            partial(give_up, self._environment, VERBS),
            concurrency=config.engine.concurrency,
            # Where everything is in one process, waking suffices and polling only guards against bugs.
            poll_interval_s=max(config.engine.poll_interval_s, 5.0)
            if alone
            else config.engine.poll_interval_s,
            patient=self._environment.patient,
            most_of_a_pool=max(1, config.engine.concurrency * 3 // 4),
        )

    def start(self, lost: Callable[[], None]) -> None:
        """Take the lease, look at the storage, go on with what was left, and begin to work."""
        self.lease.acquire(LEASE_WAIT_S)
        self.lease.watch(lost)
        live = self._live_operations()
        imaging.sweep(self._environment.images, live)
        looks = [self._thread(f"stats-{name}", self._watch_storage, name, live) for name in self._backends]
        begun = time.monotonic()
        with self._database.read() as connection:
            known = {pool.backend for pool in pools.all_pools(connection)}
        for name, look in zip(self._backends, looks, strict=True):
            # Who was never seen has no pools at all for the first request that comes.
            limit_s = FIRST_LOOK_S if name in known else FIRST_LOOK_EVER_S
            look.wait(max(0.0, begun + limit_s - time.monotonic()))
        self._forget_old_pools()
        self._engine.launch()
        self.dispatcher.recover()
        self._check_invariants()
        self.dispatcher.start()
        self._thread("housekeeping", self._keep_house)

    def stop(self, timeout_s: float) -> None:
        """Claim nothing more, give running operations `timeout_s`, then leave the rest resumable."""
        self._stopping.set()
        for watching in self._look_soon.values():
            watching.set()
        self.dispatcher.stop()
        end = time.monotonic() + timeout_s
        while not self.dispatcher.idle() and time.monotonic() < end:
            time.sleep(0.02)
        if not self.dispatcher.idle():
            log.warning("worker.leaves_work", reason="it resumes at the next start")
        for backend in self._backends.values():
            backend.stop()

    def close(self) -> None:
        """After `stop`, let the process go on without us: a process that ends need not wait for this."""
        self._engine.shutdown(0)
        self.lease.release()

    def look(self, name: str) -> None:
        """Look at a back end's pools and write down what was seen."""
        backend = self._backends[name]
        common = backend.capabilities()
        policy = self._policies[name]
        seen = backend.stats()
        with self._database.write() as connection:
            for pool in seen:
                pools.report(
                    connection,
                    name,
                    pool.name,
                    {
                        "host": self._executor_id,
                        "total_bytes": pool.total_bytes,
                        "free_bytes": pool.free_bytes,
                        "up": pool.up,
                        "reason": pool.reason,
                        "reserved_percentage": policy.reserved_percentage,
                        "max_over_subscription_ratio": policy.max_over_subscription_ratio,
                        "used_ratio": policy.used_ratio,
                        "max_chain_depth": policy.max_chain_depth,
                        "capabilities": msgspec.json.encode(
                            msgspec.structs.replace(
                                pool.capabilities or common, only_by_type=policy.only_by_type
                            )
                        ).decode(),
                        "health": msgspec.json.encode(pool.health).decode(),
                    },
                )
        was_down, self._down[name] = self._down[name], {pool.name for pool in seen if not pool.up}
        for pool in seen:
            if not pool.up and pool.name not in was_down:
                log.warning("pool.down", backend=name, pool=pool.name, reason=pool.reason)
            elif pool.up and pool.name in was_down:
                log.info("pool.up", backend=name, pool=pool.name)
        if was_down:
            self.dispatcher.wake()  # what waited for a pool may go on
        elif self._down[name]:
            self._look_soon[name].set()  # the watching thread may be in the middle of a long pause

    def _execute(self, operation_id: str, attempt: int, steps: Steps) -> None:
        try:
            execute(self._environment, VERBS, self._executor_id, operation_id, attempt, steps)
        finally:
            self.dispatcher.ended(operation_id)

    def _thread(self, name: str, target: Callable[..., None], *arguments: object) -> threading.Event:
        first_round = threading.Event()
        thread = threading.Thread(target=target, args=(*arguments, first_round), name=name, daemon=True)
        thread.start()
        self._threads.append(thread)
        return first_round

    def _watch_storage(self, name: str, live: frozenset[str], first_round: threading.Event) -> None:
        """One thread for each back end: slow storage delays no other."""
        backend = self._backends[name]
        try:
            backend.start()
            for temporary in backend.sweep(live):
                log.info("storage.swept", backend=name, name=temporary)
        except BreezeblockError as error:
            log.warning("storage.start_failed", backend=name, error=str(error))
        except Exception:  # its pools are looked at all the same
            log.exception("storage.start_failed", backend=name)
        while True:
            try:
                self.look(name)
            except BreezeblockError as error:
                log.warning("storage.look_failed", backend=name, error=str(error))
            except Exception:
                log.exception("storage.look_failed", backend=name)
            first_round.set()
            interval_s = self._config.engine.stats_interval_s
            pause_s = min(interval_s, DOWN_INTERVAL_S) if self._down[name] else interval_s
            if self._look_soon[name].wait(pause_s):
                self._look_soon[name].clear()
            if self._stopping.is_set():
                return

    def _keep_house(self, first_round: threading.Event) -> None:
        first_round.set()
        rounds = 0
        while not self._stopping.wait(RECOVER_INTERVAL_S):
            try:
                self.dispatcher.recover()
                self._take_over_from_the_dead()
                self._shorten_chains()
                if rounds % 360 == 0:
                    self._prune()
                rounds += 1
            except Exception:
                log.exception("housekeeping.failed")

    def _take_over_from_the_dead(self) -> None:
        """Requeue the operations of executors whose lease is free: nobody is at work on them.

        Attempts are fenced: should that executor come back, its old executions find that they have
        been replaced.
        """
        with self._database.read() as connection:
            others = operations.busy_executors(connection) - {self._executor_id}
        for executor in others:
            lease = Lease(self._database, executor)
            if not lease.try_acquire():
                continue
            try:
                with self._database.write() as connection:
                    for row in operations.live(connection, executor=executor):
                        operations.requeue(connection, row.id, row.attempts)
                log.warning("executor.dead", executor=executor)
            finally:
                lease.release()
            self.dispatcher.wake()

    def _shorten_chains(self) -> None:
        budgets = {name: policy.background_bytes_per_s for name, policy in self._policies.items()}
        with self._database.write() as connection:
            queued = layers.shorten_due(connection, budgets, limit=1)
        if queued:
            self.dispatcher.wake()

    def _check_invariants(self) -> None:
        with self._database.write() as connection:
            for orphan in invariants.mend_orphans(connection):
                log.error("row.without_operation", resource=orphan.resource, id=orphan.id, was=orphan.status)

    def _forget_old_pools(self) -> None:
        with self._database.write() as connection:
            pools.forget_unconfigured(connection, self._executor_id, set(self._backends))

    def _live_operations(self) -> frozenset[str]:
        with self._database.read() as connection:
            return frozenset(row.id for row in operations.live(connection))

    def _prune(self) -> None:
        self._engine.forget(KEEP_WORKFLOWS_S)
        with self._database.write() as connection:
            operations.prune(connection, later(-86400 * self._config.engine.keep_finished_days))
