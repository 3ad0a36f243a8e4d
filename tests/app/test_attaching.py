"""Who watches over the volumes that are served."""

from pathlib import Path
from typing import Any, cast

import pytest

from breezeblock.app import attaching
from breezeblock.connect.linux import LinuxConnector
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


def test_records_that_cannot_be_read_are_an_error_of_both_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable() -> list[Any]:
        raise OSError(5, "Input/output error")

    kernel = cast("LinuxConnector", object())
    connector = ServedConnector(lambda data: pytest.fail(str(data)), tmp_path, kernel=kernel)
    monkeypatch.setattr(connector._records, "all", unreadable)
    for look in (connector.restore, connector.activate):
        (failure,) = look()
        assert "Input/output error" in str(failure)
