"""A segment in memory: the pages of writes, until they are in the store."""

import time

from breezeblock.objects.log import format as form


class Gathering:
    """A segment that is still being filled, or on its way."""

    def __init__(self, number: int, last: int) -> None:
        self.number, self.last = number, last
        self.length = 0
        self._object = memoryview(bytearray(form.HEAD_BYTES + form.SEGMENT_PAGES * form.PAGE))
        self._view = self._object[form.HEAD_BYTES :]
        self.pages = 0
        self.extents: list[form.Extent] = []
        self.ends = False
        self.born = time.monotonic()

    def page(self, index: int, count: int = 1) -> memoryview:
        """Return the room of pages."""
        begin = index * form.PAGE
        return self._view[begin : begin + count * form.PAGE]

    def body(self, head: bytes) -> memoryview:
        """Return what is stored: the head before the pages, where there is room for it."""
        self._object[: form.HEAD_BYTES] = head
        return self._object[: form.HEAD_BYTES + self.pages * form.PAGE]
