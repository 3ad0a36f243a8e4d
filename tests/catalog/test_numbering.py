"""Operations' ids keep the order of the commits, on both databases."""

import threading

from breezeblock.catalog import numbering
from breezeblock.catalog.database import Database


def test_who_numbers_later_commits_later(database: Database) -> None:
    begun, ended = threading.Event(), threading.Event()
    later: list[str] = []

    def second() -> None:
        begun.set()
        with database.write() as connection:
            later.append(numbering.number(connection))
        ended.set()

    thread = threading.Thread(target=second)
    with database.write() as connection:
        numbering.take_turn(connection)
        thread.start()
        begun.wait()
        assert not ended.wait(0.1)  # it waits for this transaction, so a longer look would see no more
        ids = [numbering.number(connection), numbering.number(connection)]
        assert not later
    thread.join()
    assert [*ids, *later] == sorted([*ids, *later])
