"""Operations run one at a time without an engine: killed before any line, then run again from the start."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from breezeblock import config as configuration
from breezeblock.app import compose
from breezeblock.catalog import operations
from breezeblock.catalog.database import Database
from breezeblock.catalog.image_cache import Limits
from breezeblock.engine.port import Json
from breezeblock.operations.job import Environment
from breezeblock.operations.run import execute
from breezeblock.operations.table import VERBS
from breezeblock.service.core import Service

NO_IMAGES = Limits()


class OneByOne:
    """No step is remembered: harder than any engine."""

    def step(self, _name: str, work: Callable[[], Json]) -> Json:
        return work()


@dataclass(frozen=True)
class Place:
    """A catalog and a pool of one's own."""

    config: configuration.Config
    image_cache: Limits = NO_IMAGES

    @property
    def pool(self) -> Path:
        return Path(self.config.backends["local"]["path"])

    @property
    def catalog(self) -> Path:
        return Path(self.config.database.url.removeprefix("sqlite:///"))

    def copy(self, to: Path) -> "Place":
        """Return a copy of both at another place; nobody may have them open."""
        to.mkdir()
        shutil.copy(self.catalog, to / "catalog.db")
        subprocess.run(["cp", "-a", "--sparse=always", self.pool, to / "pool"], check=True)
        (to / "out").mkdir()
        section = {**self.config.backends["local"], "path": str(to / "pool")}
        images = configuration.ImagesSection(
            schemes=("file", "http"),
            private_addresses=True,
            directories=(str(to / "out"),),
            scratch_dir=str(to / "scratch"),
        )
        return Place(
            msgspec.structs.replace(
                self.config,
                database=configuration.DatabaseSection(url=f"sqlite:///{to / 'catalog.db'}"),
                backends={"local": section},
                images=images,
            ),
            self.image_cache,
        )

    @property
    def out(self) -> Path:
        return self.catalog.parent / "out"

    @property
    def scratch(self) -> list[str]:
        directory = self.catalog.parent / "scratch"
        return sorted(path.name for path in directory.iterdir()) if directory.exists() else []

    def promise(self, ask: Callable[[Service], str]) -> str:
        """Let the service promise something; nobody works on it yet."""
        database = Database(self.config.database.url)
        try:
            return ask(compose.make_service(self.config, database, lambda: None))
        finally:
            database.dispose()

    def work(self, *, cancel: bool = False) -> None:
        """Do what is promised, also what a killed process had begun; with `cancel` only as asked."""
        database = Database(self.config.database.url)
        backends, _policies = compose.open_backends(self.config)
        try:
            for backend in backends.values():
                backend.start()
            environment = Environment(
                database,
                backends,
                3600,
                images=compose.image_policy(self.config),
                image_cache=lambda _backend: self.image_cache,
            )
            with database.write() as connection:
                for row in operations.live(connection):
                    if cancel:
                        operations.request_cancel(connection, row.id)
                    if row.state == "running":
                        operations.requeue(connection, row.id, row.attempts)
            while True:
                with database.write() as connection:
                    claimed = operations.claim(connection, "test", backends, 1)
                if not claimed:
                    return
                execute(environment, VERBS, "test", *claimed[0], OneByOne())
                for backend in backends.values():
                    backend.sweep(frozenset())  # as the next worker does when it starts
        finally:
            for backend in backends.values():
                backend.stop()
            database.dispose()
