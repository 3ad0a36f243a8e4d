"""Dispatch: custom calls by name, and what every class answers to without being told."""

import inspect
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

from xenserver import roles
from xenserver.database import Database, Row
from xenserver.failures import Failure
from xenserver.fields import CLASSES
from xenserver.pool import Pool


@dataclass
class Caller:
    """Who calls."""

    pool: Pool
    host: str
    session: str = ""
    task: str = ""

    @property
    def db(self) -> Database:
        """Return the database."""
        return self.pool.db


Handler = Callable[..., Any]
_handlers: dict[str, Handler] = {}
NO_SESSION = {"session.login_with_password", "session.slave_local_login_with_password", "system.listMethods"}
ON_SLAVES = {"session.slave_local_login_with_password", "system.listMethods"}


H = TypeVar("H", bound=Handler)


def call(name: str) -> Callable[[H], H]:
    """Make the decorated function answer to a method. Parameters with defaults may be left out."""

    def register(function: H) -> H:
        _handlers[name] = function
        return function

    return register


def load() -> dict[str, Handler]:
    """Return all custom calls."""
    for module in ("pool_calls", "sr_calls", "vdi_calls", "vbd_calls"):
        import_module(f"xenserver.{module}")
    return _handlers


def dispatch(pool: Pool, host: str, method: str, params: list[Any]) -> Any:
    """Answer one call."""
    handlers = load()
    pool.calls[method] = pool.calls.get(method, 0) + 1
    asynchronous = method.startswith("Async.")
    name = method.removeprefix("Async.")
    caller = Caller(pool, host)
    if host != pool.master and name not in ON_SLAVES:
        raise Failure("HOST_IS_SLAVE", pool.db.row("host", pool.master)["address"])
    if name not in NO_SESSION:
        caller.session = _session(pool, params, method)
        params = params[1:]
        permit(pool, caller.session, name, roles.least(name))
    function = handlers.get(name) or _generic(name)
    if function is None:
        raise Failure("MESSAGE_METHOD_UNKNOWN", method)
    _count(function, method, params)
    if not asynchronous:
        pool.provoke(name, after=False)
        result = function(caller, *params)
        pool.provoke(name, after=True)
        return result
    if name not in handlers:
        raise Failure("MESSAGE_METHOD_UNKNOWN", method)
    from xenserver.pool_calls import start_task

    return start_task(caller, name, function, params)


def _count(function: Handler, method: str, params: list[Any]) -> None:
    expected = list(inspect.signature(function).parameters.values())[1:]
    least = sum(parameter.default is parameter.empty for parameter in expected)
    if not least <= len(params) <= len(expected):
        raise Failure("MESSAGE_PARAMETER_COUNT_MISMATCH", method, str(len(expected)), str(len(params)))


def _session(pool: Pool, params: list[Any], method: str) -> str:
    if not params:
        raise Failure("MESSAGE_PARAMETER_COUNT_MISMATCH", method, "1", "0")
    ref = str(params[0])
    with pool.db.lock:
        used = pool.last_used.get(ref)
        if ref not in pool.db.tables["session"] or used is None:
            raise Failure("SESSION_INVALID", ref)
        if time.monotonic() - used > pool.settings.session_timeout_s:
            pool.db.remove("session", ref)
            raise Failure("SESSION_INVALID", ref)
        pool.last_used[ref] = time.monotonic()
    return ref


def permit(pool: Pool, session: str, name: str, wanted: str) -> None:
    """Raise RBAC_PERMISSION_DENIED unless the session's user has that role."""
    user = pool.db.row("session", session)["auth_user_name"]
    if not roles.may(pool.settings.users[user][1], wanted):
        raise Failure("RBAC_PERMISSION_DENIED", name.lower(), "No permission in user session")


def method_names() -> list[str]:
    """Return every method there is."""
    verbs = ("get_record", "get_all", "get_all_records", "get_by_uuid")
    hidden = {"session.get_all", "session.get_all_records"}
    generic = {f"{cls}.{verb}" for cls in CLASSES for verb in verbs} - hidden
    getters = [f"{cls}.get_{field}" for cls, fields in CLASSES.items() for field in fields]
    return sorted({*load(), *generic, *getters, *(f"Async.{name}" for name in load()), "system.listMethods"})


def _generic(name: str) -> Handler | None:
    cls, _, verb = name.partition(".")
    fields = CLASSES.get(cls)
    if fields is None:
        return None
    whole: dict[str, Handler] = {
        "get_record": lambda c, ref: c.db.record(cls, ref),
        "get_all": lambda c: list(c.db.tables[cls]),
        "get_all_records": lambda c: {ref: c.db.record(cls, ref) for ref in list(c.db.tables[cls])},
        "get_all_records_where": lambda c, query: where(c, cls, query),
        "get_by_uuid": lambda c, uuid: c.db.find(cls, uuid),
        "get_by_name_label": lambda c, label: [ref for ref, _row in c.db.all(cls, name_label=label)],
    }
    if verb in whole:
        return whole[verb]
    for prefix, maker in (
        ("get_", _getter),
        ("set_", _setter),
        ("add_to_", _adder),
        ("remove_from_", _remover),
    ):
        field = verb.removeprefix(prefix)
        if (
            verb.startswith(prefix)
            and field in fields
            and (prefix == "get_" or fields[field].startswith("!"))
        ):
            return maker(cls, field)
    return None


def _getter(cls: str, field: str) -> Handler:
    return lambda c, ref: c.db.record(cls, ref)[field]


def _setter(cls: str, field: str) -> Handler:
    kind = CLASSES[cls][field].lstrip("!")

    def setter(caller: Caller, ref: str, value: Any) -> None:
        caller.db.set(cls, ref, **{field: int(value) if kind == "int" else value})

    return setter


def _adder(cls: str, field: str) -> Handler:
    def adder(caller: Caller, ref: str, key: str, value: str) -> None:
        with caller.db.lock:
            held = caller.db.row(cls, ref)[field]
            if key in held:
                raise Failure("MAP_DUPLICATE_KEY", cls, field, ref, key)
            caller.db.set(cls, ref, **{field: held | {key: value}})

    return adder


def _remover(cls: str, field: str) -> Handler:
    def remover(caller: Caller, ref: str, key: str) -> None:
        with caller.db.lock:
            held = {k: v for k, v in caller.db.row(cls, ref)[field].items() if k != key}
            caller.db.set(cls, ref, **{field: held})

    return remover


_TERM = re.compile(r'\s*field "(\w+)"\s*=\s*"([^"]*)"\s*')


def where(caller: Caller, cls: str, query: str) -> dict[str, Row]:
    """Return the records that a query names: `True`, or `field "x"="y"` joined by `and`."""
    terms = [] if query.strip().lower() == "true" else query.split(" and ")
    wanted = {}
    for term in terms:
        match = _TERM.fullmatch(term)
        if match is None:
            raise Failure("INTERNAL_ERROR", f"query: {term}")
        wanted[match[1]] = match[2]
    found = {}
    for ref in list(caller.db.tables[cls]):
        record = caller.db.record(cls, ref)
        if all(str(record[key]).lower() == value.lower() for key, value in wanted.items()):
            found[ref] = record
    return found
