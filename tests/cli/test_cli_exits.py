"""Every failure has an exit code on purpose."""

import inspect

import pytest

from breezeblock import errors
from breezeblock.cli import exits
from breezeblock.cli.exits import Exit

KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.BreezeblockError)
]
PLAIN_FAILURES = {
    errors.BreezeblockError,
    errors.NoSpaceError,
    errors.CorruptError,
    errors.CancelledOperationError,
}


@pytest.mark.parametrize("kind", KINDS, ids=[kind.__name__ for kind in KINDS])
def test_a_refusal_is_never_taken_for_a_failure(kind: type[errors.BreezeblockError]) -> None:
    code = exits.of(kind("x"))
    assert (code is Exit.FAILED) == (kind in PLAIN_FAILURES)
    assert code is not Exit.OK
