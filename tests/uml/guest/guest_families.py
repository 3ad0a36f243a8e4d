"""Families of linked clones on real mounts, where two clients of one server are at work on them.

What stands between the members is the server alone: who removes a directory, and what a name says there.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import pytest
from file_storage import FileStorage

from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Backend
from breezeblock.backends.registry import open_backend, read_config
from breezeblock.errors import ConflictError, UnavailableError
from breezeblock.testing import Disk, Lab
from breezeblock.testing.lab import attempt
from breezeblock.testing.linked import family

ROOT = Path("/run/nfsroot")
Result = TypeVar("Result")


@contextmanager
def two_clients(tmp_path: Path, versions: tuple[str, str]) -> Iterator[tuple[Lab, tuple[Backend, Backend]]]:
    """Yield a laboratory at the first client, which reads on the server's side, and both clients.

    Two mounts of one kernel by the same version 4 are *one* client to the server: what it delegated to one
    of them is not called back when the other changes it, so they are no stand-in for two machines.
    """
    export = f"/export/family-{uuid4().hex}"
    (ROOT / export.lstrip("/")).mkdir()
    first, second = (
        open_backend(
            "nas",
            read_config({"kind": "nfs", "shares": [f"127.0.0.1:{export} -o vers={version}"]}, "test"),
            tmp_path / str(place),
        )
        for place, version in enumerate(versions)
    )
    second.start()
    lab = Lab(FileStorage(ROOT / export.lstrip("/"), lambda: first, options={"clone": "linked"}))
    yield lab, (first, second)
    mounted = {line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()}
    assert len([point for point in mounted if str(tmp_path) in point]) == 2, "two mounts, two caches"
    assert list((ROOT / export.lstrip("/")).iterdir()) == []


def at_once(acts: Sequence[Callable[[], None]]) -> None:
    start = threading.Barrier(len(acts) or 1)
    failures: list[BaseException] = []

    def go(act: Callable[[], None]) -> None:
        try:
            start.wait()
            act()
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)

    threads = [threading.Thread(target=go, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for failure in failures:
        raise failure


def repeated(verb: Callable[[Attempt], Result]) -> Result:
    """Carry out a verb as the service does: again, where another client removed what it looked at."""
    mine = attempt()
    for _ in range(4):
        try:
            return verb(mine)
        except UnavailableError:
            time.sleep(0.2)
    return verb(mine)


def remove(lab: Lab, disk: Disk, client: Backend) -> None:
    repeated(partial(client.delete, disk.volume))
    lab.disks.remove(disk)


def change(lab: Lab, disk: Disk, client: Backend, what: str) -> None:
    if what == "delete":
        remove(lab, disk, client)
    elif what == "unsnap" and disk.snapshots:
        snapshot = disk.at(0)
        disk.placed(repeated(partial(client.delete_snapshot, disk.volume, snapshot)))
        del disk.snapshots[snapshot.id]
    elif what == "flatten":
        try:
            disk.placed(repeated(partial(client.flatten, disk.volume)))
        except ConflictError:
            return  # somebody still rests on it
    elif what == "shorten":
        disk.placed(repeated(partial(client.shorten, disk.volume)))


@pytest.mark.parametrize("versions", [("3", "3"), ("4.2", "4.1"), ("3", "4.2")], ids="-".join)
def test_two_clients_at_one_family(tmp_path: Path, versions: tuple[str, str]) -> None:
    with two_clients(tmp_path, versions) as (lab, clients):
        for seed in range(6):
            chance = random.Random(seed)
            disks = family(lab)
            chosen = [chance.choice(["delete", "delete", "unsnap", "flatten", "shorten"]) for _ in disks]
            host = [clients[(seed + place) % 2] for place in range(4)]
            at_once([partial(change, lab, *each) for each in zip(disks, host, chosen, strict=True)])
            lab.verify()
            at_once([partial(remove, lab, *each) for each in zip(list(lab.disks), host, strict=False)])
            lab.verify_nothing_left()
        print(f"\nNFS {' and '.join(versions)}: two clients at 6 families, everything right and gone")
