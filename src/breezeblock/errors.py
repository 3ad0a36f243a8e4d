"""Every failure that Breezeblock itself raises: what happened, and what the operator can do next.

A floor raises the class that says what kind of failure it is; nobody above needs to know the
floor. `breezeblock.api.errors` is the one place that turns these into HTTP.
"""

from typing import ClassVar


class BreezeblockError(Exception):
    """Something failed.

    `message` says what, naming the object and the limit; `remedy` says what to do about it.
    Neither ever holds a secret: both reach users, logs and the database.
    """

    permanent: ClassVar[bool] = True
    """Trying again without changing anything will fail again."""
    not_found: ClassVar[bool] = False
    """The thing named does not exist."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".rstrip()


class NotFoundError(BreezeblockError):
    """The thing named does not exist."""

    not_found = True


class InvalidInputError(BreezeblockError):
    """A caller gave a value that can never be accepted; the message names field and limit."""


class ConflictError(BreezeblockError):
    """The object is in a state that does not allow the request."""


class DuplicateError(BreezeblockError):
    """Something with that name exists already."""


class ForbiddenError(BreezeblockError):
    """The caller may not do this."""


class UnauthenticatedError(BreezeblockError):
    """The caller's credentials are missing, wrong or expired."""


class OverQuotaError(BreezeblockError):
    """A project's limit would be passed."""


class UnsupportedError(BreezeblockError):
    """The back end cannot do this at all."""


class ConfigError(BreezeblockError):
    """The configuration cannot be used; the message names file, key, value and what is allowed."""


class UnavailableError(BreezeblockError):
    """Storage, database or a program did not answer; trying again later may work."""

    permanent = False


class CutOffError(UnavailableError):
    """A process of our own died in the middle of the work; the storage answers, and it can be repeated."""


class PoolDownError(UnavailableError):
    """A pool is known to be down; work on it can go on when its storage answers again."""


class NoSpaceError(BreezeblockError):
    """The storage is full."""

    permanent = False


class CorruptError(BreezeblockError):
    """Data on storage is not what it must be; nothing was changed."""


class CancelledOperationError(BreezeblockError):
    """The operation was asked to stop, and did."""
