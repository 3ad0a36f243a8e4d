"""session, task, event, secret, pool and host."""

import re
import threading
import time
import traceback
from typing import Any

from xenserver.calls import Caller, Handler, call, method_names
from xenserver.database import now
from xenserver.failures import Failure, HostDiedError
from xenserver.fields import CLASSES
from xenserver.wire import Date, to_xml


@call("system.listMethods")
def list_methods(_caller: Caller) -> list[str]:
    return method_names()


@call("session.login_with_password")
def login(caller: Caller, user: str, password: str, _version: str = "", originator: str = "") -> str:
    held = caller.pool.settings.users.get(user)
    if held is None or held[0] != password:
        raise Failure("SESSION_AUTHENTICATION_FAILED", user, "Authentication failure")
    ref: str = caller.db.add(
        "session",
        this_host=caller.host,
        pool=True,
        last_active=now(),
        auth_user_name=user,
        originator=originator,
        is_local_superuser=held[1] == "pool-admin",
    )
    caller.pool.last_used[ref] = time.monotonic()
    return ref


@call("session.logout")
def logout(caller: Caller) -> None:
    caller.db.remove("session", caller.session)


def start_task(caller: Caller, name: str, function: Handler, params: list[Any]) -> str:
    """Run a call on a thread of its own; return its task."""
    task = create_task(caller, f"Async.{name}", "")
    inner = Caller(caller.pool, caller.host, caller.session, task)
    threading.Thread(target=run_task, args=(inner, name, function, params), daemon=True).start()
    return task


def run_task(caller: Caller, name: str, function: Handler, params: list[Any]) -> None:
    """Work, and write the outcome into the task."""
    outcome: dict[str, Any]
    try:
        caller.pool.provoke(name, after=False)
        result = function(caller, *params)
        caller.pool.provoke(name, after=True)
        outcome = {"status": "success", "result": "" if result is None else to_xml(result)}
    except Failure as failure:
        cancelled = failure.code == "TASK_CANCELLED"
        outcome = {
            "status": "cancelled" if cancelled else "failure",
            "error_info": [failure.code, *failure.params],
        }
    except HostDiedError:
        outcome = {"status": "failure", "error_info": ["HOST_OFFLINE", caller.host]}
    except Exception as error:  # noqa: BLE001 - a bug in here must not leave a task that never ends
        outcome = {"status": "failure", "error_info": ["INTERNAL_ERROR", repr(error)]}
        traceback.print_exc()
    end_task(caller, outcome)


def end_task(caller: Caller, outcome: dict[str, Any]) -> None:
    """Write an outcome."""
    with caller.db.lock:
        if caller.task in caller.db.tables["task"]:
            caller.db.set(
                "task", caller.task, finished=now(), progress=1.0, allowed_operations=["destroy"], **outcome
            )


def step(caller: Caller, progress: float) -> None:
    """Show progress; stop if that was asked for."""
    if not caller.task or caller.task not in caller.db.tables["task"]:
        return
    if caller.db.row("task", caller.task)["status"] == "cancelling":
        raise Failure("TASK_CANCELLED", caller.task)
    caller.db.set("task", caller.task, progress=progress)


@call("task.create")
def create_task(caller: Caller, label: str, description: str) -> str:
    ref: str = caller.db.add(
        "task",
        name_label=label,
        name_description=description,
        created=now(),
        resident_on=caller.host,
        type="<none/>",
        allowed_operations=["cancel", "destroy"],
        backtrace="()",
    )
    return ref


@call("task.destroy")
def destroy_task(caller: Caller, task: str) -> None:
    caller.db.remove("task", task)


@call("task.cancel")
def cancel_task(caller: Caller, task: str) -> None:
    with caller.db.lock:
        if caller.db.row("task", task)["status"] != "pending":
            raise Failure("OPERATION_NOT_ALLOWED", "The task is not pending")
        caller.db.set("task", task, status="cancelling")


