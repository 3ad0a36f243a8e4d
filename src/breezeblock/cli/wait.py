"""Waiting for an operation, with a progress bar where somebody looks."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import typer

from breezeblock.cli import exits, output
from breezeblock.cli.client import Client
from breezeblock.errors import BreezeblockError, UnavailableError

OVER = frozenset({"done", "error", "cancelled"})
FIRST_PAUSE_S, LAST_PAUSE_S = 0.02, 1.0
RESTART_S = 60.0
"""How long a service that does not answer may take to come back."""


def latest(client: Client, resource: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the newest operation on a volume or snapshot as the API shows it, None when there is none."""
    volume_id = resource.get("volume_id", resource["id"])
    operations = client.get("/operations", volume_id=volume_id, limit=200)["operations"]
    return next((found for found in operations if found["resource_id"] == resource["id"]), None)


def for_resource(client: Client, resource: Mapping[str, Any], *, timeout_s: float) -> None:
    """Wait for the newest operation on a volume or snapshot; see `for_operation`."""
    operation = latest(client, resource)
    if operation is not None:
        for_operation(client, operation, timeout_s=timeout_s)


def for_operation(client: Client, operation: Mapping[str, Any], *, timeout_s: float) -> Mapping[str, Any]:
    """Return the operation once it is done.

    Raises BreezeblockError with the reason when it failed or was cancelled; ends the command with
    `Exit.STILL_RUNNING` when `timeout_s` (0 = never) is over.
    """
    deadline = time.monotonic() + timeout_s if timeout_s else float("inf")
    pause = FIRST_PAUSE_S
    with _goes_on(operation), _shown(operation) as show:
        while operation["state"] not in OVER:
            if time.monotonic() >= deadline:
                output.say(_still(operation))
                raise typer.Exit(exits.Exit.STILL_RUNNING)
            time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
            pause = min(pause * 1.5, LAST_PAUSE_S)
            operation = _look(client, operation["id"])
            show(operation)
    if operation["state"] != "done":
        raise BreezeblockError(failure(operation))
    return operation


def _look(client: Client, operation_id: str) -> Mapping[str, Any]:
    """Ask for an operation; a service that is being restarted is waited for."""
    end = time.monotonic() + RESTART_S
    while True:
        try:
            found: Mapping[str, Any] = client.get(f"/operations/{operation_id}")["operation"]
        except UnavailableError:
            if time.monotonic() >= end:
                raise
            time.sleep(LAST_PAUSE_S)
        else:
            return found


@contextlib.contextmanager
def _goes_on(operation: Mapping[str, Any]) -> Iterator[None]:
    """Say to whoever has had enough of waiting that the operation has not."""
    try:
        yield
    except KeyboardInterrupt:
        output.say(_still(operation))
        raise


def _still(operation: Mapping[str, Any]) -> str:
    again = f"`breezeblock operation watch {operation['id']}`"
    return f"Operation {operation['id']} is {operation['state']} and goes on; {again} waits for it."


def failure(operation: Mapping[str, Any]) -> str:
    """Return one line that says which operation failed and why."""
    what = f"{operation['kind']} ({operation['resource_id']})"
    verb = "was cancelled" if operation["state"] == "cancelled" else "failed"
    return f"{what} {verb}: {output.plain(operation.get('error') or 'no reason was recorded')}"


@contextlib.contextmanager
def _shown(operation: Mapping[str, Any]) -> Iterator[Any]:
    """Give a function that shows an operation's progress on stderr, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
    with Progress(
        *columns, TimeElapsedColumn(), console=output.console(stderr=True), transient=True
    ) as progress:
        task = progress.add_task(str(operation["kind"]), total=None)

        def show(now: Mapping[str, Any]) -> None:
            text = f"{now['kind']} {now['state']}"
            total = now.get("progress_total") or None
            progress.update(task, description=text, total=total, completed=now.get("progress_done") or 0)

        yield show
