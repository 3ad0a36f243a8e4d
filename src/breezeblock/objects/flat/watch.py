"""Looking again and again whether what a device rests on is still so."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from breezeblock.errors import BreezeblockError, ConflictError

log = structlog.get_logger()

CHECK_S = 5.0


async def lost(check: Callable[[], Awaitable[None]]) -> ConflictError:
    """Return what `check` raises when it is so no more."""
    while True:
        await asyncio.sleep(CHECK_S)
        try:
            await check()
        except ConflictError as error:
            return error
        except BreezeblockError:
            continue  # without the store, nothing can be read or written either
        except Exception:
            # Who looks no more never hears that the volume was lost.
            log.exception("flat.watch_failed")