for _field in ("status", "result", "error_info", "progress", "other_config"):

    def _set(caller: Caller, task: str, value: Any, field: str = _field) -> None:
        caller.db.set("task", task, **{field: value})

    call(f"task.set_{_field}")(lambda caller, task, value, _set=_set: _set(caller, task, value))


@call("task.add_to_other_config")
def task_add(caller: Caller, task: str, key: str, value: str) -> None:
    caller.db.set("task", task, other_config=caller.db.row("task", task)["other_config"] | {key: value})


@call("secret.create")
def create_secret(caller: Caller, record: dict[str, Any]) -> str:
    ref: str = caller.db.add("secret", value=record["value"], other_config=record.get("other_config", {}))
    return ref


@call("secret.destroy")
def destroy_secret(caller: Caller, secret: str) -> None:
    caller.db.remove("secret", secret)


@call("session.get_this_host")
def this_host(caller: Caller, _session: str) -> str:
    return caller.host


_CLASS_NAMES = {name.lower(): name for name in CLASSES}
_SUBSCRIPTION = re.compile(r"(\w+|\*)(?:/(OpaqueRef:[0-9a-zA-Z-]+))?")


@call("event.from")
def event_from(caller: Caller, classes: list[str], token: str, timeout: float) -> dict[str, Any]:
    wanted = _subscriptions(classes)
    since = 0
    if token:
        match = re.fullmatch(r"(\d{20}),(\d{20})", token)
        if match is None:
            raise Failure("EVENT_FROM_TOKEN_PARSE_FAILURE", token)
        since = int(match[1])
    end = time.monotonic() + float(timeout)
    db = caller.db
    with db.changed:
        while True:
            events = _events_since(caller, wanted, since)
            left = end - time.monotonic()
            if events or left <= 0:
                break
            db.changed.wait(min(left, 1.0))
            if caller.session not in db.tables["session"]:
                raise Failure("SESSION_INVALID", caller.session)
        counts = {name.lower(): len(rows) for name, rows in db.tables.items()}
        return {"events": events, "valid_ref_counts": counts, "token": _token(db.generation)}


def _subscriptions(classes: list[str]) -> list[tuple[str, str]]:
    wanted = []
    for text in classes:
        match = _SUBSCRIPTION.fullmatch(text)
        if match is None:
            raise Failure("EVENT_SUBSCRIPTION_PARSE_FAILURE", text)
        wanted.append((_CLASS_NAMES.get(match[1].lower(), match[1]), match[2] or ""))
    return wanted


def _token(generation: int) -> str:
    return f"{generation:020d},{0:020d}"


def _events_since(caller: Caller, wanted: list[tuple[str, str]], since: int) -> list[dict[str, Any]]:
    db = caller.db
    changes: list[tuple[int, str, str, str]] = []
    for name, only in wanted:
        for cls in CLASSES if name == "*" else [name] if name in CLASSES else []:
            if cls in {"session", "secret", "message"} and name == "*":
                continue
            refs = [only] if only in db.tables[cls] else [] if only else db.tables[cls]
            changes += [
                (db.touched[ref], cls, ref, "add" if db.made[ref] > since else "mod")
                for ref in refs
                if db.touched[ref] > since
            ]
            for generation, gone_cls, ref in reversed(db.gone) if since else ():
                if generation <= since:
                    break
                if gone_cls == cls and only in {"", ref}:
                    changes.append((generation, cls, ref, "del"))
    events = []
    for generation, cls, ref, operation in sorted(changes):
        event = {
            "id": generation,
            "timestamp": Date("19700101T00:00:00Z"),
            "class": cls.lower(),
            "operation": operation,
            "ref": ref,
        }
        if operation != "del":
            event["snapshot"] = db.record(cls, ref)
        events.append(event)
    return events


@call("event.inject")
def inject(caller: Caller, cls: str, ref: str) -> str:
    name = _CLASS_NAMES.get(cls.lower(), cls)
    caller.db.row(name, ref)
    caller.db.touch(name, ref)
    return _token(caller.db.generation)
