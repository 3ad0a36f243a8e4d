"""A store in a local directory: every object one file.

Made durable as everything of ours: temporary file, fsync, rename, fsync of the directory (`shares.files`
has the same rule for chains). Creating only is `link(2)`, which fails if the name is there, so that of two
processes one wins.
"""

import asyncio
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from breezeblock.errors import InvalidInputError, NotFoundError
from breezeblock.images import raw
from breezeblock.objects.stores.port import (
    MAX_OBJECT_BYTES,
    Body,
    ExistsError,
    Item,
    Page,
    Room,
    Traits,
    checked,
)
from breezeblock.shares import files, space

_TEMPORARIES = ".tmp"
_ABANDONED_S = 86400.0
"""Nobody takes so long to store an object."""


class DirectoryStore:
    """Objects under `root`, which exists. File work runs on threads: a slow disk must not stop the loop."""

    traits = Traits(create_only=True, ranged_write=True, listing=True, holes=True)

    def __init__(self, root: Path) -> None:
        self.root = root

    async def get(self, key: str, first: int = 0, length: int | None = None) -> bytes:
        """Return bytes of an object."""
        return await asyncio.to_thread(self.get_now, key, first, length)

    async def put(self, key: str, body: Body, *, create: bool = False, match: str = "") -> None:
        """Store an object."""
        if match:
            raise InvalidInputError("A directory knows no conditions on content.")
        await asyncio.to_thread(self.put_now, key, body, create=create)

    async def put_range(self, key: str, offset: int, body: Body) -> None:
        """Change bytes of an object."""
        await asyncio.to_thread(self.put_range_now, key, offset, bytes(body))

    async def delete(self, key: str) -> None:
        """Remove an object."""
        await asyncio.to_thread(self.delete_now, key)

    async def head(self, key: str) -> Item:
        """Tell an object's length."""
        return await asyncio.to_thread(self.head_now, key)

    async def page(self, prefix: str, after: str = "") -> Page:
        """List what begins with a prefix."""
        return Page(await asyncio.to_thread(lambda: list(self.walk_now(prefix))))

    async def resize(self, key: str, length: int, *, create: bool = False) -> None:
        """Give an object a length."""
        await asyncio.to_thread(self.resize_now, key, length, create=create)

    async def clear(self, key: str, offset: int, length: int) -> None:
        """Make a hole."""
        await asyncio.to_thread(self.clear_now, key, offset, length)

    async def room(self) -> Room:
        """Ask the file system."""
        return await asyncio.to_thread(self.room_now)

    async def close(self) -> None:
        """Nothing is open."""

    # The same without a loop, for the CDMI server's threads and for scripts.

    def get_now(self, key: str, first: int = 0, length: int | None = None) -> bytes:
        """Return bytes of an object."""
        with files.storage_errors(key), self._opened(key) as fd:
            if length is None:
                length = max(0, os.fstat(fd).st_size - first)
                if length > MAX_OBJECT_BYTES:
                    raise InvalidInputError(f"{key} has more than {MAX_OBJECT_BYTES} bytes.")
            return _read(fd, first, length)

    def put_now(self, key: str, body: Body, *, create: bool = False) -> None:
        """Store an object."""
        path, temp = self._path(key), self._temporary()
        with files.storage_errors(key):
            self._make_parents(path)
            with files.fresh(temp) as fd:
                files.write_all(fd, memoryview(body), 0)
                os.fsync(fd)
                if create:
                    _publish_new(temp, path, key)
                else:
                    temp.rename(path)
            files.sync_directory(path.parent)

    def put_range_now(self, key: str, offset: int, body: bytes) -> None:
        """Change bytes of an object; sparse past its end."""
        with files.storage_errors(key), self._opened(key, os.O_RDWR) as fd:
            files.write_all(fd, body, offset)
            os.fdatasync(fd)

    def clear_now(self, key: str, offset: int, length: int) -> None:
        """Make a hole, as far as the object goes."""
        with files.storage_errors(key), self._opened(key, os.O_RDWR) as fd:
            raw.zero(fd, offset, length)
            os.fdatasync(fd)

    def resize_now(self, key: str, length: int, *, create: bool = False) -> None:
        """Give an object a length; with `create`, ExistsError if it is there."""
        if create:
            self.put_now(key, b"", create=True)
        with files.storage_errors(key), self._opened(key, os.O_RDWR) as fd:
            os.ftruncate(fd, length)
            os.fsync(fd)

    def delete_now(self, key: str) -> None:
        """Remove an object; its empty directories stay, as another put may be using them."""
        with files.storage_errors(key):
            files.remove(self._path(key))

    def head_now(self, key: str) -> Item:
        """Tell an object's length."""
        with files.storage_errors(key), self._opened(key) as fd:
            return Item(key, os.fstat(fd).st_size)

    def room_now(self) -> Room:
        """Ask the file system, once what killed writers left has given its room back."""
        with files.storage_errors("The store"):
            self._sweep()
            found = space.of(self.root)
        return Room(found.total_bytes, found.free_bytes)

    def walk_now(self, prefix: str) -> Iterator[Item]:
        """Return what begins with a prefix, whose folders are parts of a key: it must not leave the root."""
        folder, slash, _ = prefix.rpartition("/")
        start = self._path(folder) if slash else self.root
        for place, folders, names in os.walk(start):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                path = Path(place, name)
                key = path.relative_to(self.root).as_posix()
                if key.startswith(prefix):
                    try:
                        yield Item(key, path.lstat().st_size)
                    except FileNotFoundError:
                        continue  # removed meanwhile

    def children_now(self, folder: str) -> list[str]:
        """Return what lies directly in a folder, sorted, folders with `/` behind; nothing if it is absent."""
        start = self._path(folder) if folder else self.root
        if folder and not start.is_dir():
            return []
        with files.storage_errors(folder or "The store"), os.scandir(start) as found:
            names = [one.name + "/" * one.is_dir(follow_symlinks=False) for one in found]
        return sorted(name for name in names if not name.startswith("."))

    def _path(self, key: str) -> Path:
        return self.root / checked(key)

    def _opened(self, key: str, flags: int = os.O_RDONLY) -> AbstractContextManager[int]:
        path = self._path(key)
        if not self.root.is_dir():
            raise files.translate(FileNotFoundError(2, "No such directory", str(self.root)), "The store")
        if not path.exists():
            raise NotFoundError(f"{key} is not there.")
        return files.opened(path, flags)

    def _temporary(self) -> Path:
        return self.root / _TEMPORARIES / secrets.token_hex(12)

    def _sweep(self) -> None:
        old = time.time() - _ABANDONED_S
        with suppress(FileNotFoundError), os.scandir(self.root / _TEMPORARIES) as found:
            for one in found:
                if one.stat(follow_symlinks=False).st_mtime < old:
                    Path(one.path).unlink(missing_ok=True)

    def _make_parents(self, path: Path) -> None:
        for folder in (self.root / _TEMPORARIES, *reversed(path.relative_to(self.root).parents[:-1])):
            made = self.root / folder
            if not made.is_dir():
                made.mkdir(exist_ok=True)
                files.sync_directory(made.parent)


def _publish_new(temp: Path, path: Path, key: str) -> None:
    try:
        os.link(temp, path)
    except FileExistsError:
        raise ExistsError(f"{key} exists.") from None
    temp.unlink()


def _read(fd: int, first: int, length: int) -> bytes:
    data = os.pread(fd, length, first)
    while len(data) < length and (more := os.pread(fd, length - len(data), first + len(data))):
        data += more
    return data
