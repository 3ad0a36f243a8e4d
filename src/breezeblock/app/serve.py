"""`breezeblock serve`: the API, the worker, or both in one process, until SIGTERM."""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Literal

import structlog
import uvicorn
import uvloop
from prometheus_client import REGISTRY

from breezeblock.app import gateway, health
from breezeblock.app.compose import make_service, open_backends, open_database
from breezeblock.app.notify import keep_alive, notify
from breezeblock.app.served_metrics import Served
from breezeblock.app.worker import Worker
from breezeblock.catalog import heartbeats
from breezeblock.catalog.database import Database
from breezeblock.config import Config
from breezeblock.observe import configure_logging

Role = Literal["all", "api", "worker"]

HEARTBEAT_S = 10.0
LEASE_LOST = 75  # EX_TEMPFAIL: the service manager starts us again

log = structlog.get_logger(__name__)


def serve(config: Config, role: Role = "all", ready: Callable[[], None] | None = None) -> None:
    """Run until SIGTERM or SIGINT; `ready` is called once requests are answered."""
    configure_logging(config.logging.level, config.logging.format)
    signal.signal(signal.SIGTERM, _leave_early)
    database = open_database(config)
    stopping = threading.Event()
    worker = None
    if role != "api":
        gateway.start(config)  # it ends with the process: volumes in use may need it until then
        worker = _make_worker(config, database, alone=role == "all")
        worker.start(lost=_fence)
    binaries = {"all": ("breezeblock-api", "breezeblock-worker")}.get(role, (f"breezeblock-{role}",))
    _heartbeats(config, database, binaries, stopping)
    keep_alive(stopping)

    def announce() -> None:
        notify("READY=1")
        log.info("service.ready", role=role, host=config.api.host, port=config.api.port)
        if ready is not None:
            ready()

    status = 1
    try:
        if role == "worker":
            _wait_for_signal(announce)
        else:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_serve_http(config, database, worker, announce))
        status = 0
    except Exception:
        log.exception("service.failed")
        raise
    finally:
        notify("STOPPING=1")
        stopping.set()
        if worker is not None:
            worker.stop(config.engine.stop_timeout_s)
        database.dispose()
        log.info("service.stopped", status=status)
        if worker is not None:
            # Threads that are still at work would hold the process for as long as their storage hangs.
            # What they do is idempotent and recorded: it goes on at the next start.
            os._exit(status)


async def _serve_http(
    config: Config, database: Database, worker: Worker | None, announce: Callable[[], None]
) -> None:
    from breezeblock.api import ApiSettings, create_app
    from breezeblock.identity import make_authenticator

    service = make_service(config, database, worker.dispatcher.wake if worker else _nobody)
    settings = ApiSettings(
        public_url=config.api.public_url or None,
        max_body_bytes=config.api.max_body_bytes,
        max_limit=config.api.max_limit,
    )
    REGISTRY.register(Served(config))
    authenticator = make_authenticator(database, config.auth.mode, config.auth.token_ttl_s)
    app = create_app(service, authenticator, settings=settings, extra_routes=health.routes(database))
    server = _Server(
        uvicorn.Config(
            app,
            host=config.api.host,
            port=config.api.port,
            http="httptools",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # links come from api.public_url, never from what a client says
            timeout_graceful_shutdown=5,
        ),
        announce,
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.leave)
    await server.serve()
    if not server.started:
        raise SystemExit(1)  # uvicorn has logged that the address is in use


class _Server(uvicorn.Server):
    """uvicorn, with the signals left to us: it would end the process with the one it got."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def leave(self) -> None:
        """Stop accepting, finish what is being answered, return from `serve`."""
        self.should_exit = True

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            self._announce()


def _make_worker(config: Config, database: Database, *, alone: bool) -> Worker:
    from breezeblock.engine.dbos_engine import DbosEngine

    backends, policies = open_backends(config)
    return Worker(config, database, backends, policies, DbosEngine, alone=alone)


def _heartbeats(
    config: Config, database: Database, binaries: tuple[str, ...], stopping: threading.Event
) -> None:
    def beat() -> None:
        while True:
            try:
                with database.write() as connection:
                    for binary in binaries:
                        heartbeats.beat(
                            connection, config.executor_id, binary, config.service.availability_zone
                        )
            except Exception:
                log.exception("heartbeat.failed")
            if stopping.wait(HEARTBEAT_S):
                return

    threading.Thread(target=beat, name="heartbeat", daemon=True).start()


def _leave_early(_number: int, _frame: object) -> None:
    """End while we start; nothing has been promised yet."""
    raise SystemExit(0)


def _wait_for_signal(announce: Callable[[], None]) -> None:
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    announce()
    signal.sigwait(signals)


def _fence() -> None:
    """Die at once: another worker may already have our lease, and with it our operations."""
    os._exit(LEASE_LOST)


def _nobody() -> None:
    """Wake nobody: the workers are other processes, and poll."""
