"""Telling systemd how we are (sd_notify(3)): ready, stopping, still alive."""

import os
import socket
import threading


def notify(message: str) -> None:
    """Send one message, such as `READY=1`, to the service manager, if one is listening."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]  # Linux's abstract namespace
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.connect(address)
        channel.sendall(message.encode())


def keep_alive(stopping: threading.Event) -> None:
    """Send `WATCHDOG=1` in half the time that the unit allows, in a thread, until stopped."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return
    interval = int(microseconds) / 2_000_000

    def beat() -> None:
        while not stopping.wait(interval):
            notify("WATCHDOG=1")

    threading.Thread(target=beat, name="watchdog", daemon=True).start()
