"""The table of endpoints: which function answers which method and path, from which version on.

Paths are written without /v3 and without the project. The table is data: the documentation is made from
it. A path that is known, but not for the version asked, is answered as if it were absent.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from breezeblock.api.errors import HttpError
from breezeblock.api.http import Reply, Request, Version

Handler = Callable[[Request], Reply]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method of one path."""

    method: str
    path: str
    """Segments in braces are variable: /volumes/{id}."""
    handler: Handler
    since: int = 0
    """The minor version that it came with."""
    waits: bool = False
    """It waits for a worker to act, so it must not take a place among the quick requests."""


class Routes:
    """Finds the endpoint of a path by its literal first segment and the number of segments."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self.endpoints = tuple(endpoints)
        self._by_shape: dict[tuple[str, int], list[tuple[tuple[str, ...], Endpoint]]] = {}
        for endpoint in self.endpoints:
            segments = tuple(endpoint.path.strip("/").split("/"))
            self._by_shape.setdefault((segments[0], len(segments)), []).append((segments, endpoint))
        # A literal segment beats a variable one: /volumes/detail before /volumes/{id}.
        for candidates in self._by_shape.values():
            candidates.sort(key=lambda item: sum(segment.startswith("{") for segment in item[0]))
        self._first = frozenset(first for first, _ in self._by_shape)

    def knows(self, first_segment: str) -> bool:
        """Say whether any path begins with this segment."""
        return first_segment in self._first

    def find(
        self, method: str, segments: tuple[str, ...], version: Version, *, slash: bool = False
    ) -> tuple[Endpoint, dict[str, str]]:
        """Return the endpoint and the variable parts. Raises HttpError 404 or 405.

        `slash`: the path ends in one, which means nothing, except where an id belongs after it: there
        the id is empty, and must not turn a question about one volume into one about all.
        """
        if slash and segments and self._takes_an_id(segments):
            raise HttpError(404, "The resource could not be found: the path ends in an empty id.")
        shape = (segments[0], len(segments)) if segments else ("", 0)
        allowed: list[str] = []
        best: tuple[str, ...] | None = None
        for pattern, endpoint in self._by_shape.get(shape, ()):
            if (3, endpoint.since) > version or (best is not None and pattern != best):
                continue
            params = _match(pattern, segments)
            if params is None:
                continue
            best = pattern
            if endpoint.method == method or (method == "HEAD" and endpoint.method == "GET"):
                return endpoint, params
            allowed.append(endpoint.method)
        if allowed:
            raise HttpError(405, f"{method} is not allowed here.", {"Allow": ", ".join(sorted(set(allowed)))})
        raise HttpError(404, "The resource could not be found.")

    def _takes_an_id(self, segments: tuple[str, ...]) -> bool:
        longer = (*segments, "")
        return any(
            pattern[-1].startswith("{") and _match(pattern, longer) is not None
            for pattern, _ in self._by_shape.get((segments[0], len(longer)), ())
        )


def _match(pattern: tuple[str, ...], segments: tuple[str, ...]) -> dict[str, str] | None:
    params: dict[str, str] = {}
    for expected, found in zip(pattern, segments, strict=True):
        if expected.startswith("{"):
            params[expected[1:-1]] = found
        elif expected != found:
            return None
    return params
