"""Volumes in a directory's pool, and processes that serve them."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from breezeblock.errors import BreezeblockError
from breezeblock.objects import serving
from breezeblock.objects.log import volumes
from breezeblock.objects.stores.opening import StoreConfig, make_pool, open_store
from breezeblock.objects.stores.port import Store

MIB = 1 << 20
VOLUME = "5e" * 16
_T = TypeVar("_T")


@dataclass
class Lab:
    directory: Path
    config: StoreConfig

    def task(self, **more: Any) -> serving.Task:
        return serving.Task(
            **{
                "store": self.config,
                "volume": VOLUME,
                "socket": self.directory / "sock",
                "journal": self.directory / "journal",
                **more,
            }
        )

    def store(self, use: Callable[[Store], Awaitable[_T]]) -> _T:
        async def run() -> _T:
            store = await open_store(self.config)
            try:
                return await use(store)
            finally:
                await store.close()

        return asyncio.run(run())

    def view(self) -> serving.View:
        found = serving.running(self.directory / "sock")
        assert found is not None
        return found

    def ask(self, request: Any, **more: Any) -> serving.Answer:
        return serving.call(self.directory / "sock", request, **more)

    @property
    def uri(self) -> str:
        return f"nbd+unix:///{VOLUME}?socket={self.directory / 'sock'}"


def lab_at(directory: Path, length: int = 64 * MIB) -> Lab:
    (directory / "pool").mkdir()
    config = StoreConfig(kind="directory", urls=[str(directory / "pool")])
    identity = asyncio.run(make_pool(config))
    lab = Lab(directory, msgspec.structs.replace(config, pool=identity.uuid))
    lab.store(lambda store: volumes.create(store, VOLUME, length))
    return lab


@contextmanager
def attached(lab: Lab, **more: Any) -> Iterator[int]:
    """Serve the volume; whatever is left of the process at the end is killed."""
    keeper = serving.start(lab.task(**more), timeout_s=30)
    try:
        yield keeper
    finally:
        if gone(keeper, 0) is None:
            os.kill(keeper, signal.SIGKILL)
            gone(keeper)


def gone(process: int, wait_s: float = 30) -> int | None:
    """Return the exit code of our child, None while it runs."""
    until = time.monotonic() + wait_s
    while True:
        try:
            found, status = os.waitpid(process, os.WNOHANG)
        except ChildProcessError:
            return 0
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(0.01)


def eventually(look: Callable[[], bool], wait_s: float = 20) -> None:
    """Wait until something is so; the time bounds only a failure."""
    until = time.monotonic() + wait_s
    while time.monotonic() < until:
        try:
            if look():
                return
        except BreezeblockError:
            pass
        time.sleep(0.01)
    raise AssertionError("it did not come to be")
