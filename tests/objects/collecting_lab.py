"""Small volumes of the layout *log* for tests of collections."""

from log_lab import PAGE, soon

from breezeblock.objects.log import volumes
from breezeblock.objects.log.device import LogDevice

LENGTH = 64 * PAGE
ONE, TWO = "1" * 32, "2" * 32
QUIET = volumes.Memory(age_s=3600)


async def write(device: LogDevice, first: int, count: int, mark: bytes) -> None:
    """Write pages, and see them in the store."""
    await soon(device.write(first * PAGE, memoryview(mark * (count * PAGE))))
    await device.writer.barrier()
