"""`breezeblock attach` beside another one of the same host, which was a little quicker."""

from collections.abc import Iterator
from typing import Any, cast

import pytest

from breezeblock.cli import attaching
from breezeblock.cli.client import Client
from breezeblock.errors import InvalidInputError


class Quicker:
    """A service where the attachment is made by others between the look and the request."""

    def __init__(self, made: list[dict[str, Any]]) -> None:
        self.made, self.looks = made, 0

    def pages(self, *_where: str, **_filters: str) -> Iterator[dict[str, Any]]:
        self.looks += 1
        return iter(self.made if self.looks > 1 else [])

    def post(self, _path: str, _body: dict[str, Any]) -> dict[str, Any]:
        raise InvalidInputError("status must be available to attach, but current status is: attaching")


def test_an_attachment_that_another_command_just_made_is_used() -> None:
    theirs = {"id": "a", "status": "attaching", "connection_info": {"driver_volume_type": "nbd"}}
    service = cast("Client", Quicker([theirs]))
    assert attaching._attachment(service, "v", "rw") == (theirs, False)


def test_a_volume_that_cannot_be_attached_is_said_to_be_that() -> None:
    with pytest.raises(InvalidInputError, match="attaching"):
        attaching._attachment(cast("Client", Quicker([])), "v", "rw")
