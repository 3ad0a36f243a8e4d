"""Paging, sorting and the `*_links` of lists."""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from breezeblock.api import inputs
from breezeblock.api.http import Request
from breezeblock.catalog.listing import Page, Sort
from breezeblock.errors import InvalidInputError

CONTROLS = frozenset({"limit", "marker", "offset", "sort", "sort_key", "sort_dir"})
_DIRECTIONS = {"asc": False, "desc": True}
MAX_OFFSET = 2**31 - 1


def page(request: Request, sortable: Mapping[str, str]) -> Page:
    """Read limit, marker, offset and the order; `sortable`: the field behind each name a client may use."""
    query = request.query
    limit = request.settings.max_limit
    if "limit" in query:
        limit = min(limit, _count("limit", query["limit"], 2**63))
    offset = _count("offset", query["offset"], MAX_OFFSET) if "offset" in query else 0
    return Page(limit=limit, offset=offset, marker=query.get("marker") or None, sort=_sort(query, sortable))


def next_links(request: Request, key: str, shown: Page, rows: Sequence[Any]) -> dict[str, Any]:
    """Return the list's link to what follows, where the page is full."""
    if not rows or len(rows) < shown.limit:
        return {}
    query = {name: value for name, value in request.query.items() if name != "offset"}
    query.update(limit=str(shown.limit), marker=rows[-1].id)
    href = f"{request.base}{quote(request.path, safe='/')}?{urlencode(query)}"
    return {key: [{"href": href, "rel": "next"}]}


def _count(field: str, text: str, high: int) -> int:
    if not re.fullmatch(r"-?[0-9]{1,30}", text, re.ASCII):
        raise InvalidInputError(f"{field} param must be an integer, not {_shown(text)}.")
    if int(text) < 0:
        raise InvalidInputError(f"{field} param must be positive.")
    if int(text) > high:
        if field == "limit":
            return high
        raise InvalidInputError(f"{field} param is too large; at most {high} is allowed.")
    return int(text)


def _sort(query: Mapping[str, str], sortable: Mapping[str, str]) -> tuple[Sort, ...]:
    old = "sort_key" in query or "sort_dir" in query
    if "sort" in query and old:
        raise InvalidInputError("The 'sort_key' and 'sort_dir' parameters are deprecated and cannot be "
                                "used with the 'sort' parameter.")  # fmt: skip
    if old:
        keys = [f"{query.get('sort_key') or 'created_at'}:{query.get('sort_dir') or 'desc'}"]
    elif query.get("sort"):
        keys = query["sort"].split(",")
    else:
        return (Sort("created_at"),)
    sorts: dict[str, Sort] = {}
    for item in keys:
        name, _, direction = item.strip().partition(":")
        if name not in sortable:
            raise InvalidInputError(
                f"Invalid sort key {_shown(name)}.", remedy=f"Sort by {', '.join(sorted(sortable))}."
            )
        if (direction or "desc") not in _DIRECTIONS:
            raise InvalidInputError(f"Unknown sort direction {_shown(direction)}, must be asc or desc.")
        field = sortable[name]
        sorts.setdefault(field, Sort(field, _DIRECTIONS[direction or "desc"]))
    return tuple(sorts.values())


def _shown(text: str) -> str:
    return repr(text[:64])


def wants_count(request: Request) -> bool:
    """Say whether the list's length is asked for (3.45)."""
    return (
        request.at_least(45)
        and "with_count" in request.query
        and inputs.flag("with_count", request.query["with_count"])
    )
