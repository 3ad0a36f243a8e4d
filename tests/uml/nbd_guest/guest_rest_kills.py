"""The kernel's device of a volume in an object store, while the processes that serve it are killed."""

import os
import signal
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec
from guest_nbd import MIB, Writer, bytes_of, content, fork, forked, kill, until
from guest_rest import LENGTH, Host, attempt

from breezeblock.app import attaching, nbd
from breezeblock.connect import linux, relays
from breezeblock.connect.served import uri as served_uri
from breezeblock.errors import BreezeblockError
from breezeblock.objects import serving
from breezeblock.objects.serving import messages
from breezeblock.objects.serving.__main__ import main


def keeper(task: serving.Task) -> int:
    """Start a keeper as a child of ours: a new Python would take seconds in here."""

    def work() -> None:
        out, into = os.pipe()
        os.write(into, messages.packed(task))
        os.close(into)
        os.dup2(out, 0)
        sys.stdin = open(0)  # noqa: SIM115 - pytest has put something else there
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        main()

    return fork(work)


def relay(task: serving.Task, front: Path) -> int:
    """The same for a relay, which the connector finds there."""
    front.unlink(missing_ok=True)
    child = fork(lambda: nbd.relay(served_uri(task), unix=front))
    until(front.exists)
    return child


def served(task: serving.Task) -> bool:
    try:
        return serving.running(task.socket) is not None
    except BreezeblockError:
        return False


def test_killed_workers_and_keepers_cost_a_stall_and_no_error() -> None:
    """Those of the relay last longer: what it had not answered waits for the kernel's timeout, 4 s here."""
    with tempfile.TemporaryDirectory(dir="/run") as directory, ExitStack() as stack:
        host = Host(Path(directory))
        volume = host.volume()
        host.backend.create(volume, attempt())
        task = attaching.task(host.config, host.data(volume))
        keeping = keeper(task)
        until(lambda: served(task))
        kernel = linux.LinuxConnector(Path(directory, "kernel"), timeout_s=4, dead_timeout_s=120)
        connector = attaching.connector(host.config, Path(directory, "records"), kernel=kernel)
        data, front = host.data(volume), relays.path_of(task.socket)
        relaying = relay(task, front)
        device = connector.attach(data).device
        host.backend.extend(volume, LENGTH + 64 * MIB, attempt())
        connector.grown(data)
        assert bytes_of(device) == LENGTH + 64 * MIB
        stack.enter_context(forked(lambda: kernel.keep(lambda: False)))
        stalls = {}
        writers = [Writer(device, first * 1000) for first in range(2)]
        for writer in writers:
            writer.start()
        for who in ("worker", "keeper", "relay"):
            time.sleep(1)
            for writer in writers:
                writer.longest_s = 0.0
            if who == "worker":
                view = serving.running(task.socket)
                assert view is not None
                os.kill(view.pid, signal.SIGKILL)
            elif who == "keeper":
                kill(keeping)
                keeping = keeper(msgspec.structs.replace(task, resume=True))
            else:
                kill(relaying)
                relaying = relay(task, front)
            before = [sum(writer.written.values()) for writer in writers]
            until(
                lambda before=before: all(  # type: ignore[misc] # mypy infers no lambda with defaults
                    writer.error or sum(writer.written.values()) > count + 5
                    for writer, count in zip(writers, before, strict=True)
                )
            )
            time.sleep(0.5)
            stalls[who] = max(writer.longest_s for writer in writers)
        for writer in writers:
            writer.ended.set()
            writer.join(60)
            assert writer.error is None
        with Path(device).open("rb", buffering=0) as fresh:
            os.posix_fadvise(fresh.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            for writer in writers:
                for block, value in writer.written.items():
                    assert os.pread(fresh.fileno(), 4096, block * 4096) == content(block, value)
        reaping = threading.Thread(target=os.waitpid, args=(relaying, 0))
        reaping.start()
        connector.detach(data)
        reaping.join()
        assert not front.exists()
        assert serving.running(task.socket) is None
        kill(keeping, 0)
    total = sum(sum(writer.written.values()) for writer in writers)
    told = ", ".join(f"{who} {stall:.2f} s" for who, stall in stalls.items())
    print(f"served and relayed: {total} durable writes, no error, longest stall {told}")
