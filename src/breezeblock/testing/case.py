"""One promise of the contract, and the list of them all.

The cases themselves stand in `volumes`, `snapshots`, `linked` and `reading`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from breezeblock.backends.contract import Capabilities
from breezeblock.errors import BreezeblockError, UnsupportedError
from breezeblock.testing.lab import Lab, Storage, attempt, lab_on


@dataclass(frozen=True)
class Case:
    """One promise."""

    name: str
    body: Callable[[Lab], None]
    needs: tuple[str, ...]
    """Optional verbs it is about; if one is not declared, that verb must raise UnsupportedError."""

    def run(self, storage: Storage) -> None:
        """Hold the back end to the promise; raises AssertionError if it is broken."""
        with lab_on(storage) as lab:
            for verb in self.needs:
                if not _has(lab.able, verb):
                    _refuses(lab, verb)
                    return
            self.body(lab)

    def __str__(self) -> str:
        return self.name


_cases: list[Case] = []


def cases() -> tuple[Case, ...]:
    """Return every case."""
    for module in ("volumes", "snapshots", "linked", "reading"):  # each registers its own
        import_module(f"breezeblock.testing.{module}")
    return tuple(_cases)


def case(*needs: str) -> Callable[[Callable[[Lab], None]], Callable[[Lab], None]]:
    """Add the decorated function to the cases; `needs` names the optional verbs it is about."""

    def register(body: Callable[[Lab], None]) -> Callable[[Lab], None]:
        _cases.append(Case(body.__name__.lstrip("_"), body, needs))
        return body

    return register


def _has(able: Capabilities, verb: str) -> bool:
    return getattr(able, verb) not in {False, "none"}


def raises(expected: type[BreezeblockError], call: Callable[[], object], what: str) -> None:
    """Assert that `call` raises `expected`, with a message."""
    try:
        call()
    except expected as error:
        if error.message:
            return
        raise AssertionError(f"{what} raised {expected.__name__} without a message") from error
    raise AssertionError(f"{what} must raise {expected.__name__}")


def _refuses(lab: Lab, verb: str) -> None:
    disk, other = lab.create(), lab.new()
    backend, snapshot = lab.backend, lab.new_snapshot(disk)

    def read() -> None:
        with backend.open_data(disk.volume):
            pass

    calls: dict[str, Callable[[], object]] = {
        "extend": lambda: backend.extend(disk.volume, 2 * lab.unit, attempt()),
        "snapshots": lambda: backend.snapshot(disk.volume, snapshot, attempt()),
        "revert": lambda: backend.revert(disk.volume, snapshot, attempt()),
        "clone": lambda: backend.clone(disk.volume, other.volume, attempt()),
        "create_from_snapshot": lambda: backend.create_from_snapshot(
            disk.volume, snapshot, other.volume, attempt()
        ),
        "linked_clones": lambda: backend.flatten(disk.volume, attempt()),
        "data": read,
    }
    raises(UnsupportedError, calls[verb], f"{verb}, which is not declared,")
    lab.verify()
