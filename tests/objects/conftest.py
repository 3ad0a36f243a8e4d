"""What tests of object stores share."""

import pytest

from breezeblock.objects.log import format as form


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let collections not wait between their looks: then everybody must look once more."""
    monkeypatch.setattr(form, "STILL_S", 0.0)
