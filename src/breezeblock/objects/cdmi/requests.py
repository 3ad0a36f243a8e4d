"""What CDMI's requests do to a directory (ISO/IEC 17826, 1.0.2 and 1.1), in both dialects of ranges.

Bodies are plain for objects; containers, capabilities and metadata are JSON. Names that begin with a dot
are not served: among them are temporary files.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from breezeblock.errors import InvalidInputError, NotFoundError
from breezeblock.objects.stores import cdmi
from breezeblock.objects.stores.directory import DirectoryStore
from breezeblock.objects.stores.port import MAX_OBJECT_BYTES, ExistsError

_CONTAINER = "application/cdmi-container"
_SPAN = re.compile(r"bytes[ =](\d{1,18})-(\d{1,18})(?:/(?:\*|\d+))?", re.ASCII)
_OPEN = re.compile(r"bytes=(\d{1,18})-", re.ASCII)
_CAPABILITIES = (
    "cdmi_create_dataobject",
    "cdmi_delete_dataobject",
    "cdmi_read_value",
    "cdmi_read_value_range",
    "cdmi_modify_value",
    "cdmi_modify_value_range",
    "cdmi_read_metadata",
    "cdmi_list_children",
    "cdmi_list_children_range",
    "cdmi_create_container",
)


class Request(NamedTuple):
    """What was asked."""

    method: str
    path: str
    search: str
    headers: dict[str, str]
    body: bytes


class Answer(NamedTuple):
    """What is answered; `length` is told in place of the body's own, for HEAD."""

    status: int
    headers: Mapping[str, str] = MappingProxyType({})
    body: bytes = b""
    length: int = -1


def answer(store: DirectoryStore, request: Request) -> Answer:
    """Do what was asked. Raises what the store raises."""
    key = request.path.strip("/")
    try:
        if key.startswith("cdmi_capabilities"):
            return _json({"capabilities": dict.fromkeys(_CAPABILITIES, "true")}, "cdmi-capability")
        if request.path.endswith("/"):
            return _container(store, key, request)
        verb = {"GET": _get, "HEAD": _head, "PUT": _put, "DELETE": _delete}.get(request.method)
        return verb(store, key, request) if verb else Answer(405, {"Allow": "GET, HEAD, PUT, DELETE"})
    except NotFoundError:
        return Answer(404)
    except ExistsError:
        return Answer(412)
    except InvalidInputError as error:
        return Answer(400, {}, str(error).encode())


def _json(value: dict[str, Any], kind: str) -> Answer:
    headers = {"Content-Type": f"application/{kind}", "X-CDMI-Specification-Version": "1.1"}
    return Answer(200, headers, msgspec.json.encode(value))


def _container(store: DirectoryStore, key: str, request: Request) -> Answer:
    if request.method == "PUT":
        return Answer(201)  # containers come into being with what lies in them
    if request.method != "GET":
        return Answer(405, {"Allow": "GET, PUT"})
    if request.search == "metadata":
        room = store.room_now()
        used = room.total_bytes - room.free_bytes
        told = {cdmi.USED: str(used), cdmi.AVAILABLE: str(room.free_bytes)}
        return _json({"metadata": told}, "cdmi-container")
    children = store.children_now(key)
    wanted = re.fullmatch(r"children:(\d{1,9})-(\d{1,9})", request.search)
    if wanted:
        children = children[int(wanted[1]) : int(wanted[2]) + 1]
    shown = {
        "objectType": _CONTAINER,
        "objectName": f"{key.rpartition('/')[2]}/",
        "capabilitiesURI": "/cdmi_capabilities/container/",
        "completionStatus": "Complete",
        "metadata": {},
        "childrenrange": f"0-{len(children) - 1}" if children else "",
        "children": children,
    }
    return _json(shown, "cdmi-container")


def _get(store: DirectoryStore, key: str, request: Request) -> Answer:
    length = store.head_now(key).length
    if request.search == "metadata":
        return _json({"metadata": {"cdmi_size": str(length)}}, "cdmi-object")
    headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
    asked = request.headers.get("range", "")
    span = _SPAN.fullmatch(asked) or _OPEN.fullmatch(asked)
    if not span:
        return Answer(200, headers, store.get_now(key))
    first = int(span[1])
    last = min(length, int(span[2]) + 1 if len(span.groups()) > 1 else length) - 1
    if first >= length or last < first:
        return Answer(416, {"Content-Range": f"bytes */{length}"})
    if last - first >= MAX_OBJECT_BYTES:
        raise InvalidInputError("The range is too long.")
    headers["Content-Range"] = f"bytes {first}-{last}/{length}"
    return Answer(206, headers, store.get_now(key, first, last - first + 1))


def _head(store: DirectoryStore, key: str, request: Request) -> Answer:  # noqa: ARG001 - as all verbs
    return Answer(200, {"Accept-Ranges": "bytes"}, length=store.head_now(key).length)


def _put(store: DirectoryStore, key: str, request: Request) -> Answer:
    condition = request.headers.get("if-match", "*")
    if condition != "*":
        return Answer(412)  # we give no tags, so none can be right
    create = request.headers.get("if-none-match") == "*"
    if "if-match" in request.headers and not _there(store, key):
        return Answer(412)
    truncate = request.headers.get("x-scal-truncate")
    if truncate is not None:
        if not truncate.isdecimal() or len(truncate) > 16:
            raise InvalidInputError("X-Scal-Truncate is no length.")
        store.resize_now(key, int(truncate))
        return Answer(204)
    span = request.headers.get("content-range") or request.headers.get("range")
    if span:
        return _put_range(store, key, span, request.body)
    known = not create and _there(store, key)
    store.put_now(key, request.body, create=create)
    return Answer(204 if known else 201)


def _put_range(store: DirectoryStore, key: str, span: str, body: bytes) -> Answer:
    wanted = _SPAN.fullmatch(span)
    if not wanted or int(wanted[2]) - int(wanted[1]) + 1 != len(body):
        raise InvalidInputError("The range is not as long as what came with it.")
    store.put_range_now(key, int(wanted[1]), body)
    return Answer(204)


def _delete(store: DirectoryStore, key: str, request: Request) -> Answer:  # noqa: ARG001 - as all verbs
    if not _there(store, key):
        return Answer(404)
    store.delete_now(key)
    return Answer(204)


def _there(store: DirectoryStore, key: str) -> bool:
    try:
        store.head_now(key)
    except NotFoundError:
        return False
    return True
