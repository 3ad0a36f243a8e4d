"""A journal whose disk has no room for the file after next: nothing that was promised depends on that."""

import asyncio
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
