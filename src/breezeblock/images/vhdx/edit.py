"""Changing metadata: every change goes through the log ([MS-VHDX] 2.3, offline).

An edit is published by one log entry: the entry is written and flushed while no header knows of it, then
the headers name it, then its pages are applied, then the headers forget it; a flush after each. Until the
headers name the entry the file is as it was; from then on it is as the entry says, for a reader that
replays logs, and readers that cannot do that see by the header that they must not read.
"""

from uuid import UUID, uuid4

from msgspec.structs import replace

from breezeblock.images.layer import corrupt
from breezeblock.images.vhdx import header, image, log
from breezeblock.images.vhdx.image import Image
from breezeblock.images.vhdx.layout import MAX_FILE_BYTES, NIL, PAGE, TIB
from breezeblock.images.vhdx.view import View


def replay(opened: Image) -> Image:
    """Do what the log still wants done, durably; return the image as it is then. Safe to repeat."""
    pending = opened.view.replay
    if pending is None:
        return opened
    file = opened.file
    if file.size() < pending.file_bytes:
        file.truncate(pending.file_bytes)
    changes: list[tuple[int, int, bytes | int]] = [
        (zeros.order, zeros.start, zeros.end - zeros.start) for zeros in pending.zeros
    ]
    changes += [(order, offset, page) for offset, (order, page) in pending.pages.items()]
    for _, offset, change in sorted(changes, key=lambda item: item[0]):
        if isinstance(change, int):
            file.zero(offset, change)
        else:
            file.write(offset, change)
    file.flush()
    header.update(file, opened.header, log=NIL)
    return image.load(file)


class Edit:
    """An image that is being changed by this process alone."""

    def __init__(self, opened: Image) -> None:
        self.image = replay(opened)
        self._file_announced = False
        self._data_announced = False

    def announce(self, *, data: bool) -> None:
        """Give the file the new GUIDs it must have before it first changes (2.2.2, FileWriteGuid)."""
        if self._file_announced and (self._data_announced or not data):
            return
        self._set_header(data_write=uuid4() if data and not self._data_announced else None)
        self._data_announced = self._data_announced or data

    def keep_data_guid(self, guid: UUID) -> None:
        """Give the image this DataWriteGuid, and no other because of changes that follow."""
        if self.image.header.data_write != guid or not self._file_announced:
            self._set_header(data_write=guid)
        self._data_announced = True

    def _set_header(self, *, data_write: UUID | None) -> None:
        new = header.update(self.image.file, self.image.header, data_write=data_write, new_file_write=True)
        self.image = replace(self.image, header=new)
        self._file_announced = True

    def patched(self, changes: dict[int, bytes]) -> dict[int, bytes]:
        """Return the whole pages that hold these changes (file offset: bytes)."""
        pages: dict[int, bytearray] = {}
        for offset, data in changes.items():
            for page in range(offset // PAGE * PAGE, offset + len(data), PAGE):
                if page not in pages:
                    pages[page] = bytearray(self.image.file.read(page, PAGE))
                first, last = max(page, offset), min(page + PAGE, offset + len(data))
                pages[page][first - page : last - page] = data[first - offset : last - offset]
        return {page: bytes(data) for page, data in pages.items()}

    def publish(self, pages: dict[int, bytes]) -> None:
        """Flush what was written outside the tables, then change these pages, all or none."""
        file, current = self.image.file, self.image.header
        size = file.size()
        if size > MAX_FILE_BYTES:
            raise corrupt(file, f"a file of over {MAX_FILE_BYTES // TIB} TiB cannot be", size)
        guid = uuid4()
        file.write(current.log_offset, log.build(pages, guid, size))
        file.flush()
        current = header.update(file, current, log=guid)
        for offset, page in sorted(pages.items()):
            file.write(offset, page)
        file.flush()
        current = header.update(file, current, log=NIL)
        self.image = replace(self.image, header=current, view=View(file, None, file.size()))

    def reload(self) -> None:
        """Read everything anew, after tables changed."""
        self.image = image.load(self.image.file)
