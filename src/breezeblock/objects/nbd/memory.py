"""A device in memory: for tests and benchmarks."""

from breezeblock.objects.nbd.device import DATA, HOLE, Data, Extent, Soon

_PAGE_BYTES = 1 << 16


class MemoryDevice:
    """So many zeros until they are written to."""

    minimum_bytes = 1
    preferred_bytes = 4096
    read_only = False

    def __init__(self, length: int) -> None:
        self.length = length
        self._memory = bytearray(length)
        self._view = memoryview(self._memory)
        self._written = bytearray(-(-length // _PAGE_BYTES))

    def grow(self, length: int) -> None:
        """Become `length` bytes long, at least as long as before."""
        if length > self.length:
            memory = bytearray(length)  # a bytearray that has views cannot be made longer
            memory[: self.length] = self._memory
            self._memory, self._view = memory, memoryview(memory)
            self._written.extend(bytes(-(-length // _PAGE_BYTES) - len(self._written)))
            self.length = length

    def read(self, offset: int, length: int) -> Soon[Data | list[Data]]:
        """Return a view."""
        return self._view[offset : offset + length]

    def write(self, offset: int, data: memoryview, *, fua: bool = False) -> Soon[None]:  # noqa: ARG002
        """Copy the data."""
        end = offset + len(data)
        self._view[offset:end] = data
        for page in range(offset // _PAGE_BYTES, (end - 1) // _PAGE_BYTES + 1):
            self._written[page] = 1
        return None

    def flush(self) -> Soon[None]:
        """Do nothing: memory is as safe as it gets."""
        return None

    def trim(self, offset: int, length: int, *, fua: bool = False) -> Soon[None]:  # noqa: ARG002
        """Zero the bytes and forget the pages that lie wholly inside."""
        self._view[offset : offset + length] = bytes(length)
        whole = range(-(-offset // _PAGE_BYTES), (offset + length) // _PAGE_BYTES)
        for page in whole:
            self._written[page] = 0
        return None

    def zero(
        self, offset: int, length: int, *, fua: bool = False, may_trim: bool = True, fast: bool = False
    ) -> Soon[None]:
        """Zero the bytes."""
        del fast  # it always is
        if may_trim:
            return self.trim(offset, length, fua=fua)
        return self.write(offset, memoryview(bytes(length)), fua=fua)

    def cache(self, offset: int, length: int) -> None:
        """Do nothing."""

    def extents(self, offset: int, length: int, limit: int) -> list[Extent]:
        """Tell which pages were ever written to."""
        found: list[Extent] = []
        end = min(offset + length, self.length)
        while offset < end and len(found) < limit:
            state = self._written[offset // _PAGE_BYTES]
            last = self._written.find(1 - state, offset // _PAGE_BYTES)
            border = min(end, last * _PAGE_BYTES if last >= 0 else end)
            found.append(Extent(border - offset, DATA if state else HOLE))
            offset = border
        return found

    async def close(self) -> None:
        """Do nothing."""
