"""A kernel's ext4 at work on our NBD server, played again on a volume: cut the power, check the files."""

import asyncio
import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kernel
import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "objects"))

from log_lab import Cut, Disk, let_go, reopened
from replay_lab import Change, Replay, play, prefix

RECORDING = kernel.HERE / "replay_guest" / "guest_recording.py"
LENGTH = 8 << 20
RANDOM, CHECKED = (1000, 100) if os.environ.get("BREEZEBLOCK_CRASH_SCALE") else (60, 14)
"""Cuts at random moments, beside those behind every flush; and those after which files are looked at."""


def recorded(scratch: Path) -> list[Change]:
    def say(line: str) -> None:
        print(f"    | {line}", file=sys.stderr, flush=True)

    report = kernel.run([RECORDING], scratch, say, 200.0, "nbd")
    bad = [f"{outcome.name}: {outcome.detail}" for outcome in report.outcomes if not outcome.passed]
    assert report.outcomes and not bad, "\n".join(bad) or report.output[-4000:]  # noqa: PT018
    return msgspec.msgpack.decode((scratch / "recording").read_bytes(), type=list[Change])


@pytest.mark.uml
@pytest.mark.crash
@pytest.mark.timeout(280)
def test_a_file_system_whose_power_is_cut_comes_back_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    try:
        with kernel.scratch() as scratch:
            changes = recorded(scratch)
    except kernel.NoKernelError as error:
        pytest.fail(str(error), pytrace=False)
    told = [
        Replayed(kept, changes, tmp_path / kept, monkeypatch).run() for kept in ("journal", "store", "lost")
    ]
    summary = f"{len(changes)} requests of ext4; {'; '.join(told)}"
    print(f"    | {summary}", file=sys.stderr)
    record_property("summary", summary)


class Replayed:
    """One way of keeping what is written, and what crashes leave of it."""

    def __init__(self, kept: str, changes: list[Change], place: Path, patch: pytest.MonkeyPatch) -> None:
        place.mkdir()
        self._kept, self._changes, self._place = kept, changes, place
        self._dice = random.Random(kept)
        self._disk, self._work = Disk(patch), Replay(self._dice, LENGTH)
        self._cuts = self._files = 0
        self._systems: list[tuple[int, Path]] = []
        flushes = [number for number, one in enumerate(changes) if one.kind == "flush"]
        self._wanted = {*flushes, *self._dice.sample(range(len(changes)), min(RANDOM, len(changes)))}
        self._checked = {*self._dice.sample(sorted(self._wanted), CHECKED * 2)}

    def run(self) -> str:
        journal = self._place / "journal" if self._kept != "store" else None
        # A world of its own for what comes after the crash: the one that crashed stands still meanwhile.
        with ThreadPoolExecutor(1) as after:

            def crashed(number: int, left: Cut) -> None:
                after.submit(lambda: asyncio.run(self._look(number, left))).result()

            asyncio.run(
                play(self._changes, self._work, journal, self._disk, self._wanted.__contains__, crashed)
            )
        for number, image in self._systems:
            self._check(number, image)
        assert self._cuts > 150
        assert len(self._systems) >= CHECKED // 2
        return f"{self._kept}: {self._cuts} cuts, {len(self._systems)} file systems, {self._files} files"

    async def _look(self, number: int, left: Cut) -> None:
        """Open what the crash left: it must be a prefix; some are kept, to be looked at as file systems."""
        self._cuts += 1
        place = self._place / f"after-{number}" if self._kept == "journal" else None
        device, seen = await reopened(left, place)
        await let_go(device)
        last = prefix(self._work, left, seen, flushed=self._kept != "lost")
        made = [at for at, word in self._work.marks if word == "made"]
        if number in self._checked and made and last >= made[0]:
            image = self._place / f"image-{number}"
            image.write_bytes(seen)
            self._systems.append((last, image))

    def _check(self, last: int, image: Path) -> None:
        """Nothing but its own journal may be needed to make it whole, and what was synced must be there."""
        tool("e2fsck", "-E", "journal_only", "-y", str(image))
        tool("e2fsck", "-fn", str(image))
        files = image.with_suffix(".files")
        files.mkdir()
        tool("debugfs", "-R", f"rdump / {files}", str(image))
        for name, digest in durable(self._work.marks, last).items():
            assert hashlib.sha256((files / name).read_bytes()).hexdigest() == digest, (image.name, name)
            self._files += 1


def durable(marks: list[tuple[int, str]], last: int) -> dict[str, str]:
    """Return the files that must be there once the write of this number has arrived."""
    found = {}
    for at, word in marks:
        match word.split():
            case "kept", name, digest if at <= last:
                found[name] = digest
            case "leaves", name if at < last:
                found.pop(name, None)
    return found


def tool(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout
