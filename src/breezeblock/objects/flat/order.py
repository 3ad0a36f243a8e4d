"""Overlapping changes take effect in the order in which they were asked for; all others side by side."""

import asyncio
from collections.abc import Awaitable, Callable


class Order:
    """Changes on their way."""

    def __init__(self) -> None:
        self._going: dict[asyncio.Task[None], tuple[int, int]] = {}

    def behind(self, first: int, length: int, work: Callable[[], Awaitable[None]]) -> "asyncio.Task[None]":
        """Begin to change bytes as soon as all earlier changes to them have ended, well or not."""
        end = first + length
        before = [task for task, (start, stop) in self._going.items() if start < end and first < stop]
        task = asyncio.ensure_future(_after(before, work))
        self._going[task] = (first, end)
        task.add_done_callback(self._going.pop)
        return task

    async def idle(self) -> None:
        """Return when all that were asked for have ended."""
        if self._going:
            await asyncio.wait(list(self._going))


async def _after(before: "list[asyncio.Task[None]]", work: Callable[[], Awaitable[None]]) -> None:
    if before:
        await asyncio.wait(before)
    await work()
