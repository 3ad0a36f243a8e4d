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
        self.born = 0.0
        """When the first of it was written."""

    def add(self, extent: form.Extent) -> None:
        """Take notice of an extent."""
        if not self.extents:
            self.born = time.monotonic()
        form.add_extent(self.extents, extent)

    def page(self, index: int, count: int = 1) -> memoryview:
        """Return the room of pages."""
        begin = index * form.PAGE
        return self._view[begin : begin + count * form.PAGE]

    def head(self, volume: str, epoch: int, chunks: tuple[int, ...]) -> form.Segment:
        """Return what is stored before the pages; `chunks` are their bytes where they are compressed."""
        return form.Segment(
            volume=volume,
            number=self.number,
            epoch=epoch,
            length=self.length,
            last=self.last,
            resume=self.number + 1,
            pages=self.pages,
            extents=self.extents,
            sums=form.sums(self.page(0, self.pages)),
            chunks=chunks,
            ends=self.ends,
        )

    def body(self, head: bytes) -> memoryview:
        """Return what is stored: the head before the pages, where there is room for it."""
        self._object[: form.HEAD_BYTES] = head
        return self._object[: form.HEAD_BYTES + self.pages * form.PAGE]
