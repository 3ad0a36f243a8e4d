"""A segment in memory: the pages of writes, until they are in the store."""

import time

from breezeblock.objects.log import format as form


class Gathering:
    """A segment that is still being filled, or on its way."""

    def __init__(self, number: int, last: int) -> None:
        self.number, self.last = number, last
        self.length = 0
        self._view = memoryview(bytearray(form.SEGMENT_PAGES * form.PAGE))
        self.pages = 0
        self.extents: list[form.Extent] = []
        self.ends = False
        self.born = time.monotonic()
        """When the first of it came, if there is any."""

    def page(self, index: int, count: int = 1) -> memoryview:
        """Return the room of pages."""
        begin = index * form.PAGE
        return self._view[begin : begin + count * form.PAGE]
