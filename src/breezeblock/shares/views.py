"""A directory seen twice, as trials and those who make room for them know it."""

from dataclasses import dataclass
from pathlib import Path


class Broken(Exception):  # noqa: N818 - a finding, not an error of ours
    """The promise does not hold."""


@dataclass(frozen=True, slots=True)
class Views:
    """One directory, seen twice."""

    here: Path
    there: Path
    apart: bool
    """Whether `there` really goes another way."""
    absent_s: float = 0.0
    """How long a client of this kind may remember that a name is not there."""
