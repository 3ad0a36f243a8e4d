"""`kill -9` of the service while it works, again and again: everything ends, and ends right."""

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from breezeblock.catalog import invariants
from breezeblock.catalog.database import Database
from qemu_io import backing_name, image_format
from served import Served

pytestmark = [pytest.mark.crash, pytest.mark.timeout(240)]

KILLS = int(os.environ.get("BREEZEBLOCK_SERVICE_KILLS", "8"))
"""Each costs a start, two seconds of a core. For more of them: tests/crash/test_chaos.py, and in guests."""
PATTERN = bytes(range(256)) * 256  # 64 KiB


def fill(image: Path, image_format: str, value: int) -> None:
    """Write as a guest would."""
    command = f"write -q -P {value} 0 1M"
    subprocess.run(["qemu-io", "-f", image_format, "-c", command, str(image)], check=True)


def reads_as(image: Path, image_format: str, value: int) -> None:
    """Check through an independent reader."""
    command = f"read -q -P {value} 0 1M"
    done = subprocess.run(
        ["qemu-io", "-r", "-f", image_format, "-c", command, str(image)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "verification failed" not in done.stdout + done.stderr, (image, value)


def active(served: Served, volume_id: str) -> tuple[Path, str]:
    base = served.pool / f"volume-{volume_id}"
    info = Path(f"{base}.info")
    image = served.pool / (json.loads(info.read_text())["active"] if info.exists() else base.name)
    return image, image_format(image)


def resting_on(image: Path) -> Iterator[str]:
    """Yield the names of an image and of all below it."""
    yield image.name
    while image_format(image) == "qcow2" and (name := backing_name(image)):
        image = image.with_name(name)
        yield name


def settled(served: Served) -> None:
    """Nothing is stuck, every count is right, and the storage holds what the catalog says."""
    served.until_idle()
    database = Database(served.database_url)
    try:
        with database.read() as connection:
            assert invariants.orphans(connection) == []
            assert invariants.miscounts(connection) == []
    finally:
        database.dispose()
    volumes = {one["id"]: one for one in served.all("volumes")}
    snapshots = {one["id"]: one for one in served.all("snapshots")}
    found = {one["status"] for one in (*volumes.values(), *snapshots.values())}
    assert found <= {"available"}, (found, served.operations("error"), served.log())
    # What no volume rests on is lost space; what a clone rests on stays after its volume.
    images = {path.name for path in served.pool.iterdir() if path.is_file() and path.suffix != ".info"}
    assert images == {name for one in volumes for name in resting_on(active(served, one)[0])}


def work(served: Served, seed: int, stop: threading.Event) -> None:
    """Ask for random things, whatever the answers are, until told to stop."""
    chance = random.Random(seed)
    while not stop.is_set():
        try:
            volumes = [one["id"] for one in served.all("volumes")]
            snapshots = [(one["id"], one["volume_id"]) for one in served.all("snapshots")]
        except AssertionError:
            time.sleep(0.01)
            continue
        verb = chance.choice(["create", "snapshot", "clone", "from", "extend", "unsnap", "delete", "revert"])
        if verb == "create" or len(volumes) < 3:
            served.call("POST", "/volumes", {"volume": {"size": 1, "name": "chaos"}})
        elif verb == "snapshot":
            served.call("POST", "/snapshots", {"snapshot": {"volume_id": chance.choice(volumes)}})
        elif verb == "clone" and len(volumes) < 20:
            served.call("POST", "/volumes", {"volume": {"size": 2, "source_volid": chance.choice(volumes)}})
        elif verb == "from" and snapshots and len(volumes) < 20:
            source = chance.choice(snapshots)[0]
            served.call("POST", "/volumes", {"volume": {"size": 2, "snapshot_id": source}})
        elif verb == "extend":
            path = f"/volumes/{chance.choice(volumes)}/action"
            served.call("POST", path, {"os-extend": {"new_size": chance.randint(2, 5)}})
        elif verb == "unsnap" and snapshots:
            served.call("DELETE", f"/snapshots/{chance.choice(snapshots)[0]}")
        elif verb == "delete":
            cascade = chance.choice(["", "?cascade=true"])
            served.call("DELETE", f"/volumes/{chance.choice(volumes)}{cascade}")
        elif verb == "revert" and snapshots:
            snapshot, volume = chance.choice(snapshots)
            served.call("POST", f"/volumes/{volume}/action", {"revert": {"snapshot_id": snapshot}})


def test_killed_again_and_again_under_load(served: Served) -> None:
    served.start()
    chance = random.Random(7)
    for kill in range(KILLS):
        stop = threading.Event()
        crowd = [threading.Thread(target=work, args=(served, kill * 10 + n, stop)) for n in range(4)]
        for thread in crowd:
            thread.start()
        time.sleep(chance.uniform(0.1, 0.7))
        served.kill()
        stop.set()
        for thread in crowd:
            thread.join()
        served.start()
    settled(served)
    assert len(served.operations("done")) > KILLS
    for volume in served.all("volumes"):
        assert served.call("DELETE", f"/volumes/{volume['id']}?cascade=true")[0] == 202
    served.until_idle()
    assert list(served.pool.iterdir()) == []
    database = Database(served.database_url)
    with database.read() as connection:
        assert invariants.miscounts(connection) == []
    database.dispose()


def test_killed_while_a_merge_copies(served: Served) -> None:
    """The snapshot goes, the volume and its other snapshots keep every byte."""
    served.start()
    for delay in (0.0, 0.01, 0.03, 0.08):
        volume = served.volume()
        fill(*active(served, volume), 1)
        first = served.snapshot(volume)
        fill(*active(served, volume), 2)
        middle = served.snapshot(volume)
        fill(*active(served, volume), 3)
        assert served.call("DELETE", f"/snapshots/{middle}")[0] == 202
        time.sleep(delay)
        served.kill()
        served.start()
        served.until(f"/snapshots/{middle}", "gone")
        reads_as(*active(served, volume), 3)
        copy = served.volume(snapshot_id=first)
        reads_as(*active(served, copy), 1)
    settled(served)


def test_sigterm_leaves_work_that_resumes(served: Served) -> None:
    served.start()
    for _ in range(20):
        served.call("POST", "/volumes", {"volume": {"size": 1}})
    assert served.stop() == 0, served.log()
    served.start()
    settled(served)
    assert len(served.all("volumes")) == 20


def test_a_second_process_of_the_same_name_waits(served: Served) -> None:
    served.start()
    second = Served(served.directory, served.database_url)
    second.start("worker", executor="one")
    assert second.processes["one"].wait(60) != 0
    assert "already running" in served.log()
    served.volume()


@pytest.mark.postgres
def test_a_dead_workers_operations_are_taken_over(tmp_path: Path, postgres_url: str) -> None:
    from breezeblock.catalog import migrate

    migrate.upgrade(Database(postgres_url))
    served = Served(tmp_path, postgres_url)
    try:
        served.start("worker", executor="first")
        served.start("api", executor="api")
        until = time.monotonic() + 60
        while served.call("POST", "/volumes", {"volume": {"size": 1}})[0] != 202:
            assert time.monotonic() < until, served.log()
            time.sleep(0.1)
        served.until_idle()
        served.signal(signal.SIGSTOP, "first")
        for _ in range(5):
            assert served.call("POST", "/volumes", {"volume": {"size": 1}})[0] == 202
        served.signal(signal.SIGCONT, "first")
        time.sleep(0.06)  # now it has claimed some
        served.kill("first")  # and never comes back
        served.start("worker", executor="second")
        served.until_idle()
        settled(served)
        assert len(served.all("volumes")) >= 6
    finally:
        served.stop_all()
