"""A journal whose disk has no room for the file after next: nothing that was promised depends on that."""

import asyncio
import errno
import os
import secrets
from pathlib import Path

import pytest

from breezeblock.errors import UnavailableError
from breezeblock.objects.log.journal import FILE_BYTES, Journal

VOLUME = "5e" * 16
PIECE = memoryview(bytes(16 << 20))


def test_flushes_go_on_and_the_one_who_needs_the_room_hears_of_it(tmp_path: Path) -> None:
    async def main() -> None:
        journal = Journal(tmp_path / "journal", VOLUME, secrets.token_bytes(16))
        journal.open()
        obstacle = tmp_path / "journal" / "spare"
        obstacle.mkdir()
        for number in (1, 2):
            journal.write(number, 0, PIECE)
        await journal.sync()
        (tmp_path / "journal" / "00000002.log").mkdir()
        with pytest.raises(UnavailableError):
            journal.write(3, 0, PIECE)
        await journal.sync()
        obstacle.rmdir()
        await journal.sync()
        journal.write(3, 0, PIECE)  # what was missing is there: it goes on
        await journal.sync()
        assert journal.length == 2 * FILE_BYTES
        journal.abandon()
        (tmp_path / "journal" / "00000002.log").rmdir()
        kept = Journal(tmp_path / "journal", VOLUME, secrets.token_bytes(16)).open()
        assert [one.sequence for one in kept.records] == [1, 2, 3]

    asyncio.run(main())


def test_what_an_earlier_writer_left_counts_until_it_is_stored(tmp_path: Path) -> None:
    async def main() -> None:
        for number in (1, 2):
            journal = Journal(tmp_path / "journal", VOLUME, secrets.token_bytes(16))
            assert len(journal.open().records) == number - 1
            assert journal.length == number * FILE_BYTES
            journal.write(number, 0, PIECE[:4096])
            await journal.sync()
            if number == 1:
                journal.abandon()
        journal.stored = lambda: 1
        await journal.sync()
        assert journal.length == FILE_BYTES
        await journal.close(2)
        assert not (tmp_path / "journal").exists()

    asyncio.run(main())


def test_a_disk_that_fails_takes_no_files_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "the disk has failed")

    async def main() -> None:
        before = open_files(tmp_path)
        journal = Journal(tmp_path / "journal", VOLUME, secrets.token_bytes(16))
        journal.open()
        journal.write(1, 0, PIECE[:4096])
        journal.abandon()
        monkeypatch.setattr(os, "fdatasync", fail)
        journal = Journal(tmp_path / "journal", VOLUME, secrets.token_bytes(16))
        with pytest.raises(UnavailableError):
            journal.open()
        journal.abandon()
        assert open_files(tmp_path) == before
        monkeypatch.undo()
        journal = Journal(tmp_path / "journal", VOLUME, secrets.token_bytes(16))
        assert len(journal.open().records) == 1
        journal.write(2, 0, PIECE[:4096])
        monkeypatch.setattr(os, "fdatasync", fail)
        journal.stored = lambda: 1
        for _ in range(2):
            with pytest.raises(UnavailableError):
                await journal.sync()
        journal.abandon()
        assert open_files(tmp_path) == before
        assert len(list((tmp_path / "journal").glob("*.log"))) == 2

    asyncio.run(main())


def open_files(below: Path) -> list[str]:
    found = [one.readlink() for one in Path("/proc/self/fd").iterdir() if one.is_symlink()]
    return sorted(str(one) for one in found if one.is_relative_to(below))
