"""Random operations on volumes over several shares, while what carries them out is killed again and again.

Each volume has a model beside it: a pattern for each of a few slots, and those of its snapshots. It is
written and read past the service, by qemu-io in the share's own directory. Some threads ask for
operations, each on volumes that no other thread has in hand, and wait for their ends; meanwhile another one
kills. At the end every byte must be what the model says, nothing may be at work or in error, and when
everything is deleted nothing may be left.
"""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from breezeblock.catalog import invariants
from breezeblock.catalog.database import Database
from qemu_io import QEMU_IO, backing_name, image_format
from served import PATIENCE_S, Served

SLOTS, SLOT_BYTES = 6, 64 << 10
ACCEPTED = {200, 202, 204}
REFUSALS = ("rest on it", "layers")
"""What a family of clones does not allow: flattening its middle, a chain without end."""


@dataclass(eq=False)
class Disk:
    """A volume, and what it must hold."""

    id: str
    directory: Path
    gib: int
    slots: list[int]
    snapshots: dict[str, list[int]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def image(self, snapshot_id: str = "") -> tuple[Path, str]:
        """Return the image that a consumer opens, or that holds a snapshot, and its format."""
        first = self.directory / f"volume-{self.id}"
        info = Path(f"{first}.info")
        described = json.loads(info.read_text()) if info.exists() else {"active": first.name}
        name = described[snapshot_id or "active"]
        if snapshot_id:
            name = backing_name(self.directory / name)
        return self.directory / name, image_format(self.directory / name)


class Chaos:
    """One run."""

    def __init__(
        self,
        served: Served,
        shares: Mapping[str, Path],
        seed: int,
        operations: int,
        volumes: int = 20,
    ) -> None:
        self.served, self.shares, self.seed = served, shares, seed
        self.wanted, self.most = operations, volumes
        self.disks: list[Disk] = []
        self.done = 0
        self.refused = 0
        self.kills: dict[str, int] = {}
        self.notes: list[str] = []
        """What happened when, for who must find out why something is not as it should be."""
        self._names = iter(range(1_000_000))
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def run(self, killers: Sequence[tuple[str, Callable[[random.Random], None]]], threads: int = 4) -> None:
        """Work until enough was done and each killer's turn came."""
        crowd = [threading.Thread(target=self._guarded, args=(self._work, n)) for n in range(threads)]
        self._failures: list[BaseException] = []
        for thread in crowd:
            thread.start()
        self._guarded(self._kill, killers)
        while self.done < self.wanted and not self._failures:
            time.sleep(0.05)
        self._stop.set()
        for thread in crowd:
            thread.join()
        for failure in self._failures:
            raise failure

    def note(self, volume_id: str, what: str) -> None:
        self.notes.append(f"{time.monotonic():.2f} {volume_id} {what}")

    def told(self) -> str:
        """Return what happened, and what is there."""
        lines = list(self.notes)
        for share in self.shares.values():
            for path in sorted(share.rglob("*")):
                form = image_format(path) if path.is_file() else "-"
                rests = backing_name(path) if form == "qcow2" else ""
                said = path.read_text() if path.suffix in {".info", ".intent"} else rests
                lines.append(f"{path.relative_to(share.parent)} {' '.join(said.split())}")
        return "\n".join(lines)

    def _guarded(self, act: Callable[[Any], None], argument: Any) -> None:
        try:
            act(argument)
        except BaseException as error:  # noqa: BLE001 - raised by `run`
            self._failures.append(error)
            self._stop.set()

    def _kill(self, killers: Sequence[tuple[str, Callable[[random.Random], None]]]) -> None:
        chance = random.Random(self.seed)
        while len(self.disks) < self.most // 4 and not self._stop.is_set():
            time.sleep(0.005)  # there must be something to lose
        for number, (name, kill) in enumerate(killers):
            while self.done < self.wanted * number // len(killers) and not self._stop.is_set():
                time.sleep(0.005)
            if self._stop.wait(chance.uniform(0, 0.1)):
                return
            self.note("-", f"kill {name}")
            kill(chance)
            self.kills[name] = self.kills.get(name, 0) + 1

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────

    def ask(self, method: str, path: str, body: Any, happened: Callable[[], bool]) -> bool:
        """Ask until it is accepted, or has `happened` although the answer was lost; False if refused."""
        end = time.monotonic() + PATIENCE_S
        while True:
            status, answer = self.served.call(method, path, body)
            if status in ACCEPTED:
                return True
            if happened():
                return True
            if any(reason in str(answer) for reason in REFUSALS):
                return False
            assert time.monotonic() < end, (method, path, body, status, answer, self.served.log())
            time.sleep(0.05)

    def get(self, path: str) -> Any:
        """Return what is there, None if nothing is; waits for a service that is away."""
        end = time.monotonic() + PATIENCE_S
        while True:
            status, answer = self.served.call("GET", path)
            if status in {200, 404}:
                return answer if status == 200 else None
            assert time.monotonic() < end, (path, status, answer, self.served.log())
            time.sleep(0.05)

    def settle(self, kind: str, one_id: str) -> Any:
        """Wait until nothing is at work on it; it must be available then, or gone (None)."""
        end = time.monotonic() + PATIENCE_S
        while True:
            answer = self.get(f"/{kind}s/{one_id}")
            found = answer and answer[kind]
            if found is None or found["status"] == "available":
                return found
            assert not found["status"].startswith("error"), (found, self.served.log())
            assert time.monotonic() < end, (
                found,
                self.served.operations("queued", "running"),
                self.served.log(),
            )
            time.sleep(0.03)

    def named(self, kind: str, name: str) -> str:
        """Return the id of what was made under a name, or nothing."""
        answer = self.get(f"/{kind}s?name={name}")
        return answer[f"{kind}s"][0]["id"] if answer[f"{kind}s"] else ""

    def make(self, kind: str, wanted: dict[str, Any]) -> Any:
        """Make a volume or a snapshot, wait for it; None if it is refused."""
        name = f"chaos-{next(self._names)}"
        body = {kind: {"name": name, **wanted}}
        if not self.ask("POST", f"/{kind}s", body, lambda: bool(self.named(kind, name))):
            return None
        return self.settle(kind, self.named(kind, name))

    # ── operations ───────────────────────────────────────────────────────────────────────────────────

    def _work(self, number: int) -> None:
        chance = random.Random(f"{self.seed} {number}")
        verbs = {
            self.create: 2,
            self.snapshot: 5,
            self.clone: 4,
            self.extend: 2,
            self.revert: 3,
            self.unsnap: 4,
            self.delete: 2,
            self.flatten: 2,
            self.shorten: 1,
        }
        while not self._stop.is_set():
            few = len(self.disks) < self.most - 4
            verb = chance.choices([*verbs], weights=[*verbs.values()])[0]
            if few or (verb in {self.create, self.clone} and len(self.disks) >= self.most):
                verb = chance.choice([self.create, self.clone]) if few else self.delete
            with self._in_hand(chance) as disk:
                if disk is None:
                    verb = self.create if few else self.pause
                self.note(disk.id if disk else "-", verb.__name__)
                if verb(chance, disk):  # type: ignore[arg-type]  # `create` and `pause` need none
                    with self._lock:
                        self.done += verb != self.pause
                else:
                    self.refused += 1
                if disk is not None and disk in self.disks:
                    self.write(chance, disk)

    @contextmanager
    def _in_hand(self, chance: random.Random) -> Iterator[Disk | None]:
        with ExitStack() as held, self._lock:
            free = [disk for disk in self.disks if not disk.lock.locked()]
            disk = chance.choice(free) if free else None
            if disk is not None:
                held.enter_context(disk.lock)
            rest = held.pop_all()
        with rest:
            yield disk

    def pause(self, _chance: random.Random, _disk: Any) -> bool:
        time.sleep(0.02)
        return True

    def create(self, chance: random.Random, _disk: Any) -> bool:
        made = self.make("volume", {"size": 1})
        return self._new(chance, made, [0] * SLOTS)

    def _new(self, chance: random.Random, made: Any, slots: list[int]) -> bool:
        if made is None:
            return False
        pool = made["os-vol-host-attr:host"].partition("#")[2]
        disk = Disk(made["id"], self.shares[pool], made["size"], list(slots))
        self.write(chance, disk)
        with self._lock:
            self.disks.append(disk)
        return True

    def clone(self, chance: random.Random, disk: Disk) -> bool:
        snapshot = chance.choice([*disk.snapshots, ""])
        source = {"snapshot_id": snapshot} if snapshot else {"source_volid": disk.id}
        made = self.make("volume", {"size": disk.gib, **source})
        self.note(disk.id, f"clone of {snapshot or 'now'} made {made and made['id']}")
        return self._new(chance, made, disk.snapshots[snapshot] if snapshot else disk.slots)

    def snapshot(self, _chance: random.Random, disk: Disk) -> bool:
        made = self.make("snapshot", {"volume_id": disk.id})
        if made is not None:
            disk.snapshots[made["id"]] = list(disk.slots)
        return made is not None

    def _act(self, disk: Disk, action: str, argument: Any, happened: Callable[[], bool]) -> bool:
        taken = self.ask("POST", f"/volumes/{disk.id}/action", {action: argument}, happened)
        # Flattening and shortening leave the status as it is.
        end = time.monotonic() + PATIENCE_S
        while self.get(f"/operations?state=queued,running&volume_id={disk.id}")["operations"]:
            assert time.monotonic() < end, (disk, action, self.served.log())
            time.sleep(0.03)
        assert self.settle("volume", disk.id) is not None
        return taken

    def extend(self, _chance: random.Random, disk: Disk) -> bool:
        wanted = disk.gib + 1

        def grown() -> bool:
            return bool(self.get(f"/volumes/{disk.id}")["volume"]["size"] == wanted)

        taken = self._act(disk, "os-extend", {"new_size": wanted}, grown)
        disk.gib = wanted if taken else disk.gib
        return taken

    def revert(self, _chance: random.Random, disk: Disk) -> bool:
        # Its status would tell whether an answer that was lost meant yes; to ask again does no harm.
        snapshot = next(reversed(disk.snapshots), None)
        if snapshot is None:
            return self.snapshot(_chance, disk)
        taken = self._act(disk, "revert", {"snapshot_id": snapshot}, lambda: False)
        disk.slots = list(disk.snapshots[snapshot]) if taken else disk.slots
        return taken

    def flatten(self, _chance: random.Random, disk: Disk) -> bool:
        return self._act(disk, "breezeblock-flatten", None, lambda: False)

    def shorten(self, _chance: random.Random, disk: Disk) -> bool:
        return self._act(disk, "breezeblock-shorten", None, lambda: False)

    def unsnap(self, chance: random.Random, disk: Disk) -> bool:
        if not disk.snapshots:
            return self.snapshot(chance, disk)
        snapshot = chance.choice([*disk.snapshots])
        path = f"/snapshots/{snapshot}"
        taken = self.ask("DELETE", path, None, lambda: self.get(path) is None)
        if taken:
            assert self.settle("snapshot", snapshot) is None
            del disk.snapshots[snapshot]
        return taken

    def delete(self, _chance: random.Random, disk: Disk) -> bool:
        path = f"/volumes/{disk.id}"
        taken = self.ask("DELETE", f"{path}?cascade=true", None, lambda: self.get(path) is None)
        if taken:
            assert self.settle("volume", disk.id) is None
            with self._lock:
                self.disks.remove(disk)
        return taken

    def write(self, chance: random.Random, disk: Disk) -> None:
        slot, value = chance.randrange(SLOTS), chance.randrange(1, 256)
        path, form = disk.image()
        (said,) = QEMU_IO.tell(path, form, f"write -P {value} {slot * SLOT_BYTES} {SLOT_BYTES}")
        assert said.startswith("wrote "), said
        disk.slots[slot] = value
        self.note(disk.id, f"wrote {slot}={value} to {path.name}")

    # ── judging ──────────────────────────────────────────────────────────────────────────────────────

    def verify(self) -> None:
        """See that nothing is lost, wrong, stuck or half done."""
        self.served.until_idle()
        known = {one["id"]: one for one in self.served.all("volumes")}
        snapshots = {one["id"]: one for one in self.served.all("snapshots")}
        assert set(known) == {disk.id for disk in self.disks}
        assert set(snapshots) == {one for disk in self.disks for one in disk.snapshots}
        assert {one["status"] for one in (*known.values(), *snapshots.values())} <= {"available"}
        self._counts()
        for disk in self.disks:
            assert known[disk.id]["size"] == disk.gib
            self._reads(disk, "", disk.slots)
            for snapshot, slots in disk.snapshots.items():
                self._reads(disk, snapshot, slots)
        left = [path for share in self.shares.values() for path in share.glob(".tmp-*")]
        left += [path for share in self.shares.values() for path in share.glob("*.intent")]
        assert left == []

    def _reads(self, disk: Disk, snapshot: str, slots: list[int]) -> None:
        path, form = disk.image(snapshot)
        asked = [f"read -P {value} {place * SLOT_BYTES} {SLOT_BYTES}" for place, value in enumerate(slots)]
        for place, said in enumerate(QEMU_IO.tell(path, form, *asked)):
            if "verification failed" in said or not said.startswith("read "):
                (held,) = QEMU_IO.tell(path, form, f"read -v {place * SLOT_BYTES} 16")
                raise AssertionError((disk, snapshot, place, said, held))

    def _counts(self) -> None:
        database = Database(self.served.database_url)
        try:
            with database.read() as connection:
                assert invariants.orphans(connection) == []
                assert invariants.miscounts(connection) == []
        finally:
            database.dispose()

    def end(self) -> None:
        """Delete everything: nothing may be left."""
        for disk in list(self.disks):
            self.delete(random.Random(0), disk)
        self.served.until_idle()
        self._counts()
        assert [str(path) for share in self.shares.values() for path in share.rglob("*")] == []
