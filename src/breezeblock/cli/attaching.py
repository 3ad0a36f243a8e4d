"""`breezeblock attach` and `detach`: volumes, and other servers' NBD exports, as devices of this host."""

import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import NAMESPACE_DNS, uuid5

import typer

from breezeblock.cli import options
from breezeblock.errors import BreezeblockError, UnavailableError

if TYPE_CHECKING:
    from breezeblock.cli.client import Client
    from breezeblock.connect.served import ServedConnector

_MADE_S = 10.0
What = Annotated[
    str,
    typer.Argument(
        metavar="VOLUME|URI",
        help="A volume's name or id; or nbd+unix:///EXPORT?socket=/PATH, or nbd://HOST:PORT/EXPORT.",
        show_default=False,
    ),
]
State = Annotated[
    Path | None,
    typer.Option(
        "--state",
        help="Where attachments are recorded. Default: /var/lib/breezeblock/attachments.",
        show_default=False,
    ),
]
NoDevice = Annotated[
    bool,
    typer.Option(
        "--no-device", help="Serve the volume on a socket for QEMU or libvirt; the kernel has no part in it."
    ),
]
Relay = Annotated[
    bool,
    typer.Option(
        "--relay/--no-relay",
        help="A small process stands between the kernel and the one that serves the volume: if that is "
        "killed, requests wait until it is back, under a second. Without it each costs less, and waits for "
        "--timeout.",
    ),
]
Discard = Annotated[
    bool,
    typer.Option(
        "--discard",
        help="Give up what this host's journal holds of a volume that another host had since. (To attach "
        "takes the volume back; to detach does not.)",
    ),
]
Steal = Annotated[
    bool,
    typer.Option(
        "--steal",
        help="Break the lock of another host, which is dead for certain (pools of the layout flat).",
    ),
]


def register(root: typer.Typer) -> None:
    """Add these commands to the command line."""
    root.command()(attach)
    root.command()(detach)


def attach(
    what: What,
    state: State = None,
    timeout: Annotated[
        int,
        typer.Option(
            "--timeout",
            min=1,
            help="Seconds after which a request is sent again over another connection; more than the "
            "server takes for anything.",
        ),
    ] = 5,
    dead_timeout: Annotated[
        int, typer.Option("--dead-timeout", min=1, help="Seconds that requests wait for a server.")
    ] = 600,
    read_only: Annotated[bool, typer.Option("--read-only", help="Let nobody write to the device.")] = False,
    no_device: NoDevice = False,
    relay: Relay = True,
    discard: Discard = False,
    steal: Steal = False,
    cloud: options.Cloud = None,
    config: options.Config = None,
) -> None:
    """Make a volume, or what an NBD server exports, a block device of this host; print the device.

    A volume is asked of the service and served by a process of this host, with the back end's settings from
    the configuration here.
    """
    from breezeblock.connect import linux

    where = state or linux.STATE
    kernel = linux.LinuxConnector(where, timeout_s=timeout, dead_timeout_s=dead_timeout)
    if "://" in what:
        _result(kernel.attach(linux.connection_data(what), read_only=read_only).device)
        return
    from breezeblock.app import attaching
    from breezeblock.cli import client, server

    served = attaching.connector(
        server.load(config),
        where,
        kernel=None if no_device else kernel,
        discard=discard,
        steal=steal,
        relayed=relay,
    )
    _result(_attach(client.connect(cloud), served, what, read_only=read_only))


def detach(
    what: What,
    state: State = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write nothing back that the kernel has cached: it is lost.")
    ] = False,
    no_device: NoDevice = False,
    discard: Discard = False,
    cloud: options.Cloud = None,
    config: options.Config = None,
) -> None:
    """Write everything back and take the device away; of a volume nothing stays on this host."""
    from breezeblock.connect import linux

    where = state or linux.STATE
    kernel = linux.LinuxConnector(where)
    if "://" in what:
        kernel.detach(linux.connection_data(what), force=force)
        return
    from breezeblock.app import attaching
    from breezeblock.cli import client, server

    served = attaching.connector(
        server.load(config), where, kernel=None if no_device else kernel, discard=discard
    )
    _detach(client.connect(cloud), served, what, force=force)


def _attach(service: "Client", served: "ServedConnector", what: str, *, read_only: bool) -> str:
    volume = service.find("volume", what)
    made, ours = _attachment(service, volume["id"], "ro" if read_only else "rw")
    try:
        attached = served.attach(made["connection_info"], read_only=read_only)
    except BaseException:
        if ours:
            service.delete(f"/attachments/{made['id']}")
        raise
    if made["status"] != "attached":
        _complete(service, made["id"])
    return attached.device


def _attachment(service: "Client", volume_id: str, mode: str) -> tuple[dict[str, Any], bool]:
    """Return the volume's attachment to this host, and whether it is ours and not another command's."""
    if held := _here(service, volume_id):
        return _made(service, held), False
    connector = {"host": socket.gethostname(), "platform": "linux", "os_type": "linux"}
    wanted = {"volume_uuid": volume_id, "instance_uuid": _host(), "connector": connector, "mode": mode}
    try:
        return service.post("/attachments", {"attachment": wanted})["attachment"], True
    except BreezeblockError:
        held = _here(service, volume_id)  # another command may have been quicker
        if held is None:
            raise
    return _made(service, held), False


def _made(service: "Client", held: dict[str, Any]) -> dict[str, Any]:
    """Return an attachment that another command asked for. Raises UnavailableError if it takes too long."""
    until = time.monotonic() + _MADE_S
    while not held["connection_info"]:
        if time.monotonic() > until:
            raise UnavailableError(
                f"The attachment {held['id']} to this host is still being made.",
                remedy="It goes on when its pool is up (`breezeblock pool list`); then attach again.",
            )
        time.sleep(0.2)
        held = service.get(f"/attachments/{held['id']}")["attachment"]
    return held


def _complete(service: "Client", attachment: str) -> None:
    """Say that the volume is in use; said already by another command, which attached it too = done."""
    try:
        service.post(f"/attachments/{attachment}/action", {"os-complete": None})
    except BreezeblockError:
        if service.get(f"/attachments/{attachment}")["attachment"]["status"] != "attached":
            raise


def _detach(service: "Client", served: "ServedConnector", what: str, *, force: bool) -> None:
    volume = service.find("volume", what)
    held = _here(service, volume["id"])
    known = [data for data in served.records() if data.get("volume_id") == volume["id"]]
    for data in [held["connection_info"]] if held else known:
        served.detach(data, force=force)
    if held:
        service.delete(f"/attachments/{held['id']}")


def _here(service: "Client", volume_id: str) -> dict[str, Any] | None:
    """Return the attachment of a volume to this host."""
    found = list(
        service.pages("/attachments/detail", "attachments", volume_id=volume_id, instance_id=_host())
    )
    return dict(found[0]) if found else None


def _result(device: str) -> None:
    sys.stdout.write(f"{device}\n")


def _host() -> str:
    """Return what stands for this host where Nova has an instance's id."""
    return str(uuid5(NAMESPACE_DNS, socket.gethostname()))
