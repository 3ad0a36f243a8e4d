"""Exit codes: what a script can rely on. `docs/command.md` lists them."""

import enum

from breezeblock.errors import (
    BreezeblockError,
    ConfigError,
    ConflictError,
    DuplicateError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    OverQuotaError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)


class Exit(enum.IntEnum):
    """What the process ends with."""

    OK = 0
    FAILED = 1
    """The operation, or the service, failed."""
    USAGE = 2
    """The command line or the configuration cannot be used."""
    NOT_FOUND = 3
    REFUSED = 4
    """The service said no: state, input, quota, rights or password."""
    UNREACHABLE = 5
    """No answer from the service or the database."""
    FINDINGS = 6
    """The doctor, or the check of a share, found something."""
    STILL_RUNNING = 7
    """The operation goes on; the command's `--timeout` was over first."""
    INTERRUPTED = 130


_CODES: tuple[tuple[type[BreezeblockError], Exit], ...] = (
    (ConfigError, Exit.USAGE),
    (NotFoundError, Exit.NOT_FOUND),
    (InvalidInputError, Exit.REFUSED),
    (ConflictError, Exit.REFUSED),
    (DuplicateError, Exit.REFUSED),
    (ForbiddenError, Exit.REFUSED),
    (UnauthenticatedError, Exit.REFUSED),
    (OverQuotaError, Exit.REFUSED),
    (UnsupportedError, Exit.REFUSED),
    (UnavailableError, Exit.UNREACHABLE),
)


def of(error: BreezeblockError) -> Exit:
    """Return the exit code for a failure."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), Exit.FAILED)
