"""Requests and replies as xapi reads and writes them.

XML is compact, strings stand bare in `<value>`, integers are decimal strings: independent clients are
strict about each of these.
"""

import json
import xmlrpc.client
from typing import Any
from xml.sax.saxutils import escape

from xenserver.failures import Failure


class Date(str):
    """A moment: it has a type of its own in XML, and none in JSON."""

    __slots__ = ()


def read_xml(body: bytes) -> tuple[str, list[Any]]:
    """Return method and parameters."""
    params, method = xmlrpc.client.loads(body)
    if method is None:
        raise ValueError("no methodCall")
    return method, [_plain(param) for param in params]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.value if isinstance(value, xmlrpc.client.DateTime) else value


def to_xml(value: Any) -> str:  # noqa: PLR0911 - one a type
    """Return one `<value>`."""
    match value:
        case None | "":
            return "<value/>" if value is None else "<value></value>"
        case bool():
            return f"<value><boolean>{int(value)}</boolean></value>"
        case float():
            return f"<value><double>{value}</double></value>"
        case Date():
            return f"<value><dateTime.iso8601>{value}</dateTime.iso8601></value>"
        case dict():
            members = "".join(
                f"<member><name>{escape(str(key))}</name>{to_xml(item)}</member>"
                for key, item in value.items()
            )
            return f"<value><struct>{members}</struct></value>"
        case list() | tuple() | set():
            return f"<value><array><data>{''.join(to_xml(item) for item in value)}</data></array></value>"
        case _:
            return f"<value>{escape(str(value))}</value>"


def xml_reply(value: Any, failure: Failure | None, *, bare: bool = False) -> bytes:
    """Return the whole reply."""
    if failure:
        value = {"Status": "Failure", "ErrorDescription": [failure.code, *failure.params]}
    elif not bare:
        value = {"Status": "Success", "Value": "" if value is None else value}
    head = '<?xml version="1.0"?><methodResponse><params><param>'
    return f"{head}{to_xml(value)}</param></params></methodResponse>".encode()


def read_json(body: bytes) -> tuple[str, list[Any], Any, bool]:
    """Return method, parameters, id, and whether it is version 2."""
    call = json.loads(body)
    if call.get("id") is None:
        raise ValueError("no id")
    return call["method"], list(call.get("params") or []), call["id"], call.get("jsonrpc") == "2.0"


def json_reply(value: Any, failure: Failure | None, number: Any, *, two: bool) -> bytes:
    """Return the whole reply."""
    reply: dict[str, Any] = {"id": number}
    if two:
        reply["jsonrpc"] = "2.0"
    if failure is None:
        reply["result"] = "" if value is None else value
    elif two:
        reply["error"] = {"code": 1, "message": failure.code, "data": list(failure.params)}
    else:
        reply["error"] = [failure.code, *failure.params]
    if not two:
        reply.setdefault("error", None)
        reply.setdefault("result", None)
    return json.dumps(reply).encode()
