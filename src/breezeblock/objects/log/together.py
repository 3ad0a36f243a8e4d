"""Much work, so many at a time."""

import asyncio
from collections.abc import Awaitable, Iterable


async def each(work: Iterable[Awaitable[object]], at_once: int) -> None:
    """Do all; the first error gives up what is under way, and is raised. What was not begun is not taken."""
    left = iter(work)

    async def some() -> None:
        for one in left:
            await one

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(some())
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from several
