"""Small volumes of the layout *log* for tests of collections."""

from log_lab import PAGE, soon

from breezeblock.objects.log import volumes
from breezeblock.objects.log.device import LogDevice
from breezeblock.objects.stores.port import Store

LENGTH = 64 * PAGE
ONE, TWO = "1" * 32, "2" * 32
QUIET = volumes.Memory(age_s=3600)


async def made(store: Store) -> LogDevice:
    """Make the first volume, and attach it."""
    await volumes.create(store, ONE, LENGTH)
    return await volumes.attach(store, ONE, memory=QUIET)


async def write(device: LogDevice, first: int, count: int, mark: bytes) -> None:
    """Write pages, and see them in the store."""
    await soon(device.write(first * PAGE, memoryview(mark * (count * PAGE))))
    await device.writer.barrier()
