"""Who watches over the volumes that are served."""

from typing import cast

import pytest

from breezeblock.app import attaching
from breezeblock.connect.served import ServedConnector
from breezeblock.errors import BreezeblockError, UnavailableError


class Troubled:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def restore(self) -> list[BreezeblockError]:
        return [UnavailableError("a store is away")]

    def activate(self) -> list[BreezeblockError]:
        raise self.error


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), RuntimeError("no new thread")])
def test_a_look_that_fails_is_told_and_counted_and_ends_nothing(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    assert attaching.tell(cast("ServedConnector", Troubled(error))) == 2
    told = capsys.readouterr()
    assert str(error) in told.out + told.err
